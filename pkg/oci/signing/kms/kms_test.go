package kms

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
)

// vault is HashiCorp Vault's transit engine with one key.
//
// See https://developer.hashicorp.com/vault/api-docs/secret/transit
type vault struct {
	t      *testing.T
	key    *ecdsa.PrivateKey
	signed atomic.Int64
}

func (v *vault) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("X-Vault-Token") != "token" {
		http.Error(w, `{"errors":["permission denied"]}`, http.StatusForbidden)
		return
	}
	var data map[string]any
	switch r.URL.Path {
	case "/v1/transit/keys/release":
		public, err := cryptoutils.MarshalPublicKeyToPEM(v.key.Public())
		if err != nil {
			v.t.Error(err)
		}
		data = map[string]any{"latest_version": 1, "keys": map[string]any{"1": map[string]any{"public_key": string(public), "name": "P-256"}}}
	case "/v1/transit/sign/release/sha2-256":
		var request struct {
			Input     string `json:"input"`
			Prehashed bool   `json:"prehashed"`
		}
		if err := json.NewDecoder(r.Body).Decode(&request); err != nil || !request.Prehashed {
			v.t.Errorf("request %+v: %v", request, err)
		}
		digest, err := base64.StdEncoding.DecodeString(request.Input)
		if err != nil {
			v.t.Error(err)
		}
		raw, err := ecdsa.SignASN1(rand.Reader, v.key, digest)
		if err != nil {
			v.t.Error(err)
		}
		v.signed.Add(1)
		data = map[string]any{"signature": "vault:v1:" + base64.StdEncoding.EncodeToString(raw)}
	default:
		http.NotFound(w, r)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"data": data})
}

func TestSignByVault(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	service := &vault{t: t, key: key}
	server := httptest.NewServer(service)
	defer server.Close()
	t.Setenv("VAULT_ADDR", server.URL)
	t.Setenv("VAULT_TOKEN", "token")

	signer, err := Open(t.Context(), "hashivault://release")
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := signing.NewKeyVerifier("release", signer.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	var items []signing.Item
	for i := range 300 {
		repo, err := oci.NewMemory().Repository(fmt.Sprintf("targets/factory-%03d", i))
		if err != nil {
			t.Fatal(err)
		}
		desc, _, err := oci.Push(t.Context(), repo, oci.Artifact{
			Type: "application/vnd.example", Layers: []oci.Blob{{MediaType: "text/plain", Data: fmt.Append(nil, i)}},
		})
		if err != nil {
			t.Fatal(err)
		}
		items = append(items, signing.Item{Repository: repo, Descriptor: desc})
	}
	// 300 targets are two statements, and a second time there is nothing to sign.
	for _, want := range []int{2, 0} {
		made, err := signer.SignAll(t.Context(), items, 4)
		if err != nil || made != want {
			t.Fatalf("got %d signatures and %v, want %d", made, err, want)
		}
	}
	if got := service.signed.Load(); got != 2 {
		t.Errorf("the service signed %d times, want 2", got)
	}
	for i, item := range items {
		if _, err := verifier.Verify(t.Context(), item.Repository, fmt.Sprintf("targets/factory-%03d", i), item.Descriptor); err != nil {
			t.Fatalf("target %d: %v", i, err)
		}
	}
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	server := httptest.NewServer(&vault{t: t})
	defer server.Close()
	t.Setenv("VAULT_ADDR", server.URL)
	t.Setenv("VAULT_TOKEN", "wrong")
	for uri, want := range map[string]string{
		"hashivault://release":  "permission denied",
		"hashivault://":         "hashivault://<key>",
		"nokms://alias/release": "no such service; use one of awskms://",
	} {
		_, err := Open(t.Context(), uri)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), uri) {
			t.Errorf("%s: got %v, want %q", uri, err, want)
		}
	}
	if Is("cosign.key") || Is("env://KEY") || !Is("awskms:///alias/release") {
		t.Error("a file is taken for a KMS's key, or the other way round")
	}
}
