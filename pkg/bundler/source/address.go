package source

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// address is a parsed repository URL.
type address struct {
	scheme, host string // host with port
	user, pass   string
	// url is what is dialled, without password, and for http without user.
	url string
	// identity is the same for all spellings of one repository.
	identity string
}

var (
	scpLike  = regexp.MustCompile(`^(?:([A-Za-z0-9._-]+)@)?([A-Za-z0-9][A-Za-z0-9.-]*):([^:\s][^\s]*)$`)
	fullHash = regexp.MustCompile(`^[0-9a-f]{40}$`)

	defaultPorts = map[string]string{"http": "80", "https": "443", "ssh": "22"}
)

// IsURL reports whether a location is a repository's URL and not a local folder: it has a scheme, or is git@host:path.
func IsURL(location string) bool {
	return strings.Contains(location, "://") || scpLike.MatchString(location) && strings.Contains(location, "@")
}

func parseAddress(raw string) (address, error) {
	if !strings.Contains(raw, "://") {
		match := scpLike.FindStringSubmatch(raw)
		if match == nil {
			return address{}, fmt.Errorf("git url %q: is no URL; write https://…, ssh://…, git@host:path or file://…", raw)
		}
		user := match[1]
		if user != "" {
			user += "@"
		}
		raw = "ssh://" + user + match[2] + "/" + strings.TrimPrefix(match[3], "/")
	}
	parsed, err := url.Parse(raw)
	if err != nil {
		// url.Error repeats the URL, which may hold a password.
		if cause := (*url.Error)(nil); errors.As(err, &cause) {
			err = cause.Err
		}
		return address{}, fmt.Errorf("git url: %w", err)
	}
	if strings.Contains(parsed.Hostname(), ":") && !strings.HasPrefix(parsed.Host, "[") {
		return address{}, fmt.Errorf("git url: host %q has a colon too many; write an IPv6 address as [::1]", parsed.Host)
	}
	a := address{scheme: strings.ToLower(parsed.Scheme), host: strings.ToLower(parsed.Host)}
	a.user = parsed.User.Username()
	a.pass, _ = parsed.User.Password()
	if port := parsed.Port(); port != "" && port == defaultPorts[a.scheme] {
		a.host = strings.TrimSuffix(a.host, ":"+port)
	}
	clean := strings.TrimSuffix(path.Clean("/"+parsed.Path), ".git")
	a.identity = a.scheme + "://" + a.host + clean
	switch a.scheme {
	case "https", "http", "ssh":
		if a.host == "" || clean == "/" {
			return address{}, fmt.Errorf("git url %s: names no host or no repository", a.identity)
		}
	case "file":
		if a.host != "" && a.host != "localhost" {
			return address{}, fmt.Errorf("git url %s: write file:///absolute/path", a.identity)
		}
		if clean == "/" {
			return address{}, fmt.Errorf("git url %s: names no repository; write file:///absolute/path", raw)
		}
		a.host = ""
		a.identity = "file://" + clean
	default:
		return address{}, fmt.Errorf("git url %s: the scheme %q is not supported; use https, ssh, http or file", a.identity, a.scheme)
	}
	if parsed.RawQuery != "" || parsed.Fragment != "" {
		return address{}, fmt.Errorf("git url %s: must not have a query or fragment; name a branch, tag or commit in ref", a.identity)
	}
	dial := url.URL{Scheme: a.scheme, Host: a.host, Path: parsed.Path}
	if a.scheme == "ssh" {
		if a.user == "" {
			a.user = "git"
		}
		dial.User = url.User(a.user)
	}
	a.url = dial.String()
	return a, nil
}

func checkRef(ref v1alpha1.GitRef) error {
	set := 0
	for _, value := range []string{ref.Branch, ref.Tag, ref.Semver, ref.Commit} {
		if value != "" {
			set++
		}
	}
	if set > 1 {
		return errors.New("ref names more than one of branch, tag, semver and commit; keep one")
	}
	if ref.Commit != "" && !fullHash.MatchString(ref.Commit) {
		return fmt.Errorf("ref.commit %q is not a full hash; write all 40 hexadecimal digits in lower case", ref.Commit)
	}
	if ref.Semver != "" {
		if _, err := semver.NewConstraint(ref.Semver); err != nil {
			return fmt.Errorf("ref.semver %q is no range of versions: %w", ref.Semver, err)
		}
	}
	return nil
}

// HighestVersion returns the tag with the highest version within a range, such as ">=1.4 <2"; empty when there is none.
// Tags that are no versions don't count. Of two spellings of one version the first by name is taken.
func HighestVersion(tags []string, within string) (string, error) {
	constraint, err := semver.NewConstraint(within)
	if err != nil {
		return "", fmt.Errorf("%q is no range of versions: %w", within, err)
	}
	var best *semver.Version
	for _, tag := range slices.Sorted(slices.Values(tags)) {
		version, err := semver.NewVersion(tag)
		if err == nil && constraint.Check(version) && (best == nil || version.GreaterThan(best)) {
			best = version
		}
	}
	if best == nil {
		return "", nil
	}
	return best.Original(), nil
}
