package sealed_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/getsops/sops/v3"
	"github.com/getsops/sops/v3/aes"
	sopsage "github.com/getsops/sops/v3/age"
	"github.com/getsops/sops/v3/config"
	"github.com/getsops/sops/v3/keys"
	"github.com/getsops/sops/v3/keyservice"
	"github.com/getsops/sops/v3/stores/json"
	sopsyaml "github.com/getsops/sops/v3/stores/yaml"
	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"pinnace.dev/pinnace/pkg/sealed"
)

// store is what of a store of SOPS encrypts.
type store interface {
	LoadPlainFile(in []byte) (sops.TreeBranches, error)
	EmitEncryptedFile(in sops.Tree) ([]byte, error)
}

// encrypt does what the sops command does, by its own library.
func encrypt(t testing.TB, store store, plain string, metadata sops.Metadata, recipients ...string) []byte {
	t.Helper()
	branches, err := store.LoadPlainFile([]byte(plain))
	if err != nil {
		t.Fatal(err)
	}
	var group sops.KeyGroup
	for _, recipient := range recipients {
		key, err := sopsage.MasterKeyFromRecipient(recipient)
		if err != nil {
			t.Fatal(err)
		}
		group = append(group, keys.MasterKey(key))
	}
	metadata.KeyGroups, metadata.Version, metadata.LastModified = []sops.KeyGroup{group}, "3.13.3", time.Now().UTC()
	tree := sops.Tree{Branches: branches, Metadata: metadata}
	dataKey, errs := tree.GenerateDataKeyWithKeyServices([]keyservice.KeyServiceClient{keyservice.NewLocalClient()})
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	cipher := aes.NewCipher()
	mac, err := tree.Encrypt(dataKey, cipher)
	if err != nil {
		t.Fatal(err)
	}
	tree.Metadata.MessageAuthenticationCode, err = cipher.Encrypt(mac, dataKey, tree.Metadata.LastModified.Format(time.RFC3339))
	if err != nil {
		t.Fatal(err)
	}
	out, err := store.EmitEncryptedFile(tree)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

const plainSecret = `# a comment
apiVersion: v1
kind: Secret
metadata:
    name: db # inline
    labels: {site: "07"}
type: Opaque
stringData:
    password: hunter2
    # another comment
    empty: ""
    multi: |
        line one
        line: two
    number: 4711
    ratio: 0.25
    big: 1e21
    isTrue: true
    isFalse: false
    at: 2026-01-02T03:04:05Z
    nothing: null
    list:
        # in a list
        - one
        - two: 2
          three: [a, b]
    text_true: "true"
    text_number: "007"
`

func TestOpenSOPS(t *testing.T) {
	with, _, recipient := newKey(t)
	_, _, other := newKey(t)
	yamlStore, jsonStore := sopsyaml.NewStore(&config.YAMLStoreConfig{}), json.NewStore(&config.JSONStoreConfig{})
	const plainJSON = `{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db", "generation": 3}, "stringData": {"password": "hunter2", "n": 5, "f": 2.5, "b": true, "list": [1, "x", {"y": null}]}}`
	for _, test := range []struct {
		name     string
		store    store
		plain    string
		metadata sops.Metadata
		to       []string
	}{
		{name: "all of it", store: yamlStore, plain: plainSecret, metadata: sops.Metadata{UnencryptedSuffix: "_unencrypted"}, to: []string{recipient}},
		{name: "by a regular expression", store: yamlStore, plain: plainSecret, metadata: sops.Metadata{EncryptedRegex: "^(data|stringData)$"}, to: []string{recipient}},
		{name: "but a regular expression", store: yamlStore, plain: plainSecret, metadata: sops.Metadata{UnencryptedRegex: "^(apiVersion|kind|metadata)$"}, to: []string{recipient}},
		{name: "by a suffix", store: yamlStore, plain: strings.ReplaceAll(plainSecret, "stringData", "data_secret"), metadata: sops.Metadata{EncryptedSuffix: "_secret"}, to: []string{recipient}},
		{name: "the MAC over what is encrypted only", store: yamlStore, plain: plainSecret, metadata: sops.Metadata{EncryptedRegex: "^stringData$", MACOnlyEncrypted: true}, to: []string{recipient}},
		{name: "several recipients", store: yamlStore, plain: plainSecret, to: []string{other, recipient}},
		{name: "several documents", store: yamlStore, plain: plainSecret + "---\n" + plainSecret, metadata: sops.Metadata{EncryptedRegex: "^stringData$"}, to: []string{recipient}},
		{name: "JSON", store: jsonStore, plain: plainJSON, metadata: sops.Metadata{EncryptedRegex: "^stringData$"}, to: []string{recipient}},
		{name: "all of JSON", store: jsonStore, plain: plainJSON, to: []string{recipient}},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := encrypt(t, test.store, test.plain, test.metadata, test.to...)
			if !sealed.IsSOPS(file) {
				t.Fatalf("not seen as a file of SOPS:\n%s", file)
			}
			got, secrets, err := sealed.OpenSOPS(with, file)
			if err != nil {
				t.Fatalf("%v\n%s", err, file)
			}
			if diff := cmp.Diff(decode(t, test.plain), decode(t, string(got))); diff != "" {
				t.Errorf("(-want +got):\n%s\n%s", diff, got)
			}
			if !slices.Contains(secrets, "hunter2") {
				t.Error("the secret is not among those to be kept out of errors")
			}
		})
	}
}

// decode returns the documents as values.
func decode(t *testing.T, text string) []any {
	t.Helper()
	var out []any
	for document := range strings.SplitSeq(text, "---\n") {
		var value any
		if err := yaml.Unmarshal([]byte(document), &value); err != nil {
			t.Fatalf("%v\n%s", err, document)
		}
		out = append(out, value)
	}
	return out
}

func TestOpenSOPSRefuses(t *testing.T) {
	with, _, recipient := newKey(t)
	stranger, _, _ := newKey(t)
	store := sopsyaml.NewStore(&config.YAMLStoreConfig{})
	good := string(encrypt(t, store, plainSecret, sops.Metadata{EncryptedRegex: "^stringData$"}, recipient))
	value := func(key string) string {
		_, after, _ := strings.Cut(good, " "+key+": ")
		line, _, _ := strings.Cut(after, "\n")
		return line
	}
	for _, test := range []struct {
		name, file string
		with       sealed.Identities
		want       error
	}{
		{"another key", good, stranger, sealed.ErrNoIdentity},
		{"a plain value changed", strings.Replace(good, "name: db", "name: dc", 1), with, sealed.ErrDamaged},
		{"a value removed", strings.Replace(good, "number: "+value("number")+"\n", "number: null\n", 1), with, sealed.ErrDamaged},
		{"a value added", strings.Replace(good, "type: Opaque", "type: Opaque\nevil: x", 1), with, sealed.ErrDamaged},
		{"a value of another place", strings.Replace(good, value("password"), value("number"), 1), with, sealed.ErrDamaged},
		{"a plain value in an encrypted place", strings.Replace(good, value("password"), "plain", 1), with, sealed.ErrDamaged},
		{"the rule changed", strings.Replace(good, "encrypted_regex: ^stringData$", "encrypted_regex: ^nothing$", 1), with, sealed.ErrDamaged},
		{"an alias", strings.Replace(good, "type: Opaque", "type: &t Opaque\nevil: *t", 1), with, sealed.ErrDamaged},
		{"no MAC", strings.Replace(good, "    mac: ENC", "    max: ENC", 1), with, sealed.ErrDamaged},
		{"no metadata", "a: ENC[AES256_GCM,data:x,iv:x,tag:x,type:str]\n", with, sealed.ErrDamaged},
		{"no YAML", "sops: [", with, sealed.ErrDamaged},
		{"deep", good + "deep: " + strings.Repeat("[", 100) + strings.Repeat("]", 100) + "\n", with, sealed.ErrDamaged},
		{"large", good + "# " + strings.Repeat("x", sealed.MaxData), with, sealed.ErrDamaged},
	} {
		t.Run(test.name, func(t *testing.T) {
			plain, _, err := sealed.OpenSOPS(test.with, []byte(test.file))
			if !errors.Is(err, test.want) || plain != nil {
				t.Errorf("got %q and %v, want %v", plain, err, test.want)
			}
			if strings.Contains(fmt.Sprint(err), "hunter2") {
				t.Errorf("the error holds the secret: %v", err)
			}
		})
	}
}

func TestIsSOPS(t *testing.T) {
	for _, file := range []string{"", "a: b", "sops: x", "sops: {mac: x}", "text: 'ENC[AES256_GCM,'", "- sops"} {
		if sealed.IsSOPS([]byte(file)) {
			t.Errorf("%q is taken for a file of SOPS", file)
		}
	}
}

func FuzzOpenSOPS(f *testing.F) {
	with, _, recipient := newKey(f)
	file := encrypt(f, sopsyaml.NewStore(&config.YAMLStoreConfig{}), plainSecret, sops.Metadata{EncryptedRegex: "^stringData$"}, recipient)
	f.Add(file)
	f.Add([]byte("sops: {age: [{enc: x}], lastmodified: x, mac: 'ENC[AES256_GCM,data:,iv:,tag:,type:str]'}"))
	f.Fuzz(func(t *testing.T, in []byte) {
		plain, _, err := sealed.OpenSOPS(with, in)
		if err == nil && strings.Contains(string(plain), "ENC[AES256_GCM") && !strings.Contains(string(in), "#ENC") {
			t.Logf("still encrypted: %s", plain) // a plain text may say so
		}
	})
}
