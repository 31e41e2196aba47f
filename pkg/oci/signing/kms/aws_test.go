package kms

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
)

// awsKMS is AWS KMS with one key, alias/release.
//
// See https://docs.aws.amazon.com/kms/latest/APIReference/API_Operations.html
type awsKMS struct {
	t      *testing.T
	key    *ecdsa.PrivateKey
	signed atomic.Int64
}

func (a *awsKMS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	refuse := func(kind, message string) {
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		w.WriteHeader(http.StatusBadRequest)
		_ = json.NewEncoder(w).Encode(map[string]string{"__type": kind, "message": message})
	}
	if !strings.HasPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 Credential=AKIDRELEASE/") {
		refuse("UnrecognizedClientException", "The security token included in the request is invalid.")
		return
	}
	var request struct {
		KeyID            string `json:"KeyId"`
		Message          []byte
		MessageType      string
		SigningAlgorithm string
	}
	if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
		a.t.Error(err)
	}
	if request.KeyID != "alias/release" {
		refuse("NotFoundException", "Alias "+request.KeyID+" is not found.")
		return
	}
	const algorithm = "ECDSA_SHA_256"
	answer := map[string]any{"KeyId": "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"}
	switch target := r.Header.Get("X-Amz-Target"); target {
	case "TrentService.GetPublicKey":
		public, err := x509.MarshalPKIXPublicKey(a.key.Public())
		if err != nil {
			a.t.Error(err)
		}
		answer["PublicKey"] = public
	case "TrentService.DescribeKey":
		answer = map[string]any{"KeyMetadata": map[string]any{
			"KeyId": answer["KeyId"], "KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY", "SigningAlgorithms": []string{algorithm},
		}}
	case "TrentService.Sign":
		if request.MessageType != "DIGEST" || request.SigningAlgorithm != algorithm || len(request.Message) != 32 {
			a.t.Errorf("asked to sign %d bytes as %s by %s", len(request.Message), request.MessageType, request.SigningAlgorithm)
		}
		signature, err := ecdsa.SignASN1(rand.Reader, a.key, request.Message)
		if err != nil {
			a.t.Error(err)
		}
		a.signed.Add(1)
		answer["Signature"], answer["SigningAlgorithm"] = signature, algorithm
	default:
		a.t.Errorf("asked for %s", target)
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	_ = json.NewEncoder(w).Encode(answer)
}

// serveAWS returns the service and its address. The environment names credentials for it, and nothing else of this machine's.
func serveAWS(t *testing.T) (*awsKMS, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	service := &awsKMS{t: t, key: key}
	server := httptest.NewTLSServer(service)
	t.Cleanup(server.Close)
	dir := t.TempDir()
	authority := filepath.Join(dir, "ca.pem")
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(authority, certificate, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"AWS_CA_BUNDLE": authority, "AWS_REGION": "eu-central-1", "AWS_ACCESS_KEY_ID": "AKIDRELEASE", "AWS_SECRET_ACCESS_KEY": "secret",
		"AWS_SESSION_TOKEN": "", "AWS_PROFILE": "", "AWS_CONFIG_FILE": filepath.Join(dir, "config"),
		"AWS_SHARED_CREDENTIALS_FILE": filepath.Join(dir, "credentials"), "AWS_EC2_METADATA_DISABLED": "true", "AWS_TLS_INSECURE_SKIP_VERIFY": "",
		"HTTPS_PROXY": "", "https_proxy": "",
	} {
		t.Setenv(name, value)
	}
	return service, server.Listener.Addr().String()
}

func TestSignByAWS(t *testing.T) {
	service, address := serveAWS(t)
	signer, err := Open(t.Context(), "awskms://"+address+"/alias/release")
	if err != nil {
		t.Fatal(err)
	}
	const name = "targets/factory-01"
	trusting := func(key []byte) *signing.Verifier {
		verifier, err := signing.NewVerifier(v1alpha1.TrustPolicy{Spec: v1alpha1.TrustPolicySpec{Rules: []v1alpha1.TrustRule{{
			Match: "targets/**", Signers: v1alpha1.Signers{Keys: []v1alpha1.PublicKey{{Name: "release", PublicKey: string(key)}}},
		}}}}, signing.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return verifier
	}
	repo, err := oci.NewMemory().Repository(name)
	if err != nil {
		t.Fatal(err)
	}
	desc, _, err := oci.Push(t.Context(), repo, oci.Artifact{
		Type: "application/vnd.example", Layers: []oci.Blob{{MediaType: "text/plain", Data: []byte("target")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := trusting(signer.PublicKey()).Verify(t.Context(), repo, name, desc); reason(err) != signing.SignatureMissing {
		t.Errorf("before it was signed: %v", err)
	}
	made, err := signer.SignAll(t.Context(), []signing.Item{{Repository: repo, Descriptor: desc}}, 1)
	if err != nil || made != 1 || service.signed.Load() != 1 {
		t.Fatalf("made %d signatures, the service %d: %v", made, service.signed.Load(), err)
	}
	if _, err := trusting(signer.PublicKey()).Verify(t.Context(), repo, name, desc); err != nil {
		t.Error(err)
	}
	_, other := serveAWS(t)
	stranger, err := Open(t.Context(), "awskms://"+other+"/alias/release")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := trusting(stranger.PublicKey()).Verify(t.Context(), repo, name, desc); reason(err) != signing.KeyNotTrusted {
		t.Errorf("by another key's policy: %v", err)
	}
}

func TestAWSSaysWhatIsWrong(t *testing.T) {
	_, address := serveAWS(t)
	for uri, want := range map[string]string{
		"awskms://" + address + "/alias/absent": "Alias alias/absent is not found",
		"awskms://" + address + "/release":      "awskms://[ENDPOINT]/[ID/ALIAS/ARN]",
	} {
		if _, err := Open(t.Context(), uri); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), uri) {
			t.Errorf("%s: got %v, want %q", uri, err, want)
		}
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDSTRANGER")
	if _, err := Open(t.Context(), "awskms://"+address+"/alias/release"); err == nil || !strings.Contains(err.Error(), "security token") {
		t.Errorf("with another's credentials: %v", err)
	}
}

func reason(err error) signing.Reason {
	if refused := (*signing.Error)(nil); errors.As(err, &refused) {
		return refused.Reason
	}
	return ""
}
