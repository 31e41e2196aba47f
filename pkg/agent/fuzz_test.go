package agent

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
)

// FuzzTarget decodes, checks and accepts targets: what is taken names files and repositories that stay where they belong.
func FuzzTarget(f *testing.F) {
	bundle := bundleNamed("web", "db")
	bundle.Sealed = []v1alpha1.SealedValues{{Paths: []string{"/variables/A"}, Data: []byte("x")}}
	bundle.Variables = map[string]string{"A": "sealed"}
	seed, err := json.Marshal(v1alpha1.Target{
		TypeMeta: v1alpha1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.KindTarget},
		Fleet:    "acme", Cluster: "factory-07", Generation: 5, Bundles: []v1alpha1.TargetBundle{bundle, bundleNamed("db")},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte(strings.ReplaceAll(string(seed), `"web"`, `"../../x"`)))
	f.Add([]byte(strings.ReplaceAll(string(seed), `bundles/web`, `bundles/../x`)))
	f.Fuzz(func(t *testing.T, data []byte) {
		var target v1alpha1.Target
		if oci.DecodeJSON(data, v1alpha1.KindTarget, &target, &target.TypeMeta) != nil {
			return
		}
		_ = accept(&target, "sha256:aa", Known{Generation: 4}, identity{fleet: "acme", cluster: "factory-07"}, "", time.Now())
		_ = guardPrune(&target, []v1alpha1.TargetBundle{bundleNamed("web")})
		if validate(&target) != nil {
			return
		}
		for i := range target.Bundles {
			one := &target.Bundles[i]
			if !filepath.IsLocal(one.Name) || strings.ContainsAny(one.Name, `/\:`) || strings.Contains(one.Repository, "..") {
				t.Errorf("a bundle named %q in %q was taken", one.Name, one.Repository)
			}
			if _, err := newScope(one, []v1alpha1.Limit{{Source: "*", Namespaces: []string{"apps"}}}); err == nil && one.Namespace != "apps" {
				t.Errorf("namespace %q is in scope", one.Namespace)
			}
		}
	})
}

// FuzzPut sets sealed values: what has no placeholder is never touched.
func FuzzPut(f *testing.F) {
	for _, pointer := range []string{"/variables/A", "/values/a/b", "/values/list/0", "/values/list/-1", "/serviceAccount", "/values/a~1b", "", "/", "//", "/values//"} {
		f.Add(pointer)
	}
	f.Fuzz(func(t *testing.T, pointer string) {
		bundle := bundleNamed("web")
		bundle.Variables = map[string]string{"A": "sealed"}
		bundle.Release = &v1alpha1.TargetRelease{Values: v1alpha1.Values{"a": map[string]any{"b": "sealed"}, "list": []any{"sealed"}, "a/b": "sealed"}}
		err := put(&bundle, pointer, "secret")
		text, _ := json.Marshal(bundle)
		if set := strings.Contains(string(text), "secret"); set != (err == nil) {
			t.Errorf("put(%q): %v, and it was set: %v", pointer, err, set)
		}
		if bundle.ServiceAccount != "" || bundle.Name != "web" || len(bundle.Variables) != 1 || len(bundle.Release.Values) != 3 {
			t.Errorf("put(%q) changed something else: %s", pointer, text)
		}
	})
}
