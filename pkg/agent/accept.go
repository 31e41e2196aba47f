package agent

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// MaxClockSkew is how far in the future of this node's clock a target may have been issued.
const MaxClockSkew = 10 * time.Minute

// MaxGenerationStep is how many generations a target may skip. A stolen key, or a slip, that issues the greatest number
// there is would otherwise keep every later target away for good.
const MaxGenerationStep = 1_000_000

// identity is who this agent is: signed content must name it.
type identity struct {
	fleet, cluster string
}

// accept decides whether a verified target with that digest may replace what is known. Nil accepts.
//
// The one in force stays acceptable whatever was accepted after it: a newer one is remembered before its bundles are
// fetched, and while one of them is missing the one before is what runs.
func accept(target *v1alpha1.Target, digest string, known Known, self identity, inForce string, now time.Time) *Error {
	subject := fmt.Sprintf("target generation %d (%s)", target.Generation, digest)
	refuse := func(reason Reason, mend, format string, args ...any) *Error {
		return &Error{Stage: StageAccept, Subject: subject, Reason: reason, Mend: mend, Err: fmt.Errorf(format, args...)}
	}
	switch {
	case target.Fleet != self.fleet:
		return refuse(ReasonWrongFleet, "set spec.fleet in the agent's configuration, or point its registry at the right fleet",
			"it is for fleet %q, this agent belongs to %q", target.Fleet, self.fleet)
	case target.Cluster != self.cluster:
		return refuse(ReasonWrongCluster, "set spec.cluster in the agent's configuration, or find out who copied the target",
			"it is for cluster %q, this is %q", target.Cluster, self.cluster)
	case target.Generation < 1:
		return refuse(ReasonInvalidTarget, "publish again", "generations start at 1")
	case digest == inForce && inForce != "":
		return nil
	case target.Generation < known.Generation:
		return refuse(ReasonRollback, "publish again: a deliberate return is a new generation",
			"generation %d was accepted already", known.Generation)
	case target.Generation == known.Generation && known.Digest != "" && digest != known.Digest:
		return refuse(ReasonEquivocation, "publish again, and find out who else publishes",
			"generation %d was accepted before with digest %s", known.Generation, known.Digest)
	case target.Generation > known.Generation+MaxGenerationStep:
		return refuse(ReasonInvalidTarget, "find out who published it: publish counts by one",
			"it skips more than %d generations: %d was accepted last", MaxGenerationStep, known.Generation)
	case digest == known.Digest:
		return nil // it was accepted before: an expired one stays in force
	case target.IssuedAt.IsZero() || target.ExpiresAt.IsZero():
		return refuse(ReasonInvalidTarget, "publish again", "issuedAt and expiresAt must be set")
	case target.IssuedAt.After(now.Add(MaxClockSkew)):
		return refuse(ReasonClockSkew, "set this node's clock, or the publisher's",
			"it was issued at %s, which is in the future here: it is %s", stamp(target.IssuedAt.Time), stamp(now))
	case expired(target, known, now):
		return refuse(ReasonTargetExpired, "publish again", "it expired at %s", stamp(target.ExpiresAt.Time))
	}
	return nil
}

// expired reports whether a target is past its time; a clock that was set back counts as the newest time ever signed.
func expired(target *v1alpha1.Target, known Known, now time.Time) bool {
	if known.Latest.After(now) {
		now = known.Latest
	}
	return !now.Before(target.ExpiresAt.Time)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// Bounds of a target, which may be signed with a stolen key.
const (
	// MaxBundles stops targets that name bundles without end.
	MaxBundles = 10_000
	// maxNameSize stops names that no object can have, and that no file of the state folder can.
	maxNameSize = 63
)

var (
	namePattern       = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)
	repositoryPattern = regexp.MustCompile(`^[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*$`)
)

// validate checks what a target says of its bundles before anything of it is used.
func validate(target *v1alpha1.Target) *Error {
	var problems []error
	seen := make(map[string]bool, len(target.Bundles))
	if len(target.Bundles) > MaxBundles {
		problems = append(problems, fmt.Errorf("%d bundles, at most %d are allowed", len(target.Bundles), MaxBundles))
	}
	for i := range target.Bundles {
		bundle := &target.Bundles[i]
		if seen[bundle.Name] {
			problems = append(problems, fmt.Errorf("bundle %q is named twice", bundle.Name))
		}
		seen[bundle.Name] = true
		if err := validateBundle(bundle); err != nil {
			problems = append(problems, fmt.Errorf("bundle %q: %w", bundle.Name, err))
		}
	}
	if len(problems) == 0 {
		problems = append(problems, checkDependencies(target.Bundles), checkRollouts(target))
	}
	if err := errors.Join(problems...); err != nil {
		return &Error{
			Stage: StageAccept, Subject: fmt.Sprintf("target generation %d", target.Generation),
			Reason: ReasonInvalidTarget, Mend: "publish again with a pinnace of the agent's version", Err: oneLine(err),
		}
	}
	return nil
}

func validateBundle(bundle *v1alpha1.TargetBundle) error {
	if len(bundle.Name) > maxNameSize || !namePattern.MatchString(bundle.Name) {
		return errors.New("the name is not a DNS label")
	}
	if !repositoryPattern.MatchString(bundle.Repository) {
		return fmt.Errorf("repository %q is not a repository's name", bundle.Repository)
	}
	for _, text := range []string{bundle.Digest, bundle.LayerDigest} {
		parsed, err := digest.Parse(text)
		if err != nil {
			return fmt.Errorf("digest %q: %w", text, err)
		}
		if parsed.Algorithm() != digest.SHA256 {
			return fmt.Errorf("digest %q: only sha256 is allowed", text)
		}
	}
	switch {
	case bundle.Method == v1alpha1.MethodApply && bundle.Release == nil:
	case bundle.Method == v1alpha1.MethodRelease && bundle.Release != nil:
	default:
		return fmt.Errorf("method %q does not fit: release must be set for %q only", bundle.Method, v1alpha1.MethodRelease)
	}
	return nil
}

// checkDependencies finds dependencies that are not in the target, and cycles.
func checkDependencies(bundles []v1alpha1.TargetBundle) error {
	open := make(map[string][]string, len(bundles))
	for i := range bundles {
		open[bundles[i].Name] = bundles[i].DependsOn
	}
	for _, bundle := range bundles {
		for _, name := range bundle.DependsOn {
			if _, found := open[name]; !found {
				return fmt.Errorf("bundle %q depends on %q, which is not in the target", bundle.Name, name)
			}
		}
	}
	for {
		settled := false
		for name, dependencies := range open {
			if !slices.ContainsFunc(dependencies, func(d string) bool { _, left := open[d]; return left }) {
				delete(open, name)
				settled = true
			}
		}
		if !settled {
			break
		}
	}
	if len(open) > 0 {
		names := make([]string, 0, len(open))
		for name := range open {
			names = append(names, name)
		}
		slices.Sort(names)
		return fmt.Errorf("bundles depend on each other in a circle: %s", strings.Join(names, ", "))
	}
	return nil
}

// guardPrune refuses a target that would remove more than half of the bundles that run, or all of them. An empty or
// half-read fleet must never mean "delete everything".
func guardPrune(target *v1alpha1.Target, running []v1alpha1.TargetBundle) *Error {
	if target.AllowPrune || len(running) == 0 {
		return nil
	}
	kept := make(map[string]bool, len(target.Bundles))
	for i := range target.Bundles {
		kept[target.Bundles[i].Name] = true
	}
	var leaving []string
	for _, bundle := range running {
		if !kept[bundle.Name] {
			leaving = append(leaving, bundle.Name)
		}
	}
	if 2*len(leaving) <= len(running) {
		return nil
	}
	return &Error{
		Stage: StageAccept, Subject: fmt.Sprintf("target generation %d", target.Generation), Reason: ReasonPruneGuard,
		Mend: "if that is meant, publish with --allow-prune",
		Err:  fmt.Errorf("it would remove %d of the %d bundles that run: %s", len(leaving), len(running), few(leaving)),
	}
}

// few names the first of many.
func few(names []string) string {
	const limit = 5
	if len(names) <= limit {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:limit], ", "), len(names)-limit)
}

// oneLine turns joined errors into one line, as every error of ours is.
func oneLine(err error) error {
	return lineError{err}
}

type lineError struct{ error }

func (e lineError) Error() string {
	return strings.Join(strings.FieldsFunc(e.error.Error(), func(r rune) bool { return r == '\n' }), "; ")
}

func (e lineError) Unwrap() error { return e.error }
