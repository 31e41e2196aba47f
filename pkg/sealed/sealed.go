// Package sealed keeps secrets in artifacts that anybody may read. It is the only place that knows age.
//
// [Seal] encrypts values to a cluster's [Recipients] and binds them to the cluster, namespace and name that they are
// meant for; [Open] gives them back to the cluster's [Identities], and to nobody who copied them elsewhere. [OpenSOPS]
// decrypts files that SOPS encrypted for age keys. [Mark] finds values that are meant to be secret, [Text] those that
// are sealed already.
package sealed

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"filippo.io/age"
	"filippo.io/age/armor"
)

// Bounds; a hostile registry or tenant may send anything.
const (
	// MaxData stops ciphertexts that fill the memory of a small node.
	MaxData = 1 << 20
	// MaxRecipients stops age headers whose every stanza must be tried: one file for 5,000 recipients takes seconds.
	MaxRecipients = 64
	// MaxIdentities stops identity files that turn every opening into a search.
	MaxIdentities = 64
)

// What callers branch on.
var (
	// ErrNoIdentity says that none of the cluster's keys opens it.
	ErrNoIdentity = errors.New("none of this cluster's keys opens it")
	// ErrBinding says that it was sealed for another cluster, namespace or name.
	ErrBinding = errors.New("it was sealed for something else")
	// ErrDamaged says that it is not what was sealed.
	ErrDamaged = errors.New("it is damaged")
)

// Binding is what sealed values are meant for. An empty field binds to nothing, and only by the sealer's own choice.
type Binding struct {
	Cluster   string `json:"cluster,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	// Name is the bundle's for values and variables, and the Secret's for data in a Secret.
	Name string `json:"name,omitempty"`
}

// plaintext is what an age file holds.
type plaintext struct {
	Binding
	Values []any `json:"values"`
}

// Recipients are public keys.
type Recipients struct {
	texts []string
	keys  []age.Recipient
}

// ParseRecipients reads public keys such as age1….
func ParseRecipients(texts []string) (Recipients, error) {
	out := Recipients{texts: slices.Compact(slices.Sorted(slices.Values(texts)))}
	if len(out.texts) > MaxRecipients {
		return out, fmt.Errorf("%d recipients, at most %d can be opened in useful time; seal once for each cluster", len(out.texts), MaxRecipients)
	}
	for _, text := range out.texts {
		keys, err := age.ParseRecipients(strings.NewReader(text))
		if err != nil || len(keys) != 1 {
			return out, fmt.Errorf("recipient %q is no age public key; pinnace keys generate --age prints one", text)
		}
		out.keys = append(out.keys, keys[0])
	}
	return out, nil
}

// IsZero reports whether there is nobody to seal to.
func (r Recipients) IsZero() bool { return len(r.keys) == 0 }

// Identities are private keys: the newest, and those before it while a key is rotated.
type Identities struct{ keys []age.Identity }

// ParseIdentities reads files of private keys as age-keygen and pinnace keys generate --age write them.
func ParseIdentities(files ...[]byte) (Identities, error) {
	var out Identities
	for _, file := range files {
		keys, err := age.ParseIdentities(bytes.NewReader(file))
		if err != nil {
			// age's own text holds the line that it could not read, which may be most of a key.
			return out, errors.New("it is no file of age keys, with one AGE-SECRET-KEY-1… in a line")
		}
		out.keys = append(out.keys, keys...)
	}
	if len(out.keys) > MaxIdentities {
		return out, fmt.Errorf("%d keys, at most %d are tried; remove those that are retired", len(out.keys), MaxIdentities)
	}
	return out, nil
}

// GenerateIdentity makes a key pair: a file of private keys, and the public key.
func GenerateIdentity() (file []byte, recipient string, err error) {
	key, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, "", fmt.Errorf("generate age key: %w", err)
	}
	recipient = key.Recipient().String()
	return fmt.Appendf(nil, "# public key: %s\n%s\n", recipient, key), recipient, nil
}

// Seal encrypts values, JSON types only, to the recipients.
func Seal(to Recipients, binding Binding, values []any) ([]byte, error) {
	if to.IsZero() {
		return nil, errors.New("seal: there is no recipient")
	}
	plain, err := json.Marshal(plaintext{Binding: binding, Values: values})
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	var out bytes.Buffer
	writer, err := age.Encrypt(&out, to.keys...)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	if _, err := writer.Write(plain); err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	if err := writer.Close(); err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	if out.Len() > MaxData {
		return nil, fmt.Errorf("seal: %d bytes, at most %d are allowed; bring large secrets as files of their own", out.Len(), MaxData)
	}
	return out.Bytes(), nil
}

// Open decrypts what [Seal] made and checks that it was meant for this. Errors name nothing of what is inside.
func Open(with Identities, binding Binding, data []byte) ([]any, error) {
	plain, err := decrypt(with, data)
	if err != nil {
		return nil, err
	}
	var inside plaintext
	decoder := json.NewDecoder(bytes.NewReader(plain))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&inside); err != nil {
		return nil, fmt.Errorf("%w: its content was not made by pinnace seal or a publish", ErrDamaged)
	}
	for _, field := range []struct{ what, sealed, here string }{
		{"cluster", inside.Cluster, binding.Cluster},
		{"namespace", inside.Namespace, binding.Namespace},
		{"name", inside.Name, binding.Name},
	} {
		if field.sealed != "" && field.sealed != field.here {
			return nil, fmt.Errorf("%w: %s %q, not %q", ErrBinding, field.what, field.sealed, field.here)
		}
	}
	return inside.Values, nil
}

// decrypt opens an age file, armored or not.
func decrypt(with Identities, data []byte) ([]byte, error) {
	if len(data) > MaxData {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrDamaged, len(data), MaxData)
	}
	if len(with.keys) == 0 {
		return nil, fmt.Errorf("%w: there are none; name them in spec.identities of the agent's configuration", ErrNoIdentity)
	}
	var reader io.Reader = bytes.NewReader(data)
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte(armor.Header)) {
		reader = armor.NewReader(reader)
	}
	opened, err := age.Decrypt(reader, with.keys...)
	if err != nil {
		if wrong := (*age.NoIdentityMatchError)(nil); errors.As(err, &wrong) {
			return nil, ErrNoIdentity
		}
		return nil, fmt.Errorf("%w: it is no age file", ErrDamaged)
	}
	plain, err := io.ReadAll(io.LimitReader(opened, MaxData))
	if err != nil {
		return nil, ErrDamaged
	}
	return plain, nil
}

// ID is a keyed hash of values, what they are bound to and who can open them. Whoever has the key can tell that nothing
// changed; nobody else can guess the values by it.
func ID(key []byte, to Recipients, binding Binding, paths []string, values []any) (string, error) {
	if len(key) == 0 {
		return "", errors.New("there is no key to compare secrets with")
	}
	data, err := json.Marshal(struct {
		Recipients []string
		Binding    Binding
		Paths      []string
		Values     []any
	}{to.texts, binding, paths, values})
	if err != nil {
		return "", fmt.Errorf("secret value: %w", err)
	}
	mac := hmac.New(sha256.New, key)
	mac.Write(data)
	return hex.EncodeToString(mac.Sum(nil)[:16]), nil
}

// Armor returns sealed data as text, for YAML files.
func Armor(data []byte) string {
	var out bytes.Buffer
	writer := armor.NewWriter(&out)
	_, _ = writer.Write(data) // to memory
	_ = writer.Close()
	return out.String()
}

// Text reports whether a text is sealed, and returns its data.
func Text(text string) (data []byte, is bool) {
	trimmed := strings.TrimSpace(text)
	return []byte(trimmed), strings.HasPrefix(trimmed, armor.Header)
}
