package preview

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"pinnace.dev/pinnace/api/v1alpha1"
)

func bundle(digest string, values v1alpha1.Values) *v1alpha1.TargetBundle {
	return &v1alpha1.TargetBundle{
		Name: "shop", Digest: digest, LayerDigest: "layer of " + digest, Method: v1alpha1.MethodRelease, Namespace: "shop",
		Release: &v1alpha1.TargetRelease{Name: "shop", Values: values},
	}
}

func values(replicas, site any) v1alpha1.Values {
	return v1alpha1.Values{"replicas": replicas, "site": map[string]any{"id": site}}
}

// summary is a group in one line: action, clusters, whether it varied, and whose pair stands for all.
func summary(g Group) string {
	shown := ""
	if bundle := g.After; bundle != nil && bundle.Release != nil {
		shown = fmt.Sprint(bundle.Release.Values["site"])
	}
	return fmt.Sprintf("%s %s %s %v %s", g.Name(), g.Action(), strings.Join(g.Clusters, ","), g.Varied, shown)
}

func TestGroups(t *testing.T) {
	type change struct {
		cluster string
		pair    Pair
	}
	each := func(n int, pair func(i int) Pair) []change {
		var all []change
		for i := range n {
			all = append(all, change{fmt.Sprintf("c%02d", i), pair(i)})
		}
		return all
	}
	tests := []struct {
		name string
		in   []change
		want []string
	}{
		{
			"same change among values of their own",
			each(3, func(i int) Pair { return Pair{bundle("1", values(2, i)), bundle("1", values(3, i))} }),
			[]string{"shop changed c00,c01,c02 false map[id:0]"},
		},
		{
			"other values",
			[]change{
				{"a", Pair{bundle("1", values(2, "a")), bundle("1", values(3, "a"))}},
				{"b", Pair{bundle("1", values(2, "b")), bundle("1", values(5, "b"))}},
				{"c", Pair{bundle("1", values(2, "c")), bundle("1", values(5, "c"))}},
			},
			[]string{"shop changed b,c false map[id:b]", "shop changed a false map[id:a]"},
		},
		{
			"other artifacts before",
			[]change{
				{"a", Pair{bundle("1", nil), bundle("3", nil)}},
				{"b", Pair{bundle("2", nil), bundle("3", nil)}},
			},
			[]string{"shop changed a false <nil>", "shop changed b false <nil>"},
		},
		{
			"a field of each cluster's own",
			each(maxVariations+1, func(i int) Pair { return Pair{bundle("1", values(1, "x")), bundle("1", values(1, i))} }),
			[]string{"shop changed c00,c01,c02,c03,c04,c05,c06,c07,c08 true map[id:0]"},
		},
		{
			"few different values stay apart",
			each(2, func(i int) Pair { return Pair{bundle("1", values(1, "x")), bundle("1", values(1, i))} }),
			[]string{"shop changed c00 false map[id:0]", "shop changed c01 false map[id:1]"},
		},
		{
			"a new bundle", each(2, func(i int) Pair { return Pair{After: bundle("1", values(1, i))} }),
			[]string{"shop added c00,c01 true map[id:0]"},
		},
		{
			"a bundle that goes", each(2, func(int) Pair { return Pair{Before: bundle("1", nil)} }),
			[]string{"shop removed c00,c01 false "},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			// The order of clusters never matters.
			for seed := range uint64(4) {
				rand.New(rand.NewPCG(seed, 0)).Shuffle(len(test.in), func(i, j int) { test.in[i], test.in[j] = test.in[j], test.in[i] })
				var groups Groups
				for _, change := range test.in {
					groups.Add(change.cluster, change.pair)
				}
				var got []string
				for _, group := range groups.Sorted() {
					got = append(got, summary(group))
				}
				if diff := cmp.Diff(test.want, got); diff != "" {
					t.Errorf("seed %d (-want +got):\n%s", seed, diff)
				}
			}
		})
	}
}

func TestPairs(t *testing.T) {
	named := func(name, digest string) v1alpha1.TargetBundle {
		return v1alpha1.TargetBundle{Name: name, Digest: digest}
	}
	before := v1alpha1.Target{Bundles: []v1alpha1.TargetBundle{named("gone", "1"), named("same", "1"), named("web", "1")}}
	after := v1alpha1.Target{Bundles: []v1alpha1.TargetBundle{named("new", "1"), named("same", "1"), named("web", "2")}}
	var got []string
	for _, pair := range Pairs(before, after) {
		got = append(got, pair.Name()+" "+string(pair.Action()))
	}
	if diff := cmp.Diff([]string{"gone removed", "new added", "web changed"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestLooksSecret(t *testing.T) {
	for key, want := range map[string]bool{
		"password": true, "adminPassword": true, "DB_PASSWORD": true, "api-key": true, "apiToken": true, "clientSecret": true,
		"credentials": true, "privateKey": true, "tls.private-key": true, "connection_string": true, ".dockerconfigjson": true,
		"secretName": false, "secretKeyRef": false, "existingSecret": false, "passwordSecretRef": false,
		"key": false, "replicas": false, "monkey": false, "name": false, "": false,
	} {
		if got := looksSecret(key); got != want {
			t.Errorf("looksSecret(%q) = %v, want %v", key, got, want)
		}
	}
}

func decode(t *testing.T, text string) map[string]any {
	t.Helper()
	var out map[string]any
	if err := yaml.Unmarshal([]byte(text), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestOptionsMaskSecrets(t *testing.T) {
	tests := []struct{ name, before, after, want string }{
		{"changed", "{password: hunter2, replicas: 1}", "{password: hunter3, replicas: 1}", "-password: '*** (before)'\n+password: '*** (after)'\n"},
		{"unchanged", "{password: hunter2, replicas: 1}", "{password: hunter2, replicas: 2}", "-replicas: 1\n+replicas: 2\n"},
		{"new", "{a: 1}", "{a: 1, token: hunter2}", "+token: '***'\n"},
		{"gone", "{a: 1, token: hunter2}", "{a: 1}", "-token: '***'\n"},
		{"below a secret key", "{credentials: {user: hunter2}}", "{credentials: {user: hunter3}}", "-  user: '*** (before)'\n+  user: '*** (after)'\n"},
		{"number", "{tokenSeed: 1}", "{tokenSeed: 2}", "-tokenSeed: '*** (before)'\n+tokenSeed: '*** (after)'\n"},
		{"list", "{passwords: [hunter2]}", "{passwords: [hunter2, hunter3]}", "+- '***'\n"},
		{"scalar becomes a map", "{password: hunter2}", "{password: {from: hunter3}}", "-password: '***'\n+password:\n+  from: '***'\n"},
		{"map becomes a scalar", "{password: {from: hunter2}}", "{password: hunter3}", "-password:\n-  from: '***'\n+password: '***'\n"},
		{"env", "{env: [{name: DB_PASSWORD, value: hunter2}]}", "{env: [{name: DB_PASSWORD, value: hunter3}]}", "-  value: '*** (before)'\n+  value: '*** (after)'\n"},
		{"a switch is none", "{token: {enabled: false}}", "{token: {enabled: true}}", "-  enabled: false\n+  enabled: true\n"},
		{"where it is kept is none", "{existingSecret: a}", "{existingSecret: b}", "-existingSecret: a\n+existingSecret: b\n"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			pair := Pair{bundle("1", decode(t, test.before)), bundle("1", decode(t, test.after))}
			got := Options(pair, &Mask{})
			if strings.Contains(got, "hunter") {
				t.Errorf("shows a secret:\n%s", got)
			}
			// Values stand four spaces deep.
			if diff := cmp.Diff(test.want, changedLines(got, 4)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// changedLines are a difference's lines that change, less some of their indentation.
func changedLines(text string, depth int) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		if (line[0] == '-' || line[0] == '+') && len(line) > depth {
			out.WriteString(line[:1] + strings.TrimPrefix(line[1:], strings.Repeat(" ", depth)))
		}
	}
	return out.String()
}

func objects(t *testing.T, texts ...string) []*unstructured.Unstructured {
	t.Helper()
	var out []*unstructured.Unstructured
	for _, text := range texts {
		out = append(out, &unstructured.Unstructured{Object: decode(t, text)})
	}
	return out
}

func TestCompare(t *testing.T) {
	const (
		configMap = "{apiVersion: v1, kind: ConfigMap, metadata: {name: %s}, data: {%s}}"
		secret    = "{apiVersion: v1, kind: Secret, metadata: {name: s}, data: {%s}}"
		deploy    = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: d, namespace: shop}, spec: {env: [{name: %s, value: %s}]}}"
	)
	tests := []struct {
		name          string
		before, after []string
		want          []string
	}{
		{"same", []string{fmt.Sprintf(configMap, "a", "x: z")}, []string{fmt.Sprintf(configMap, "a", "x: z")}, nil},
		{
			"comes and goes",
			[]string{fmt.Sprintf(configMap, "a", "x: z")},
			[]string{fmt.Sprintf(configMap, "b", "x: z")},
			[]string{"v1 ConfigMap a removed ", "v1 ConfigMap b added +apiVersion: v1\n+data:\n+  x: z\n+kind: ConfigMap\n+metadata:\n+  name: b\n"},
		},
		{
			"another API version is the same object",
			[]string{"{apiVersion: example.com/v1beta1, kind: Thing, metadata: {name: a}}"},
			[]string{"{apiVersion: example.com/v1, kind: Thing, metadata: {name: a}}"},
			[]string{"example.com/v1 Thing a changed -apiVersion: example.com/v1beta1\n+apiVersion: example.com/v1\n"},
		},
		{
			"secret",
			[]string{fmt.Sprintf(secret, "a: aHVudGVyMg==, b: eA==")},
			[]string{fmt.Sprintf(secret, "a: aHVudGVyMw==, b: eA==")},
			[]string{"v1 Secret s changed -  a: '*** (before)'\n+  a: '*** (after)'\n"},
		},
		{
			"env",
			[]string{fmt.Sprintf(deploy, "API_TOKEN", "hunter2")},
			[]string{fmt.Sprintf(deploy, "API_TOKEN", "hunter3")},
			[]string{"apps/v1 Deployment shop/d changed -    value: '*** (before)'\n+    value: '*** (after)'\n"},
		},
		{
			"config map with a secret",
			[]string{fmt.Sprintf(configMap, "a", "DB_PASSWORD: hunter2")},
			[]string{fmt.Sprintf(configMap, "a", "DB_PASSWORD: hunter3")},
			[]string{"v1 ConfigMap a changed -  DB_PASSWORD: '*** (before)'\n+  DB_PASSWORD: '*** (after)'\n"},
		},
		{
			"plain",
			[]string{fmt.Sprintf(deploy, "LEVEL", "info")},
			[]string{fmt.Sprintf(deploy, "LEVEL", "debug")},
			[]string{"apps/v1 Deployment shop/d changed -    value: info\n+    value: debug\n"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var got []string
			for _, change := range Compare(objects(t, test.before...), objects(t, test.after...), &Mask{}) {
				got = append(got, fmt.Sprintf("%s %s %s", change, change.Action, changedLines(change.Diff, 0)))
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// A chart may put a secret value anywhere: in arguments, in a file, encoded.
func TestSecretsOfValuesAreHiddenWhereverTheyAreRendered(t *testing.T) {
	before, after := bundle("1", v1alpha1.Values{"adminPassword": "hunter22"}), bundle("1", v1alpha1.Values{"adminPassword": "hunter33"})
	var mask Mask
	Options(Pair{before, after}, &mask)
	const config = "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {url: 'https://admin:%s@db', encoded: %s}}"
	changes := Compare(objects(t, fmt.Sprintf(config, "hunter22", "aHVudGVyMjI=")), objects(t, fmt.Sprintf(config, "hunter33", "aHVudGVyMzM=")), &mask)
	if len(changes) != 1 {
		t.Fatalf("got %d changes, want 1", len(changes))
	}
	want := "-  encoded: '*** (before)'\n-  url: https://admin:*** (before)@db\n+  encoded: '*** (after)'\n+  url: https://admin:*** (after)@db\n"
	if diff := cmp.Diff(want, changedLines(changes[0].Diff, 0)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestComparingLeavesObjectsAlone(t *testing.T) {
	const text = "{apiVersion: v1, kind: Secret, metadata: {name: s, annotations: {kubectl.kubernetes.io/last-applied-configuration: hunter2}}, data: {a: %s}}"
	before, after := objects(t, fmt.Sprintf(text, "eA==")), objects(t, fmt.Sprintf(text, "eQ=="))
	changes := Compare(before, after, &Mask{})
	if len(changes) != 1 || strings.Contains(changes[0].Diff, "hunter2") {
		t.Errorf("got %v", changes)
	}
	if diff := cmp.Diff(decode(t, fmt.Sprintf(text, "eQ==")), after[0].Object); diff != "" {
		t.Errorf("changed what it compared (-want +got):\n%s", diff)
	}
}
