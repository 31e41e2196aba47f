// Package chartref reads where a Helm chart is that is not in its bundle's source, and which of its versions are meant.
//
// [Parse] takes what a bundle says, [Reference.Highest] chooses among versions. Nothing is asked of anybody.
package chartref

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"strings"

	"github.com/Masterminds/semver/v3"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// OCIScheme begins repositories in OCI registries.
const OCIScheme = "oci://"

// Reference names a chart outside of the source.
type Reference struct {
	// Repository is oci://host/path or the URL of a chart repository; empty when Name is the URL of a packed chart.
	Repository string
	Name       string
	// Version is one version, a range, or empty for the highest.
	Version   string
	PlainHTTP bool
}

// Parse reports whether a bundle's chart is outside of its source, and returns its reference. The error says what is
// wrong with it.
func Parse(helm v1alpha1.Helm) (ref Reference, remote bool, err error) {
	ref = Reference{Repository: strings.TrimSuffix(helm.Repository, "/"), Name: helm.Chart, Version: helm.Version, PlainHTTP: helm.PlainHTTP}
	if ref.Repository == "" {
		switch {
		case strings.HasPrefix(ref.Name, OCIScheme):
			dir, name := path.Split(strings.TrimPrefix(ref.Name, OCIScheme))
			ref.Repository, ref.Name = OCIScheme+strings.TrimSuffix(dir, "/"), name
		case strings.HasPrefix(ref.Name, "https://"), strings.HasPrefix(ref.Name, "http://"):
		default:
			return ref, false, nil
		}
	}
	return ref, true, ref.Check()
}

// Check says what is wrong with a reference.
func (r Reference) Check() error {
	location := r.Repository
	if location == "" {
		location = r.Name
	}
	parsed, err := url.Parse(location)
	if err != nil {
		return errors.New("the repository is no URL; write https://… or oci://…")
	}
	switch {
	case parsed.User != nil:
		return errors.New("the repository's URL holds credentials; put them into ~/.netrc or use helm repo add, and remove them from the file")
	case parsed.Scheme != "https" && parsed.Scheme != "http" && parsed.Scheme != "oci":
		return fmt.Errorf("the repository %q is neither https:// nor oci://", location)
	case parsed.Host == "":
		return fmt.Errorf("the repository %q names no host", location)
	case r.Repository != "" && (r.Name == "" || strings.ContainsAny(r.Name, "/:@ ")):
		return fmt.Errorf("%q is no name of a chart in %s", r.Name, r.Repository)
	case r.Repository == "" && r.Version != "":
		return errors.New("version is for charts of repositories; a packed chart's URL names one version")
	}
	if r.Version != "" {
		if _, err := semver.NewConstraint(r.Version); err != nil && !r.Exact() {
			return fmt.Errorf("version %q is neither a version nor a range: %w", r.Version, err)
		}
	}
	return nil
}

// Exact reports whether the version is one, and no range: it is not supposed to mean another chart some day.
func (r Reference) Exact() bool {
	_, err := semver.StrictNewVersion(strings.TrimPrefix(r.Version, "v"))
	return err == nil
}

// String is what the reference is recorded under.
func (r Reference) String() string {
	location := r.Name
	if r.Repository != "" {
		location = r.Repository + "/" + r.Name
	}
	if r.Version != "" {
		location += "@" + r.Version
	}
	return location
}

// Highest returns the index of the version to take among many; -1 when none is within the range.
func (r Reference) Highest(versions []string) (int, error) {
	if r.Exact() {
		for i, version := range versions {
			if version == r.Version {
				return i, nil
			}
		}
	}
	within := r.Version
	if within == "" {
		within = "*"
	}
	constraint, err := semver.NewConstraint(within)
	if err != nil {
		return -1, fmt.Errorf("version %q: %w", r.Version, err)
	}
	best, at := (*semver.Version)(nil), -1
	for i, text := range versions {
		version, err := semver.NewVersion(text)
		if err == nil && constraint.Check(version) && (best == nil || version.GreaterThan(best)) {
			best, at = version, i
		}
	}
	return at, nil
}
