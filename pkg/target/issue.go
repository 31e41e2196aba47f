package target

import (
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
		Windows:  plan.Cluster.Spec.Windows,
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
		VariablesFrom: spec.VariablesFrom,
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
	if len(out.Windows) == 0 {
		out.Windows = f.Spec.Defaults.Windows
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
		out.Variables, out.VariablesFrom = nil, nil
	}
	f.setSecrets(a, &out)
	return out
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

// Decision says what becomes of a cluster's target.
type Decision struct {
	Action Action
	// Reason speaks to people.
	Reason string

	generation          int64
	issuedAt, expiresAt metav1.Time
	allowPrune          bool
}

// Decide compares a target, by its [Content] and the names of its bundles, with what the cluster was given before (the
// zero value when nothing was).
func Decide(content string, bundles []string, previous v1alpha1.IndexCluster, opts Options) Decision {
	validity := opts.Validity
	if validity <= 0 {
		validity = DefaultValidity
	}
	out := Decision{Action: Changed, generation: previous.Generation + 1, issuedAt: metav1.NewTime(opts.Now.UTC().Truncate(time.Second))}
	out.expiresAt = metav1.NewTime(out.issuedAt.Add(validity))
	switch {
	case previous.Generation == 0:
		out.Action, out.Reason = Created, fmt.Sprintf("%d bundles", len(bundles))
		return out
	case previous.Content == content:
		out.Action = Unchanged
		if left := previous.ExpiresAt.Sub(opts.Now); left < validity/2 {
			out.Action, out.Reason = Renewed, fmt.Sprintf("expires in %s", left.Round(time.Minute))
		}
		return out
	}
	removed := without(previous.Bundles, bundles)
	if Excessive(len(removed), len(previous.Bundles)) {
		if !opts.AllowPrune {
			out.Action = Refused
			out.Reason = fmt.Sprintf("would remove %d of %d bundles (%s); pass --allow-prune if that is meant",
				len(removed), len(previous.Bundles), names(removed, func(s string) string { return s }))
			return out
		}
		out.allowPrune = true
	}
	out.Reason = describeChange(without(bundles, previous.Bundles), removed)
	return out
}

// Issue gives the target that was decided about its generation and times.
func (d Decision) Issue(target v1alpha1.Target) v1alpha1.Target {
	target.Generation, target.IssuedAt, target.ExpiresAt, target.AllowPrune = d.generation, d.issuedAt, d.expiresAt, d.allowPrune
	return target
}

// BundleNames returns the names of a target's bundles, in its order.
func BundleNames(target v1alpha1.Target) []string {
	names := make([]string, len(target.Bundles))
	for i := range target.Bundles {
		names[i] = target.Bundles[i].Name
	}
	return names
}

// without returns the names that others doesn't have.
func without(names, others []string) []string {
	if slices.Equal(names, others) {
		return nil
	}
	known := make(map[string]bool, len(others))
	for _, name := range others {
		known[name] = true
	}
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool { return known[name] })
}

// Excessive reports whether removing that many of all is more than half: too much to happen by mistake.
func Excessive(removed, all int) bool { return removed*2 > all }

func describeChange(added, removed []string) string {
	var parts []string
	for _, name := range added {
		parts = append(parts, "+"+name)
	}
	for _, name := range removed {
		parts = append(parts, "-"+name)
	}
	if len(parts) > maxNames {
		parts = append(parts[:maxNames:maxNames], fmt.Sprintf("and %d more", len(parts)-maxNames))
	}
	return strings.Join(parts, " ")
}
