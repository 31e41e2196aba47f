package publish

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/sealed"
	"pinnace.dev/pinnace/pkg/target"
)

// A builder that remembers nothing keeps the ciphertexts of unchanged secrets: it reads them back from what it
// published.
func TestSealedValuesKeepTheirCiphertext(t *testing.T) {
	file, recipient, err := sealed.GenerateIdentity()
	if err != nil {
		t.Fatal(err)
	}
	with, err := sealed.ParseIdentities(file)
	if err != nil {
		t.Fatal(err)
	}
	fleet := func(password, other string) map[string]string {
		return map[string]string{
			"clusters/all.yaml": cluster("east") + fmt.Sprintf(`spec:
  recipients: [%s]
  values: {db: {password: {secret: true, value: %s}, user: shop}, other: {secret: true, value: same}, plain: %s}
`, recipient, password, other) + "---\n" + cluster("west") + "spec: {values: {db: {password: x, user: x}, other: y, plain: z}}\n",
			"bundles/a/pinnace.yaml": `apiVersion: pinnace.dev/v1alpha1
kind: Bundle
metadata: {name: a}
spec:
  namespace: shop
  variables:
    PASSWORD: ${ .cluster.values.db.password }
    URL: postgres://${ .cluster.values.db.user }:${ .cluster.values.db.password }@db
    PLAIN: ${ .cluster.values.plain }
`,
			"bundles/b/pinnace.yaml": `apiVersion: pinnace.dev/v1alpha1
kind: Bundle
metadata: {name: b}
spec: {variables: {OTHER: "${ .cluster.values.other }"}}
`,
		}
	}
	registry, signer := oci.NewMemory(), releaseSigner(t)
	publishAs := func(password, other string, key string) v1alpha1.Target {
		t.Helper()
		opts := options(t, write(t, t.TempDir(), fleet(password, other)), signer) // another machine each time
		opts.SealKey = []byte(key)
		mustRun(t, registry, opts)
		got, err := seen(t, registry, signer, "east")
		if err != nil {
			t.Fatal(err)
		}
		text, _ := json.Marshal(got)
		if strings.Contains(string(text), "hunter") || strings.Contains(string(text), "same") {
			t.Errorf("the target holds a secret: %s", text)
		}
		return got
	}

	first := publishAs("hunter2", "1", "key")
	if diff := cmp.Diff(map[string]string{"PASSWORD": "sealed", "URL": "sealed", "PLAIN": "1"}, first.Bundles[0].Variables); diff != "" {
		t.Errorf("variables (-want +got):\n%s", diff)
	}
	values, err := sealed.Open(with, sealed.Binding{Cluster: "east", Namespace: "shop", Name: "a"}, first.Bundles[0].Sealed[0].Data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"/variables/PASSWORD", "/variables/URL"}, first.Bundles[0].Sealed[0].Paths); diff != "" {
		t.Errorf("paths (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]any{"hunter2", "postgres://shop:hunter2@db"}, values); diff != "" {
		t.Errorf("opened (-want +got):\n%s", diff)
	}

	if again := publishAs("hunter2", "1", "key"); again.Generation != first.Generation {
		t.Errorf("nothing changed, and the target went from generation %d to %d", first.Generation, again.Generation)
	}
	changed := publishAs("hunter2", "2", "key")
	if changed.Generation != first.Generation+1 {
		t.Fatalf("generation %d, want %d", changed.Generation, first.Generation+1)
	}
	if diff := cmp.Diff(first.Bundles[0].Sealed, changed.Bundles[0].Sealed); diff != "" {
		t.Errorf("a plain value changed, and so did the ciphertext (-before +after):\n%s", diff)
	}
	secret := publishAs("hunter3", "2", "key")
	if cmp.Equal(changed.Bundles[0].Sealed, secret.Bundles[0].Sealed) {
		t.Error("another secret has the same ciphertext")
	}
	if diff := cmp.Diff(changed.Bundles[1].Sealed, secret.Bundles[1].Sealed); diff != "" {
		t.Errorf("another bundle's secret changed its ciphertext (-before +after):\n%s", diff)
	}
	if other := publishAs("hunter3", "2", "another key"); other.Generation != secret.Generation+1 {
		t.Errorf("with another key nothing can be compared: generation %d, want %d", other.Generation, secret.Generation+1)
	}
}

func TestSecretsThatCannotBeSealed(t *testing.T) {
	_, recipient, err := sealed.GenerateIdentity()
	if err != nil {
		t.Fatal(err)
	}
	bundle := func(spec string) string {
		return "apiVersion: pinnace.dev/v1alpha1\nkind: Bundle\nmetadata: {name: a}\nspec:\n" + spec
	}
	for _, test := range []struct {
		name, clusters, bundle string
		key                    string
		want                   []string
	}{
		{
			name:     "no recipients",
			clusters: cluster("east") + "spec:\n  values:\n    password: {secret: true, value: hunter2}\n",
			bundle:   bundle("  variables: {P: '${ .cluster.values.password }'}\n"), key: "key",
			want: []string{"clusters/all.yaml:6", `bundle "a" on cluster "east"`, "no spec.recipients", "pinnace keys generate --age"},
		},
		{
			name: "no key", clusters: cluster("east") + "spec:\n  recipients: [" + recipient + "]\n  values: {password: {secret: true, value: hunter2}}\n",
			bundle: bundle("  variables: {P: '${ .cluster.values.password }'}\n"),
			want:   []string{"--seal-key"},
		},
		{
			name: "no recipient at all", clusters: cluster("east") + "spec:\n  recipients: [age1x]\n  values: {password: {secret: true, value: hunter2}}\n",
			bundle: bundle("  variables: {P: '${ .cluster.values.password }'}\n"), key: "key",
			want: []string{"clusters/all.yaml:5", `recipient "age1x" is no age public key`},
		},
		{
			name: "a function that fails", clusters: cluster("east") + "spec:\n  recipients: [" + recipient + "]\n  values: {password: {secret: true, value: hunter2}}\n",
			bundle: bundle("  variables: {P: '${ printf \"%s\" .cluster.values.password | fail }'}\n"), key: "key",
			want: []string{"bundles/a/pinnace.yaml:5", "fails with a secret value"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := write(t, t.TempDir(), map[string]string{"clusters/all.yaml": test.clusters, "bundles/a/pinnace.yaml": test.bundle})
			opts := options(t, dir, releaseSigner(t))
			opts.SealKey = []byte(test.key)
			_, err := run(t, oci.NewMemory(), opts)
			if err == nil {
				t.Fatal("it was published")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %v\nwant %q", err, want)
				}
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error shows the secret: %v", err)
			}
		})
	}
}

// Who compares has no key, and must not see every secret as changed.
func TestKeepSealed(t *testing.T) {
	bundle := func(id string, data string, path string) v1alpha1.Target {
		return v1alpha1.Target{Bundles: []v1alpha1.TargetBundle{{
			Name: "a", Sealed: []v1alpha1.SealedValues{{Paths: []string{path}, ID: id, Data: []byte(data)}},
		}}}
	}
	before, next, moved := bundle("id", "data", "/variables/P"), bundle("", "", "/variables/P"), bundle("", "", "/variables/Q")
	target.KeepSealed(&next, &before)
	if diff := cmp.Diff(before, next); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	target.KeepSealed(&moved, &before)
	if cmp.Equal(before, moved) {
		t.Error("a secret at another place counts as the same")
	}
}
