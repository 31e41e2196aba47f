package target

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// varied is a fleet in which clusters differ by everything that may make them differ.
func varied() Fleet {
	fleet := Fleet{Name: "acme", Groups: []Group{group("canary", "ring", "canary"), group("rest", "ring", "rest")}}
	for i := range 24 {
		ring := "rest"
		if i%5 == 0 {
			ring = "canary"
		}
		fleet.Clusters = append(fleet.Clusters, cluster(fmt.Sprintf("c-%02d", i),
			v1alpha1.Values{"site": map[string]any{"id": fmt.Sprint(i), "uplink": int64(i)}, "ü": "ö"},
			fmt.Sprintf("region=r%d", i%3), "ring="+ring))
	}
	for i := range 12 {
		spec := v1alpha1.BundleSpec{
			Variables: map[string]string{"SITE": "${ .cluster.values.site.id }", "B": "b", "A": "a"},
			Overrides: []v1alpha1.Override{
				{When: v1alpha1.TargetRule{ClusterGroup: "canary"}, Namespace: "canary", Variables: map[string]string{"B": "canary"}},
				{When: v1alpha1.TargetRule{ClusterSelector: selector("region", "r1")}, Values: v1alpha1.Values{"x": map[string]any{"y": int64(i)}}},
				{When: v1alpha1.TargetRule{Expression: "cluster.values.site.uplink > 20"}, Skip: i%4 == 0},
			},
		}
		if i%2 == 0 {
			spec.Variables = nil
			spec.Helm = &v1alpha1.Helm{Install: v1alpha1.InstallRelease, Values: v1alpha1.Values{
				"b": int64(1), "a": map[string]any{"site": "${ .cluster.values.site }", "list": []any{"${ .cluster.name }", int64(2)}},
			}}
		}
		if i > 0 {
			spec.DependsOn = []v1alpha1.Dependency{{Selector: selector("layer", "base")}}
		}
		b := bundle(fmt.Sprintf("b-%02d", i), spec)
		if i%3 == 0 {
			b.Metadata.Labels = map[string]string{"layer": "base"}
			b.Spec.DependsOn = nil
		}
		fleet.Bundles = append(fleet.Bundles, b)
	}
	return fleet
}

func byMethod(a Assignment) Artifact {
	artifact := Artifact{Digest: "sha256:" + a.Variant, LayerDigest: "sha256:layer", Method: v1alpha1.MethodApply}
	if a.Bundle.Spec.Helm != nil {
		artifact.Method = v1alpha1.MethodRelease
	}
	return artifact
}

// allContents plans a fleet and hashes every target: twice, in both ways.
func allContents(t *testing.T, fleet Fleet) map[string]string {
	t.Helper()
	checked, plans := plan(t, fleet)
	out := map[string]string{}
	for _, p := range plans {
		next := checked.Assemble(p, byMethod)
		if fast, slow := checked.Sketch(p, next), NewSketch(next); fast != slow {
			t.Errorf("%s: sketches differ: %x and %x", next.Cluster, fast, slow)
		}
		out[next.Cluster] = Content(next)
		if decision := Decide(out[next.Cluster], BundleNames(next), v1alpha1.IndexCluster{}, Options{}); Content(decision.Issue(next)) != out[next.Cluster] {
			t.Errorf("%s: its generation or times changed its content", next.Cluster)
		}
	}
	return out
}

// The order of clusters, bundles, groups and keys never changes what a cluster gets.
func TestOrderChangesNothing(t *testing.T) {
	want := allContents(t, varied())
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 1))
		fleet := varied()
		for _, swap := range []struct {
			n    int
			swap func(i, j int)
		}{
			{len(fleet.Clusters), func(i, j int) { fleet.Clusters[i], fleet.Clusters[j] = fleet.Clusters[j], fleet.Clusters[i] }},
			{len(fleet.Bundles), func(i, j int) { fleet.Bundles[i], fleet.Bundles[j] = fleet.Bundles[j], fleet.Bundles[i] }},
			{len(fleet.Groups), func(i, j int) { fleet.Groups[i], fleet.Groups[j] = fleet.Groups[j], fleet.Groups[i] }},
		} {
			random.Shuffle(swap.n, swap.swap)
		}
		for i := range fleet.Clusters {
			fleet.Clusters[i].Spec.Values = rekeyed(t, random, fleet.Clusters[i].Spec.Values)
		}
		for i := range fleet.Bundles {
			if helm := fleet.Bundles[i].Spec.Helm; helm != nil {
				helm.Values = rekeyed(t, random, helm.Values)
			}
		}
		if diff := cmp.Diff(want, allContents(t, fleet)); diff != "" {
			t.Fatalf("seed %d (-want +got):\n%s", seed, diff)
		}
	}
}

// rekeyed is the same data, read from a text with its keys in another order.
func rekeyed(t *testing.T, random *rand.Rand, values v1alpha1.Values) v1alpha1.Values {
	t.Helper()
	var text func(value any) string
	text = func(value any) string {
		if fields, is := value.(map[string]any); is {
			var parts []string
			for key, field := range fields {
				parts = append(parts, fmt.Sprintf("%q:%s", key, text(field)))
			}
			slices.Sort(parts)
			random.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
			return "{" + strings.Join(parts, ",") + "}"
		}
		data, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	decoder := json.NewDecoder(strings.NewReader(text(map[string]any(values))))
	decoder.UseNumber()
	var out map[string]any
	if err := decoder.Decode(&out); err != nil {
		t.Fatal(err)
	}
	return whole(out).(map[string]any)
}

// whole makes int64 of numbers again, as documents are decoded.
func whole(value any) any {
	switch value := value.(type) {
	case map[string]any:
		for key := range value {
			value[key] = whole(value[key])
		}
	case []any:
		for i := range value {
			value[i] = whole(value[i])
		}
	case json.Number:
		number, err := value.Int64()
		if err != nil {
			panic(err) // there are none
		}
		return number
	}
	return value
}

// Everything that a cluster gets is in its content.
func TestContentCoversEverything(t *testing.T) {
	base := v1alpha1.Target{Fleet: "acme", Cluster: "c", Bundles: []v1alpha1.TargetBundle{{
		Name: "a", Digest: "sha256:1", Release: &v1alpha1.TargetRelease{Name: "a", Values: v1alpha1.Values{"x": "1"}}, Variables: map[string]string{"V": "1"},
	}}}
	change := func(do func(*v1alpha1.Target)) string {
		data, err := json.Marshal(base)
		if err != nil {
			t.Fatal(err)
		}
		var out v1alpha1.Target
		if err := json.Unmarshal(data, &out); err != nil {
			t.Fatal(err)
		}
		do(&out)
		return Content(out)
	}
	same := change(func(*v1alpha1.Target) {})
	for name, do := range map[string]func(*v1alpha1.Target){
		"cluster":   func(t *v1alpha1.Target) { t.Cluster = "d" },
		"digest":    func(t *v1alpha1.Target) { t.Bundles[0].Digest = "sha256:2" },
		"layer":     func(t *v1alpha1.Target) { t.Bundles[0].LayerDigest = "sha256:2" },
		"values":    func(t *v1alpha1.Target) { t.Bundles[0].Release.Values["x"] = "2" },
		"release":   func(t *v1alpha1.Target) { t.Bundles[0].Release.Name = "b" },
		"variables": func(t *v1alpha1.Target) { t.Bundles[0].Variables["V"] = "2" },
		"sealed":    func(t *v1alpha1.Target) { t.Bundles[0].Sealed = []v1alpha1.SealedValues{{ID: "1"}} },
		"namespace": func(t *v1alpha1.Target) { t.Bundles[0].Namespace = "n" },
		"a bundle":  func(t *v1alpha1.Target) { t.Bundles = append(t.Bundles, v1alpha1.TargetBundle{Name: "b"}) },
	} {
		if change(do) == same {
			t.Errorf("another %s is the same content", name)
		}
	}
	if change(func(t *v1alpha1.Target) { t.Generation, t.AllowPrune = 7, true }) != same {
		t.Error("another generation is another content")
	}
}

// Templates give the same each time, change nothing that others see, and stay small.
func TestTemplateFunctions(t *testing.T) {
	values := v1alpha1.Values{"site": map[string]any{"id": "1"}}
	for text, want := range map[string]string{
		`${ merge .cluster.values (dict "x" 1) | toJson }`:           `{"site":{"id":"1"},"x":1}`,
		`${ mustMergeOverwrite .cluster.values.site (dict "id" 2) }`: "map[id:2]",
		`${ until 3 | join "," }`:                                    "0,1,2",
		`${ repeat 3 "ab" }`:                                         "ababab",
		`${ until 1000000000 }`:                                      "is more than the 10000",
		`${ untilStep 0 1000000000 1 }`:                              "is more than the 10000",
		`${ repeat 1000000000 "ab" }`:                                "is more than the 10000",
		`${ indent 1000000000 "ab" }`:                                "is more than the 10000",
		`${ set .cluster.values "x" 1 }`:                             `function "set" not defined`,
		`${ now }`:                                                   `function "now" not defined`,
		`${ env "HOME" }`:                                            `function "env" not defined`,
		`${ bcrypt "x" }`:                                            `function "bcrypt" not defined`,
		`${ genCA "x" 1 }`:                                           `function "genCA" not defined`,
		`${ getHostByName "x" }`:                                     `function "getHostByName" not defined`,
	} {
		c := cluster("c", values)
		fleet := &Fleet{templates: &templates{}}
		fleet.matchers = newMatchers(fleet)
		var got string
		compiled, err := fleet.templates.compile(text, "spec")
		if err == nil {
			var value any
			if value, err = compiled.expand(fleet.view(&c)); err == nil {
				got = fmt.Sprint(value)
			}
		}
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, want) {
			t.Errorf("%s: got %s, want %s", text, got, want)
		}
		if diff := cmp.Diff(v1alpha1.Values{"site": map[string]any{"id": "1"}}, c.Spec.Values); diff != "" {
			t.Fatalf("%s changed what all bundles see (-want +got):\n%s", text, diff)
		}
	}
}

func FuzzTemplate(f *testing.F) {
	for _, seed := range []string{
		"${ .cluster.name }", "a ${ .cluster.values.site.id | default \"x\" } b", "${ repeat 100000000 \"x\" }", "${", "}${ }", "${ range $i := until 1000000000 }x${ end }",
		"${ .cluster.values | toJson }", "${ define \"a\" }${ template \"a\" }${ end }${ template \"a\" }", "${ pinnace_value $ 1 }", "${ printf \"%1000000000d\" 1 }",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		parsed := &templates{}
		compiled, err := parsed.compile(map[string]any{"a": text, "b": yamlText{Text: text}}, "spec")
		if err != nil {
			return
		}
		c := cluster("c", v1alpha1.Values{"site": map[string]any{"id": "1"}})
		fleet := &Fleet{templates: parsed}
		fleet.matchers = newMatchers(fleet)
		value, err := compiled.expand(fleet.view(&c))
		if err != nil {
			return
		}
		if _, err := json.Marshal(value); err != nil {
			t.Errorf("%q gives what JSON cannot say: %v", text, err)
		}
	})
}

func FuzzExpression(f *testing.F) {
	for _, seed := range []string{"true", "cluster.name == 'c'", "reported.nodes > 1", "[1].map(x, x)", "cluster.labels.all(l, l in cluster.labels)", "1/0 == 1", "'a'.matches('(a+)+$')"} {
		f.Add(seed)
	}
	f.Fuzz(func(_ *testing.T, text string) {
		compiled, err := newExpression(text)
		if err != nil {
			return
		}
		c := cluster("c", nil, "a=b")
		compiled.match(&view{cluster: &c, data: templateData(&c)})
	})
}
