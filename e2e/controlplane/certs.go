package controlplane

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// authority is one cluster's certificate authority: the kubeconfig of one cluster opens no other.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

// pair is a certificate and its key, as PEM.
type pair struct{ cert, key []byte }

// certLife is far beyond any test and any demo that stays up.
const certLife = 30 * 24 * time.Hour

func newAuthority(name string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := certTemplate(pkix.Name{CommonName: name})
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &authority{cert: cert, key: key, pem: pemBlock("CERTIFICATE", der)}, nil
}

// server issues the API server's certificate; 10.96.0.1 is what pods would call it by.
func (a *authority) server() (pair, error) {
	template := certTemplate(pkix.Name{CommonName: "kube-apiserver"})
	template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv4(10, 96, 0, 1)}
	template.DNSNames = []string{"localhost", "kubernetes.default.svc"}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	return a.issue(template)
}

// admin issues a client certificate that may do everything.
func (a *authority) admin() (pair, error) {
	template := certTemplate(pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}})
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	return a.issue(template)
}

func (a *authority) issue(template *x509.Certificate) (pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return pair{}, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return pair{}, err
	}
	private, err := privatePEM(key)
	if err != nil {
		return pair{}, err
	}
	return pair{cert: pemBlock("CERTIFICATE", der), key: private}, nil
}

// serviceAccountKey returns the key pair that signs and checks service account tokens.
func serviceAccountKey() (pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return pair{}, err
	}
	private, err := privatePEM(key)
	if err != nil {
		return pair{}, err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return pair{}, err
	}
	return pair{cert: pemBlock("PUBLIC KEY", public), key: private}, nil
}

func certTemplate(subject pkix.Name) *x509.Certificate {
	serial := make([]byte, 16)
	_, _ = rand.Read(serial) // crypto/rand.Read never fails
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial), Subject: subject,
		NotBefore: now.Add(-time.Minute), NotAfter: now.Add(certLife),
		KeyUsage: x509.KeyUsageDigitalSignature,
	}
}

func privatePEM(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pemBlock("EC PRIVATE KEY", der), nil
}

func pemBlock(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// writeCerts writes every file that a cluster's programs read and returns the administrator's pair and the authority's
// certificate, which go into the kubeconfig.
func writeCerts(dir, cluster string) (admin pair, ca []byte, err error) {
	auth, err := newAuthority(cluster)
	if err != nil {
		return pair{}, nil, err
	}
	caKey, err := privatePEM(auth.key)
	if err != nil {
		return pair{}, nil, err
	}
	server, errServer := auth.server()
	admin, errAdmin := auth.admin()
	account, errAccount := serviceAccountKey()
	if err := errors.Join(errServer, errAdmin, errAccount); err != nil {
		return pair{}, nil, err
	}
	for name, content := range map[string][]byte{
		"ca.crt": auth.pem, "ca.key": caKey, "server.crt": server.cert, "server.key": server.key,
		"sa.pub": account.cert, "sa.key": account.key,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return pair{}, nil, err
		}
	}
	return admin, auth.pem, nil
}
