package sealed_test

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pinnace.dev/pinnace/pkg/sealed"
)

// newKey returns a cluster's key pair.
func newKey(t testing.TB) (sealed.Identities, sealed.Recipients, string) {
	t.Helper()
	file, recipient, err := sealed.GenerateIdentity()
	if err != nil {
		t.Fatal(err)
	}
	identities, err := sealed.ParseIdentities(file)
	if err != nil {
		t.Fatal(err)
	}
	recipients, err := sealed.ParseRecipients([]string{recipient})
	if err != nil {
		t.Fatal(err)
	}
	return identities, recipients, recipient
}

var here = sealed.Binding{Cluster: "factory-07", Namespace: "shop", Name: "web"}

func TestOpen(t *testing.T) {
	mine, recipients, _ := newKey(t)
	other, _, _ := newKey(t)
	values := []any{"hunter2", 4.0, map[string]any{"a": []any{true}}}
	for _, test := range []struct {
		name   string
		with   sealed.Identities
		sealed sealed.Binding
		change func([]byte) []byte
		want   error
	}{
		{name: "what was sealed", with: mine, sealed: here},
		{name: "bound to nothing", with: mine},
		{name: "armored", with: mine, sealed: here, change: func(b []byte) []byte { return []byte(sealed.Armor(b)) }},
		{name: "another cluster's", with: mine, sealed: sealed.Binding{Cluster: "factory-08", Namespace: "shop", Name: "web"}, want: sealed.ErrBinding},
		{name: "another namespace's", with: mine, sealed: sealed.Binding{Cluster: "factory-07", Namespace: "bank", Name: "web"}, want: sealed.ErrBinding},
		{name: "another bundle's", with: mine, sealed: sealed.Binding{Cluster: "factory-07", Namespace: "shop", Name: "db"}, want: sealed.ErrBinding},
		{name: "another key", with: other, sealed: here, want: sealed.ErrNoIdentity},
		{name: "no key", sealed: here, want: sealed.ErrNoIdentity},
		{name: "changed at its end", with: mine, sealed: here, change: func(b []byte) []byte { b[len(b)-1] ^= 1; return b }, want: sealed.ErrDamaged},
		{name: "cut off", with: mine, sealed: here, change: func(b []byte) []byte { return b[:len(b)-9] }, want: sealed.ErrDamaged},
		{name: "no age file", with: mine, sealed: here, change: func([]byte) []byte { return []byte("hunter2") }, want: sealed.ErrDamaged},
		{name: "endless", with: mine, sealed: here, change: func(b []byte) []byte { return append(b, make([]byte, sealed.MaxData)...) }, want: sealed.ErrDamaged},
	} {
		t.Run(test.name, func(t *testing.T) {
			data, err := sealed.Seal(recipients, test.sealed, values)
			if err != nil {
				t.Fatal(err)
			}
			if test.change != nil {
				data = test.change(data)
			}
			got, err := sealed.Open(test.with, here, data)
			if !errors.Is(err, test.want) {
				t.Fatalf("got error %v, want %v", err, test.want)
			}
			if err != nil {
				if strings.Contains(err.Error(), "hunter2") {
					t.Errorf("the error holds the secret: %v", err)
				}
				return
			}
			if diff := cmp.Diff(values, got); diff != "" {
				t.Errorf("values (-want +got):\n%s", diff)
			}
		})
	}
}

// A cluster's key is rotated by two recipients for a while, and two identities at the edge.
func TestRotation(t *testing.T) {
	oldKey, _, oldRecipient := newKey(t)
	newKey, _, newRecipient := newKey(t)
	both, err := sealed.ParseRecipients([]string{newRecipient, oldRecipient})
	if err != nil {
		t.Fatal(err)
	}
	data, err := sealed.Seal(both, here, []any{"x"})
	if err != nil {
		t.Fatal(err)
	}
	for name, with := range map[string]sealed.Identities{"old": oldKey, "new": newKey} {
		if _, err := sealed.Open(with, here, data); err != nil {
			t.Errorf("%s key: %v", name, err)
		}
	}
}

func TestID(t *testing.T) {
	_, recipients, one := newKey(t)
	_, _, two := newKey(t)
	both, err := sealed.ParseRecipients([]string{two, one})
	if err != nil {
		t.Fatal(err)
	}
	id := func(key string, to sealed.Recipients, binding sealed.Binding, path string, value any) string {
		t.Helper()
		id, err := sealed.ID([]byte(key), to, binding, []string{path}, []any{value})
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	first := id("key", recipients, here, "/variables/A", "x")
	if again := id("key", recipients, here, "/variables/A", "x"); again != first {
		t.Errorf("the same is %s and %s", first, again)
	}
	for what, other := range map[string]string{
		"key":        id("other", recipients, here, "/variables/A", "x"),
		"recipients": id("key", both, here, "/variables/A", "x"),
		"binding":    id("key", recipients, sealed.Binding{}, "/variables/A", "x"),
		"path":       id("key", recipients, here, "/variables/B", "x"),
		"value":      id("key", recipients, here, "/variables/A", "y"),
	} {
		if other == first {
			t.Errorf("another %s has the same ID", what)
		}
	}
	if _, err := sealed.ID(nil, recipients, here, nil, nil); err == nil {
		t.Error("an ID was made without a key: anybody could guess the value")
	}
}

func TestParseErrorsShowNoKey(t *testing.T) {
	file, _, err := sealed.GenerateIdentity()
	if err != nil {
		t.Fatal(err)
	}
	broken := strings.Replace(string(file), "AGE-SECRET-KEY-1", "AGE-SECRET-KEY-1Q", 1)
	_, err = sealed.ParseIdentities([]byte(broken))
	if err == nil || strings.Contains(err.Error(), broken[len(broken)-20:len(broken)-1]) {
		t.Errorf("got %v", err)
	}
	if _, err := sealed.ParseRecipients([]string{"age1nonsense"}); err == nil {
		t.Error("nonsense is taken for a recipient")
	}
	if _, err := sealed.ParseRecipients(make([]string, 0)); err != nil {
		t.Errorf("no recipients: %v", err)
	}
}

func secret(field, value string) map[string]any {
	return map[string]any{
		"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "db"}, field: map[string]any{"password": value},
	}
}

func TestPlainKeys(t *testing.T) {
	_, recipients, _ := newKey(t)
	data, err := sealed.Seal(recipients, here, []any{"x"})
	if err != nil {
		t.Fatal(err)
	}
	text := sealed.Armor(data)
	sops := secret("stringData", "ENC[…]")
	sops["sops"] = map[string]any{}
	for _, test := range []struct {
		name   string
		object map[string]any
		want   []string
	}{
		{"plain", secret("stringData", "hunter2"), []string{"stringData.password"}},
		{"plain base64", secret("data", "aHVudGVyMg=="), []string{"data.password"}},
		{"sealed", secret("stringData", text), nil},
		{"sealed base64", secret("data", base64.StdEncoding.EncodeToString([]byte(text))), nil},
		{"by SOPS", sops, nil},
		{"a variable", secret("stringData", "${DB_PASSWORD}"), nil},
		{"a variable with a default", secret("stringData", "${DB_PASSWORD:=hunter2}"), []string{"stringData.password"}},
		{"more than a variable", secret("stringData", "${A}hunter2${B}"), []string{"stringData.password"}},
		{"empty", secret("stringData", ""), nil},
		{"no Secret", map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "data": map[string]any{"a": "b"}}, nil},
	} {
		if diff := cmp.Diff(test.want, sealed.PlainKeys(test.object)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

func TestOpenSecret(t *testing.T) {
	with, recipients, _ := newKey(t)
	seal := func(binding sealed.Binding) string {
		data, err := sealed.Seal(recipients, binding, []any{"hunter2"})
		if err != nil {
			t.Fatal(err)
		}
		return sealed.Armor(data)
	}
	for _, field := range []string{"data", "stringData"} {
		object := secret(field, seal(sealed.Binding{Namespace: "shop", Name: "db"}))
		secrets, err := sealed.OpenSecret(with, "factory-07", "shop", object)
		if err != nil || len(secrets) != 1 || secrets[0] != "hunter2" {
			t.Fatalf("%s: %v, %d secrets", field, err, len(secrets))
		}
		want := map[string]string{"data": "aHVudGVyMg==", "stringData": "hunter2"}[field]
		if got := object[field].(map[string]any)["password"]; got != want {
			t.Errorf("%s: got %v, want %s", field, got, want)
		}
	}
	// A tenant copies another Secret's ciphertext into one of its own.
	object := secret("stringData", seal(sealed.Binding{Namespace: "bank", Name: "db"}))
	if _, err := sealed.OpenSecret(with, "factory-07", "shop", object); !errors.Is(err, sealed.ErrBinding) {
		t.Errorf("another namespace's Secret: got %v, want %v", err, sealed.ErrBinding)
	}
}

func FuzzOpen(f *testing.F) {
	with, recipients, _ := newKey(f)
	data, err := sealed.Seal(recipients, here, []any{"x"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(sealed.Armor(data)))
	f.Add([]byte("age-encryption.org/v1\n-> X25519 \n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		values, err := sealed.Open(with, here, in)
		if err == nil && len(values) == 0 {
			t.Error("nothing was opened without an error")
		}
	})
}
