package agent

import (
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func TestAccept(t *testing.T) {
	t.Parallel()
	const digest, other = "sha256:aa", "sha256:bb"
	fresh := func(change func(*v1alpha1.Target)) *v1alpha1.Target {
		target := &v1alpha1.Target{
			Fleet: "acme", Cluster: "factory-07", Generation: 5,
			IssuedAt: metav1.NewTime(noon.Add(-time.Hour)), ExpiresAt: metav1.NewTime(noon.Add(time.Hour)),
		}
		if change != nil {
			change(target)
		}
		return target
	}
	tests := []struct {
		name    string
		target  *v1alpha1.Target
		known   Known
		now     time.Time
		want    Reason // none accepts
		inForce string
	}{
		{"first", fresh(nil), Known{}, noon, "", ""},
		{"newer", fresh(nil), Known{Generation: 4, Digest: other}, noon, "", ""},
		{"the one that is known", fresh(nil), Known{Generation: 5, Digest: digest}, noon, "", ""},
		{"the one that is known, expired", fresh(nil), Known{Generation: 5, Digest: digest}, noon.Add(2 * time.Hour), "", ""},
		{"generation known without its digest", fresh(nil), Known{Generation: 5}, noon, "", ""},
		{"other fleet", fresh(func(t *v1alpha1.Target) { t.Fleet = "x" }), Known{}, noon, ReasonWrongFleet, ""},
		{"no fleet", fresh(func(t *v1alpha1.Target) { t.Fleet = "" }), Known{}, noon, ReasonWrongFleet, ""},
		{"other cluster", fresh(func(t *v1alpha1.Target) { t.Cluster = "x" }), Known{}, noon, ReasonWrongCluster, ""},
		{"no generation", fresh(func(t *v1alpha1.Target) { t.Generation = 0 }), Known{}, noon, ReasonInvalidTarget, ""},
		{"older", fresh(nil), Known{Generation: 6, Digest: other}, noon, ReasonRollback, ""},
		{"older with a digest that is known", fresh(nil), Known{Generation: 6, Digest: digest}, noon, ReasonRollback, ""},
		{"equivocation", fresh(nil), Known{Generation: 5, Digest: other}, noon, ReasonEquivocation, ""},
		{"expired", fresh(nil), Known{Generation: 4}, noon.Add(time.Hour), ReasonTargetExpired, ""},
		{"a second before it expires", fresh(nil), Known{Generation: 4}, noon.Add(time.Hour - time.Second), "", ""},
		{"expired, but the clock was set back", fresh(nil), Known{Generation: 4, Latest: noon.Add(time.Hour)}, noon, ReasonTargetExpired, ""},
		{"never expires", fresh(func(t *v1alpha1.Target) { t.ExpiresAt = metav1.Time{} }), Known{}, noon, ReasonInvalidTarget, ""},
		{"never issued", fresh(func(t *v1alpha1.Target) { t.IssuedAt = metav1.Time{} }), Known{}, noon, ReasonInvalidTarget, ""},
		{"from the future", fresh(nil), Known{}, noon.Add(-time.Hour - MaxClockSkew - time.Second), ReasonClockSkew, ""},
		{"in force, while a newer one is incomplete", fresh(nil), Known{Generation: 6, Digest: other}, noon, "", digest},
		{"in force and expired, while a newer one is incomplete", fresh(nil), Known{Generation: 6, Digest: other}, noon.Add(2 * time.Hour), "", digest},
		{"another one is in force", fresh(nil), Known{Generation: 6, Digest: other}, noon, ReasonRollback, "sha256:cc"},
		{"in force, but of another cluster now", fresh(func(t *v1alpha1.Target) { t.Cluster = "x" }), Known{Generation: 5}, noon, ReasonWrongCluster, digest},
		{"within the skew", fresh(nil), Known{}, noon.Add(-time.Hour - MaxClockSkew), "", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got := accept(test.target, digest, test.known, identity{fleet: "acme", cluster: "factory-07"}, test.inForce, test.now)
			if reason := reasonOf(got); reason != test.want {
				t.Errorf("accept = %q (%v), want %q", reason, got, test.want)
			}
			if got != nil && got.Mend == "" {
				t.Errorf("%v: says not what mends it", got)
			}
		})
	}
}

func reasonOf(err *Error) Reason {
	if err == nil {
		return ""
	}
	return err.Reason
}

func bundleNamed(name string, dependsOn ...string) v1alpha1.TargetBundle {
	return v1alpha1.TargetBundle{
		Name: name, Repository: "bundles/" + name, Method: v1alpha1.MethodApply, Namespace: "apps", DependsOn: dependsOn,
		Digest: "sha256:" + strings.Repeat("a", 64), LayerDigest: "sha256:" + strings.Repeat("b", 64),
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	changed := func(change func(*v1alpha1.TargetBundle)) []v1alpha1.TargetBundle {
		bundle := bundleNamed("web")
		change(&bundle)
		return []v1alpha1.TargetBundle{bundle}
	}
	tests := []struct {
		name    string
		bundles []v1alpha1.TargetBundle
		want    string // part of the message; none is valid
	}{
		{"valid", []v1alpha1.TargetBundle{bundleNamed("a", "b"), bundleNamed("b")}, ""},
		{"twice", []v1alpha1.TargetBundle{bundleNamed("a"), bundleNamed("a")}, "named twice"},
		{"unknown dependency", []v1alpha1.TargetBundle{bundleNamed("a", "z")}, `depends on "z"`},
		{"depends on itself", []v1alpha1.TargetBundle{bundleNamed("a", "a")}, "circle: a"},
		{"circle", []v1alpha1.TargetBundle{bundleNamed("a", "b"), bundleNamed("b", "c"), bundleNamed("c", "b"), bundleNamed("d")}, "circle: a, b, c"},
		{"path as name", changed(func(b *v1alpha1.TargetBundle) { b.Name = "../x" }), "not a DNS label"},
		{"no name", changed(func(b *v1alpha1.TargetBundle) { b.Name = "" }), "not a DNS label"},
		{"long name", changed(func(b *v1alpha1.TargetBundle) { b.Name = strings.Repeat("x", 64) }), "not a DNS label"},
		{"path as repository", changed(func(b *v1alpha1.TargetBundle) { b.Repository = "bundles/../../x" }), "repository"},
		{"foreign host", changed(func(b *v1alpha1.TargetBundle) { b.Repository = "evil.example:80/x" }), "repository"},
		{"no digest", changed(func(b *v1alpha1.TargetBundle) { b.Digest = "" }), "digest"},
		{"tag for a digest", changed(func(b *v1alpha1.TargetBundle) { b.Digest = "latest" }), "digest"},
		{"weak layer digest", changed(func(b *v1alpha1.TargetBundle) { b.LayerDigest = "md5:aa" }), "digest"},
		{"other algorithm", changed(func(b *v1alpha1.TargetBundle) { b.Digest = "sha512:" + strings.Repeat("a", 128) }), "only sha256"},
		{"no method", changed(func(b *v1alpha1.TargetBundle) { b.Method = "" }), "method"},
		{"release without its options", changed(func(b *v1alpha1.TargetBundle) { b.Method = v1alpha1.MethodRelease }), "method"},
		{"manifests with release options", changed(func(b *v1alpha1.TargetBundle) { b.Release = &v1alpha1.TargetRelease{} }), "method"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			err := validate(&v1alpha1.Target{Bundles: test.bundles})
			switch {
			case test.want == "" && err != nil:
				t.Errorf("validate: %v, want none", err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want) || err.Reason != ReasonInvalidTarget):
				t.Errorf("validate: %v, want %q", err, test.want)
			}
		})
	}
}

func TestGuardPrune(t *testing.T) {
	t.Parallel()
	tests := []struct {
		running, wanted string
		allow           bool
		refused         bool
	}{
		{"", "", false, false},
		{"", "a", false, false},
		{"a", "a", false, false},
		{"a b", "a", false, false}, // exactly half
		{"a b c", "a b", false, false},
		{"a b c", "a", false, true},
		{"a b c", "a", true, false},
		{"a", "", false, true},
		{"a b c d", "", false, true},
		{"a b c d", "", true, false},
		{"a b c", "x y z", false, true}, // all replaced
	}
	for _, test := range tests {
		t.Run(fmt.Sprintf("%s to %s allow %v", test.running, test.wanted, test.allow), func(t *testing.T) {
			t.Parallel()
			target := &v1alpha1.Target{AllowPrune: test.allow, Bundles: bundlesNamed(test.wanted)}
			err := guardPrune(target, bundlesNamed(test.running))
			if refused := err != nil; refused != test.refused {
				t.Errorf("guardPrune: %v, want refused %v", err, test.refused)
			}
		})
	}
}

func bundlesNamed(names string) []v1alpha1.TargetBundle {
	var bundles []v1alpha1.TargetBundle
	for _, name := range strings.Fields(names) {
		bundles = append(bundles, bundleNamed(name))
	}
	return bundles
}
