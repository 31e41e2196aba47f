// Package signingtest is a Sigstore of its own, in the process and without a network: [Start] runs a certificate
// authority (Fulcio), a transparency log (Rekor) and a timestamp authority on loopback, for tests and benchmarks, and
// writes the trusted_root.json that verifies them. [Cosign] finds the stock command to compare with.
package signingtest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"time"

	"github.com/digitorus/timestamp"
	"github.com/go-openapi/runtime"
	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/rekor/pkg/types"
	_ "github.com/sigstore/rekor/pkg/types/dsse/v0.0.1"         // entries of attestations
	_ "github.com/sigstore/rekor/pkg/types/hashedrekord/v0.0.1" // entries of signatures
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"
	"github.com/sigstore/sigstore-go/pkg/tlog"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
)

// Sigstore is a running Sigstore. Close it.
type Sigstore struct {
	// URL is where Fulcio, Rekor and the timestamp authority answer.
	URL string
	// TrustedRoot is sigstore's trusted_root.json.
	TrustedRoot []byte
	// Certificates and Entries count what was issued and logged.
	Certificates, Entries atomic.Int64
	// Backdate is how long before now certificates begin, a [time.Duration]: by more than ten minutes, they have ended.
	Backdate atomic.Int64

	log          *ca.VirtualSigstore
	issuer       *x509.Certificate
	issuerKey    *ecdsa.PrivateKey
	timestamper  *x509.Certificate
	timestampKey *ecdsa.PrivateKey
	server       *httptest.Server
}

// Start runs a Sigstore with keys that nobody else has.
func Start() (*Sigstore, error) {
	s := &Sigstore{}
	err := s.makeKeys()
	if err != nil {
		return nil, fmt.Errorf("start a sigstore: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v1/signingCert", s.certifyAsBefore)
	mux.HandleFunc("POST /api/v2/signingCert", s.certify)
	mux.HandleFunc("POST /api/v1/log/entries", s.enter)
	mux.HandleFunc("POST /api/v1/timestamp", s.stamp)
	s.server = httptest.NewServer(mux)
	s.URL = s.server.URL
	return s, nil
}

// Close stops it.
func (s *Sigstore) Close() { s.server.Close() }

// TimestampURL is the timestamp authority's.
func (s *Sigstore) TimestampURL() string { return s.URL + "/api/v1/timestamp" }

func (s *Sigstore) makeKeys() error {
	log, err := ca.NewVirtualSigstore()
	if err != nil {
		return err
	}
	s.log = log
	rootCert, rootKey, err := ca.GenerateRootCa()
	if err != nil {
		return err
	}
	if s.issuer, s.issuerKey, err = ca.GenerateFulcioIntermediate(rootCert, rootKey); err != nil {
		return err
	}
	middle, middleKey, err := ca.GenerateTSAIntermediate(rootCert, rootKey)
	if err != nil {
		return err
	}
	if s.timestampKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return err
	}
	now := time.Now()
	if s.timestamper, err = ca.GenerateTSALeafCert(now.Add(-5*time.Minute), s.timestampKey, middle, middleKey); err != nil {
		return err
	}
	start, end := now.Add(-time.Hour), now.Add(time.Hour)
	trusted, err := root.NewTrustedRoot(root.TrustedRootMediaType01,
		[]root.CertificateAuthority{&root.FulcioCertificateAuthority{
			Root: rootCert, Intermediates: []*x509.Certificate{s.issuer}, ValidityPeriodStart: start, ValidityPeriodEnd: end,
		}}, nil,
		[]root.TimestampingAuthority{&root.SigstoreTimestampingAuthority{
			Root: rootCert, Intermediates: []*x509.Certificate{middle}, Leaf: s.timestamper,
			ValidityPeriodStart: start, ValidityPeriodEnd: end,
		}}, rawLogs(log))
	if err != nil {
		return err
	}
	s.TrustedRoot, err = trusted.MarshalJSON()
	return err
}

// rawLogs has the logs' ids as bytes, as trusted_root.json keeps them; the virtual Sigstore has them in hexadecimal.
func rawLogs(log *ca.VirtualSigstore) map[string]*root.TransparencyLog {
	logs := log.RekorLogs()
	for id, one := range logs {
		if raw, err := hex.DecodeString(id); err == nil {
			one.ID = raw
		}
	}
	return logs
}

// Token is an identity token as a CI gets one. Its signature is not looked at.
func Token(subject, issuer string) string {
	claims, err := json.Marshal(map[string]any{
		"iss": issuer, "sub": subject, "email": subject, "email_verified": true, "aud": "sigstore",
		"iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
	})
	if err != nil {
		panic(err) // strings and numbers always marshal
	}
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"RS256","typ":"JWT"}`)) + "." + encode(claims) + "." + encode([]byte("unsigned"))
}

// publicKey stands in for a key pair of which only the public half is known.
type publicKey struct{ crypto.PublicKey }

func (p publicKey) Public() crypto.PublicKey { return p.PublicKey }

func (publicKey) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("only the public key is known")
}

// certify is Fulcio: a certificate of ten minutes for whoever brings a token.
func (s *Sigstore) certify(w http.ResponseWriter, r *http.Request) {
	var request struct {
		PublicKeyRequest struct {
			PublicKey struct {
				Content string `json:"content"`
			} `json:"publicKey"`
		} `json:"publicKeyRequest"`
	}
	if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	chain, err := s.chain(r, []byte(request.PublicKeyRequest.PublicKey.Content))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	answer(w, http.StatusOK, map[string]any{
		"signedCertificateEmbeddedSct": map[string]any{"chain": map[string]any{"certificates": chain}},
	})
}

// certifyAsBefore is Fulcio's first version, which stock cosign 2 speaks.
func (s *Sigstore) certifyAsBefore(w http.ResponseWriter, r *http.Request) {
	var request struct {
		PublicKey struct {
			Content []byte `json:"content"`
		} `json:"publicKey"`
	}
	if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	chain, err := s.chain(r, request.PublicKey.Content)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.WriteHeader(http.StatusCreated)
	_, _ = io.WriteString(w, strings.Join(chain, "")) //nolint:gosec // certificates, for a client of a test
}

// chain certifies a public key, PEM, for whom the request's token names: the certificate and its issuer's, PEM.
func (s *Sigstore) chain(r *http.Request, key []byte) ([]string, error) {
	parts := strings.Split(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), ".")
	if len(parts) != 3 {
		return nil, errors.New("no identity token")
	}
	claims, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil, err
	}
	var who struct {
		Issuer  string `json:"iss"`
		Subject string `json:"sub"`
	}
	if err := json.Unmarshal(claims, &who); err != nil {
		return nil, err
	}
	public, err := cryptoutils.UnmarshalPEMToPublicKey(key)
	if err != nil {
		return nil, err
	}
	leaf, err := s.certificate(who.Subject, who.Issuer, public, time.Now().Add(-time.Duration(s.Backdate.Load())))
	if err != nil {
		return nil, err
	}
	s.Certificates.Add(1)
	var chain []string
	for _, certificate := range []*x509.Certificate{leaf, s.issuer} {
		chain = append(chain, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw})))
	}
	return chain, nil
}

func (s *Sigstore) certificate(subject, issuer string, public crypto.PublicKey, from time.Time) (*x509.Certificate, error) {
	return ca.GenerateLeafCert(subject, issuer, from.Add(-time.Minute), publicKey{public}, s.issuer, s.issuerKey)
}

// enter is Rekor: an entry of the first version, with inclusion promise and proof.
func (s *Sigstore) enter(w http.ResponseWriter, r *http.Request) {
	entry, err := s.entry(r.Context(), r.Body, time.Now())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.Entries.Add(1)
	id := strings.Repeat("0", 16) + hex.EncodeToString(bytes.Repeat([]byte{1}, 32))
	w.Header().Set("ETag", id)
	w.Header().Set("Location", r.URL.Path+"/"+id)
	answer(w, http.StatusCreated, map[string]any{id: entry})
}

func (s *Sigstore) entry(ctx context.Context, proposed io.Reader, at time.Time) (*models.LogEntryAnon, error) {
	parsed, err := models.UnmarshalProposedEntry(proposed, runtime.JSONConsumer())
	if err != nil {
		return nil, err
	}
	versioned, err := types.CreateVersionedEntry(parsed)
	if err != nil {
		return nil, err
	}
	body, err := types.CanonicalizeEntry(ctx, versioned)
	if err != nil {
		return nil, err
	}
	logID, err := s.log.RekorLogID()
	if err != nil {
		return nil, err
	}
	proof, err := s.log.GetInclusionProof(body)
	if err != nil {
		return nil, err
	}
	encoded, when, index := base64.StdEncoding.EncodeToString(body), at.Unix(), int64(0)
	promise, err := s.log.RekorSignPayload(tlog.RekorPayload{Body: encoded, IntegratedTime: when, LogIndex: index, LogID: logID})
	if err != nil {
		return nil, err
	}
	return &models.LogEntryAnon{
		Body: encoded, IntegratedTime: &when, LogIndex: &index, LogID: &logID,
		Verification: &models.LogEntryAnonVerification{SignedEntryTimestamp: promise, InclusionProof: proof},
	}, nil
}

// stamp is the timestamp authority.
func (s *Sigstore) stamp(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	request, err := timestamp.ParseRequest(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	stamped := timestamp.Timestamp{
		HashAlgorithm: request.HashAlgorithm, HashedMessage: request.HashedMessage, Time: time.Now(), Nonce: request.Nonce,
		Policy: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 2},
	}
	response, err := stamped.CreateResponseWithOpts(s.timestamper, s.timestampKey, crypto.SHA256)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/timestamp-reply")
	w.WriteHeader(http.StatusCreated)
	_, _ = w.Write(response)
}

func answer(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value)
}

// LogKey is the transparency log's public key, PEM.
func (s *Sigstore) LogKey() []byte {
	for _, log := range s.log.RekorLogs() {
		der, err := x509.MarshalPKIXPublicKey(log.PublicKey)
		if err != nil {
			panic(err) // a key that was just made
		}
		return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	}
	return nil
}
