package target

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// Artifact is what was built for a variant of a bundle.
type Artifact struct {
	Digest      string
	LayerDigest string
	Method      v1alpha1.Method
}

// DefaultValidity is how long a target stays fresh when the fleet doesn't say.
const DefaultValidity = 720 * time.Hour

// Assemble makes a cluster's target, without generation and times. artifact returns what was built for an assignment.
func (f *Fleet) Assemble(plan ClusterPlan, artifact func(Assignment) Artifact) v1alpha1.Target {
	target := v1alpha1.Target{
		TypeMeta: v1alpha1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.KindTarget},
		Fleet:    f.Name,
		Cluster:  plan.Cluster.Metadata.Name,
		Interval: f.Spec.Defaults.Interval,
		Bundles:  []v1alpha1.TargetBundle{},
	}
	for _, assignment := range plan.Selected() {
		target.Bundles = append(target.Bundles, f.bundle(assignment, artifact(assignment)))
	}
	return target
}

func (f *Fleet) bundle(a Assignment, artifact Artifact) v1alpha1.TargetBundle {
	spec := a.Bundle.Spec
	out := v1alpha1.TargetBundle{
		Name:          a.Bundle.Metadata.Name,
		Labels:        a.Bundle.Metadata.Labels,
		Repository:    v1alpha1.BundleRepository(a.Bundle.Metadata.Name),
		Digest:        artifact.Digest,
		LayerDigest:   artifact.LayerDigest,
		Method:        artifact.Method,
		Namespace:     a.Namespace,
		Source:        a.Bundle.Source,
		Variables:     a.Variables,
		DependsOn:     a.DependsOn,
		Restrict:      a.Bundle.Restrict,
		DeployOptions: spec.DeployOptions,
	}
	if out.Namespace == "" {
		out.Namespace = metav1.NamespaceDefault
	}
	if out.Drift.Mode == "" {
		out.Drift.Mode = f.Spec.Defaults.Drift.Mode
	}
	out.Drift.Ignore = slices.Concat(f.Spec.Defaults.Drift.Ignore, out.Drift.Ignore)
	if a.Bundle.Restrict != nil && a.Bundle.Restrict.ServiceAccount != "" && out.ServiceAccount == "" {
		out.ServiceAccount = a.Bundle.Restrict.ServiceAccount
	}
	if artifact.Method == v1alpha1.MethodRelease {
		release := &v1alpha1.TargetRelease{Name: a.Bundle.Metadata.Name, Values: a.Values}
		if spec.Helm != nil {
			release.HelmOptions = spec.Helm.HelmOptions
			if spec.Helm.ReleaseName != "" {
				release.Name = spec.Helm.ReleaseName
			}
		}
		out.Release = release
		out.Variables = nil
	}
	return out
}

// Content returns the hash of a target without its generation and times: equal content need not be published again.
func Content(target v1alpha1.Target) string {
	target.Generation, target.IssuedAt, target.ExpiresAt, target.AllowPrune = 0, metav1.Time{}, metav1.Time{}, false
	data, err := json.Marshal(target)
	if err != nil {
		panic(err) // values are JSON types only
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// Action is what a publish does with a target or a bundle: a closed set.
type Action string

const (
	Created   Action = "created"
	Changed   Action = "changed"
	Renewed   Action = "renewed" // same content, issued again before it expires
	Unchanged Action = "unchanged"
	Refused   Action = "refused"
)

// Options of [Issue].
type Options struct {
	Now time.Time
	// Validity is [DefaultValidity] when zero.
	Validity time.Duration
	// AllowPrune permits removing more than half of what a cluster runs.
	AllowPrune bool
}

// Issue decides whether a target is published, compared with what the cluster was given before (the zero value when
// nothing was), and sets its generation and times. The reason speaks to people.
func Issue(target v1alpha1.Target, previous v1alpha1.IndexCluster, opts Options) (v1alpha1.Target, Action, string) {
	validity := opts.Validity
	if validity <= 0 {
		validity = DefaultValidity
	}
	target.Generation = previous.Generation + 1
	target.IssuedAt = metav1.NewTime(opts.Now.UTC().Truncate(time.Second))
	target.ExpiresAt = metav1.NewTime(target.IssuedAt.Add(validity))

	switch {
	case previous.Generation == 0:
		return target, Created, fmt.Sprintf("%d bundles", len(target.Bundles))
	case previous.Content == Content(target):
		if left := previous.ExpiresAt.Sub(opts.Now); left < validity/2 {
			return target, Renewed, fmt.Sprintf("expires in %s", left.Round(time.Minute))
		}
		return target, Unchanged, ""
	}
	var now []string
	for _, bundle := range target.Bundles {
		now = append(now, bundle.Name)
	}
	removed := slices.DeleteFunc(slices.Clone(previous.Bundles), func(name string) bool { return slices.Contains(now, name) })
	if Excessive(len(removed), len(previous.Bundles)) {
		if !opts.AllowPrune {
			return target, Refused, fmt.Sprintf("would remove %d of %d bundles (%s); pass --allow-prune if that is meant",
				len(removed), len(previous.Bundles), names(removed, func(s string) string { return s }))
		}
		target.AllowPrune = true
	}
	return target, Changed, describeChange(previous.Bundles, now)
}

// Excessive reports whether removing that many of all is more than half: too much to happen by mistake.
func Excessive(removed, all int) bool { return removed*2 > all }

func describeChange(before, after []string) string {
	var parts []string
	for _, name := range after {
		if !slices.Contains(before, name) {
			parts = append(parts, "+"+name)
		}
	}
	for _, name := range before {
		if !slices.Contains(after, name) {
			parts = append(parts, "-"+name)
		}
	}
	if len(parts) > maxNames {
		parts = append(parts[:maxNames], fmt.Sprintf("and %d more", len(parts)-maxNames))
	}
	return strings.Join(parts, " ")
}
