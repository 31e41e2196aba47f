package target

import (
	"testing"

	"pinnace.dev/pinnace/api/v1alpha1"
)

func fingerprintedFleet(change func(*Fleet)) *Fleet {
	f := &Fleet{
		Name: "acme", SealKey: []byte("key"),
		Clusters: []Cluster{{Cluster: v1alpha1.Cluster{
			Metadata: v1alpha1.Metadata{Name: "east", Labels: map[string]string{"a": "1", "b": "2"}},
			Spec:     v1alpha1.ClusterSpec{Values: v1alpha1.Values{"n": int64(1), "list": []any{"x", true, nil}}},
		}}},
		Bundles: []Bundle{{Bundle: v1alpha1.Bundle{Metadata: v1alpha1.Metadata{Name: "web"}}, Targets: []v1alpha1.TargetRule{{}}}},
		Facts:   map[string]Facts{"east": {Nodes: 3}},
	}
	if change != nil {
		change(f)
	}
	return f
}

// Everything that a plan depends on changes a fingerprint; the order of a map's keys and where things stand don't.
func TestFingerprint(t *testing.T) {
	method := v1alpha1.MethodApply
	print := func(f *Fleet) [2]Fingerprint {
		return [2]Fingerprint{f.Fingerprint(func(string) v1alpha1.Method { return method }), f.ClusterFingerprint(0)}
	}
	want := print(fingerprintedFleet(nil))
	for name, change := range map[string]func(*Fleet){
		"nothing":  func(*Fleet) {},
		"document": func(f *Fleet) { f.Clusters[0].Document.Line, f.Bundles[0].Document.Line = 7, 7 },
		"labels again": func(f *Fleet) {
			f.Clusters[0].Metadata.Labels = map[string]string{"b": "2", "a": "1"}
		},
	} {
		if got := print(fingerprintedFleet(change)); got != want {
			t.Errorf("%s: another fingerprint", name)
		}
	}
	for name, change := range map[string]func(*Fleet){
		"value":    func(f *Fleet) { f.Clusters[0].Spec.Values["n"] = int64(2) },
		"type":     func(f *Fleet) { f.Clusters[0].Spec.Values["n"] = float64(1) },
		"text":     func(f *Fleet) { f.Clusters[0].Spec.Values["n"] = "1" },
		"item":     func(f *Fleet) { f.Clusters[0].Spec.Values["list"] = []any{"x", true} },
		"label":    func(f *Fleet) { f.Clusters[0].Metadata.Labels["a"] = "2" },
		"facts":    func(f *Fleet) { f.Facts["east"] = Facts{Nodes: 4} },
		"key":      func(f *Fleet) { f.SealKey = []byte("other") },
		"fleet":    func(f *Fleet) { f.Name = "other" },
		"defaults": func(f *Fleet) { f.Spec.Defaults.Interval.Duration = 1 },
		"kept":     func(f *Fleet) { f.Kept = map[string]bool{"db": true} },
		"group": func(f *Fleet) {
			f.Groups = []Group{{ClusterGroup: v1alpha1.ClusterGroup{Metadata: v1alpha1.Metadata{Name: "g"}}}}
		},
		"rule":      func(f *Fleet) { f.Bundles[0].Targets[0].ClusterName = "east" },
		"exclusion": func(f *Fleet) { f.Bundles[0].Exclude = []v1alpha1.TargetRule{{ClusterName: "east"}} },
		"source":    func(f *Fleet) { f.Bundles[0].Source.Path = "web" },
		"restrict":  func(f *Fleet) { f.Bundles[0].Restrict = &v1alpha1.Restrict{Namespaces: []string{"web"}} },
		"moved":     func(f *Fleet) { f.Bundles[0].Targets, f.Bundles[0].Exclude = nil, f.Bundles[0].Targets },
	} {
		if print(fingerprintedFleet(change)) == want {
			t.Errorf("%s: the same fingerprint", name)
		}
	}
	method = v1alpha1.MethodRelease
	if print(fingerprintedFleet(nil)) == want {
		t.Error("method: the same fingerprint")
	}
}
