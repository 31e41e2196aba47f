package sealed

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// The format of SOPS, as far as age keys go. The library brings the SDKs of every cloud's key service, 42 MiB, which an
// agent on a small node must not carry.
//
// See https://github.com/getsops/sops/blob/v3.13.3/README.rst#encryption-protocol

const (
	sopsKey = "sops"
	// maxSOPSDepth stops documents nested so deeply that walking them exhausts the stack.
	maxSOPSDepth = 64
	// maxSOPSNodes stops alias bombs: what a document expands to, counted node by node.
	maxSOPSNodes = 1_000_000
	// sopsKeySize is the size of the data key.
	sopsKeySize = 32
)

// sopsOnlyEncrypted begins the MAC of files in which it covers what is encrypted only.
var sopsOnlyEncrypted = []byte{
	0x8a, 0x3f, 0xd2, 0xad, 0x54, 0xce, 0x66, 0x52, 0x7b, 0x10, 0x34, 0xf3, 0xd1, 0x47, 0xbe, 0x0b,
	0x0b, 0x97, 0x5b, 0x3b, 0xf4, 0x4f, 0x72, 0xc6, 0xfd, 0xad, 0xec, 0x81, 0x76, 0xf2, 0x7d, 0x69,
}

// sopsMetadata is what SOPS leaves in a file.
type sopsMetadata struct {
	Age []struct {
		Recipient string `yaml:"recipient"`
		Enc       string `yaml:"enc"`
	} `yaml:"age"`
	KeyGroups               []yaml.Node `yaml:"key_groups"`
	ShamirThreshold         int         `yaml:"shamir_threshold"`
	LastModified            string      `yaml:"lastmodified"`
	MAC                     string      `yaml:"mac"`
	UnencryptedSuffix       string      `yaml:"unencrypted_suffix"`
	EncryptedSuffix         string      `yaml:"encrypted_suffix"`
	UnencryptedRegex        string      `yaml:"unencrypted_regex"`
	EncryptedRegex          string      `yaml:"encrypted_regex"`
	UnencryptedCommentRegex string      `yaml:"unencrypted_comment_regex"`
	EncryptedCommentRegex   string      `yaml:"encrypted_comment_regex"`
	MACOnlyEncrypted        bool        `yaml:"mac_only_encrypted"`
	Version                 string      `yaml:"version"`
}

// sopsMark finds files worth decoding: SOPS writes its metadata at the left edge, or as a key of JSON.
var sopsMark = regexp.MustCompile(`(?m)^sops:|^\s*"sops"\s*:|[{,]\s*"?sops"?\s*:`)

// IsSOPS reports whether a YAML or JSON file is encrypted by SOPS.
func IsSOPS(file []byte) bool {
	if !bytes.Contains(file, []byte("ENC[AES256_GCM,")) || !sopsMark.Match(file) {
		return false
	}
	documents, err := readDocuments(file)
	if err != nil {
		return false
	}
	for _, document := range documents {
		if found := field(document, sopsKey); found != nil && found.Kind == yaml.MappingNode {
			return true
		}
	}
	return false
}

// OpenSOPS decrypts a YAML or JSON file that SOPS encrypted for age keys, and checks its MAC. It returns the documents
// as YAML, without comments, and the texts that were secret, for errors to be kept free of them.
func OpenSOPS(with Identities, file []byte) (plain []byte, secrets []string, err error) {
	documents, err := readDocuments(file)
	if err != nil {
		return nil, nil, err
	}
	var metadata *sopsMetadata
	for _, document := range documents {
		found := takeField(document, sopsKey)
		if metadata != nil || found == nil {
			continue
		}
		metadata = &sopsMetadata{}
		if err := found.Decode(metadata); err != nil {
			return nil, nil, fmt.Errorf("%w: its SOPS metadata cannot be read", ErrDamaged)
		}
	}
	if metadata == nil {
		return nil, nil, fmt.Errorf("%w: it has no SOPS metadata", ErrDamaged)
	}
	opener, err := newSOPSOpener(with, metadata)
	if err != nil {
		return nil, nil, err
	}
	for _, document := range documents {
		if err := opener.open(document, nil, 0); err != nil {
			return nil, nil, err
		}
	}
	if err := opener.checkMAC(); err != nil {
		return nil, nil, err
	}
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	for _, document := range documents {
		if err := encoder.Encode(document); err != nil {
			return nil, nil, fmt.Errorf("%w: it cannot be written as YAML", ErrDamaged)
		}
	}
	return out.Bytes(), opener.secrets, encoder.Close()
}

// readDocuments decodes all documents, with keys in their order, which the MAC depends on.
func readDocuments(file []byte) ([]*yaml.Node, error) {
	if len(file) > MaxData {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are allowed in a SOPS file", ErrDamaged, len(file), MaxData)
	}
	var documents []*yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(file))
	for {
		var document yaml.Node
		err := decoder.Decode(&document)
		if errors.Is(err, io.EOF) {
			return documents, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%w: it is no YAML", ErrDamaged)
		}
		if len(document.Content) != 1 {
			continue
		}
		switch root := document.Content[0]; root.Kind {
		case yaml.MappingNode:
			documents = append(documents, root)
		case yaml.ScalarNode:
			if root.ShortTag() != "!!null" {
				return nil, fmt.Errorf("%w: a document is no mapping", ErrDamaged)
			}
		default:
			return nil, fmt.Errorf("%w: a document is no mapping", ErrDamaged)
		}
	}
}

func field(mapping *yaml.Node, name string) *yaml.Node {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == name {
			return mapping.Content[i+1]
		}
	}
	return nil
}

// takeField removes a field and returns it.
func takeField(mapping *yaml.Node, name string) *yaml.Node {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == name {
			found := mapping.Content[i+1]
			mapping.Content = append(mapping.Content[:i], mapping.Content[i+2:]...)
			return found
		}
	}
	return nil
}

// sopsOpener decrypts values and sums up the MAC on the way.
type sopsOpener struct {
	metadata         *sopsMetadata
	block            cipher.Block
	unencrypted, enc *regexp.Regexp
	sum              interface {
		io.Writer
		Sum([]byte) []byte
	}
	nodes   int
	secrets []string
}

func newSOPSOpener(with Identities, metadata *sopsMetadata) (*sopsOpener, error) {
	switch {
	case len(metadata.KeyGroups) > 0 || metadata.ShamirThreshold > 1:
		return nil, fmt.Errorf("%w: SOPS key groups are not supported; encrypt it for age keys alone", ErrDamaged)
	case metadata.UnencryptedCommentRegex != "" || metadata.EncryptedCommentRegex != "":
		return nil, fmt.Errorf("%w: SOPS comment rules are not supported; use encrypted_regex", ErrDamaged)
	case len(metadata.Age) == 0:
		return nil, fmt.Errorf("%w: SOPS encrypted it for no age key; run sops updatekeys with the cluster's recipient", ErrNoIdentity)
	case len(metadata.Age) > MaxRecipients:
		return nil, fmt.Errorf("%w: it is for %d age keys, at most %d are tried", ErrDamaged, len(metadata.Age), MaxRecipients)
	}
	out := &sopsOpener{metadata: metadata, sum: sha512.New()}
	if metadata.MACOnlyEncrypted {
		_, _ = out.sum.Write(sopsOnlyEncrypted) // a hash takes everything
	}
	for text, into := range map[string]**regexp.Regexp{metadata.UnencryptedRegex: &out.unencrypted, metadata.EncryptedRegex: &out.enc} {
		if text == "" {
			continue
		}
		compiled, err := regexp.Compile(text)
		if err != nil {
			return nil, fmt.Errorf("%w: its SOPS rule is no regular expression", ErrDamaged)
		}
		*into = compiled
	}
	err := ErrNoIdentity
	for _, recipient := range metadata.Age {
		key, failed := decrypt(with, []byte(recipient.Enc))
		if failed != nil || len(key) != sopsKeySize {
			if failed != nil && !errors.Is(failed, ErrNoIdentity) || errors.Is(err, ErrNoIdentity) && failed != nil {
				err = failed
			}
			continue
		}
		out.block, err = aes.NewCipher(key)
		return out, err
	}
	return nil, err
}

// open decrypts a node in place. path are the keys that lead to it; lists add none.
func (o *sopsOpener) open(node *yaml.Node, path []string, depth int) error {
	o.nodes++
	if depth > maxSOPSDepth || o.nodes > maxSOPSNodes {
		return fmt.Errorf("%w: it is nested more than %d deep, or expands to more than %d values", ErrDamaged, maxSOPSDepth, maxSOPSNodes)
	}
	node.HeadComment, node.LineComment, node.FootComment, node.Anchor = "", "", "", ""
	switch node.Kind {
	case yaml.AliasNode:
		// Encrypted values stand at another path than their anchor, so SOPS itself writes no alias.
		return fmt.Errorf("%w: it has an alias, which SOPS writes none of", ErrDamaged)
	case yaml.MappingNode:
		seen := map[string]bool{}
		for i := 0; i+1 < len(node.Content); i += 2 {
			key := node.Content[i]
			key.HeadComment, key.LineComment, key.FootComment = "", "", ""
			if key.Kind != yaml.ScalarNode || seen[key.Value] {
				return fmt.Errorf("%w: a key is no text, or there twice", ErrDamaged)
			}
			seen[key.Value] = true
			if err := o.open(node.Content[i+1], append(path[:len(path):len(path)], key.Value), depth+1); err != nil {
				return err
			}
		}
		return nil
	case yaml.SequenceNode:
		kept := node.Content[:0]
		for _, item := range node.Content {
			if err := o.open(item, path, depth+1); err != nil {
				return err
			}
			if item.Tag != sopsComment {
				kept = append(kept, item)
			}
		}
		node.Content = kept
		return nil
	}
	return o.scalar(node, path)
}

// sopsComment tags what was a comment in a list, which SOPS encrypts as a value.
const sopsComment = "!sops-comment"

func (o *sopsOpener) scalar(node *yaml.Node, path []string) error {
	if node.ShortTag() == "!!null" {
		return nil
	}
	encrypted := o.encrypted(path)
	if encrypted && node.Value != "" {
		text, kind, err := o.value(node.Value, strings.Join(path, ":")+":")
		if err != nil {
			return fmt.Errorf("%s: %w", strings.Join(path, "."), err)
		}
		node.Style, node.Value, node.Tag = 0, text, kind
		if kind == sopsComment {
			return nil
		}
		if kind == "!!str" {
			node.Style = yaml.DoubleQuotedStyle
		}
		if len(text) > 0 {
			o.secrets = append(o.secrets, text)
		}
	}
	if o.metadata.MACOnlyEncrypted && !encrypted {
		return nil
	}
	data, err := sopsBytes(node)
	if err != nil {
		return fmt.Errorf("%s: %w", strings.Join(path, "."), err)
	}
	_, _ = o.sum.Write(data) // a hash takes everything
	return nil
}

// encrypted says by the file's rules whether the value at a path is; the last rule that is set decides, as in SOPS.
func (o *sopsOpener) encrypted(path []string) bool {
	some := func(is func(string) bool) bool {
		for _, key := range path {
			if is(key) {
				return true
			}
		}
		return false
	}
	encrypted := true
	if suffix := o.metadata.UnencryptedSuffix; suffix != "" && some(func(key string) bool { return strings.HasSuffix(key, suffix) }) {
		encrypted = false
	}
	if suffix := o.metadata.EncryptedSuffix; suffix != "" {
		encrypted = some(func(key string) bool { return strings.HasSuffix(key, suffix) })
	}
	if o.unencrypted != nil && some(o.unencrypted.MatchString) {
		encrypted = false
	}
	if o.enc != nil {
		encrypted = some(o.enc.MatchString)
	}
	return encrypted
}

var sopsValue = regexp.MustCompile(`^ENC\[AES256_GCM,data:(.+),iv:(.+),tag:(.+),type:(.+)\]$`)

// sopsTags are the YAML tags of SOPS' types.
var sopsTags = map[string]string{
	"str": "!!str", "int": "!!int", "float": "!!float", "bool": "!!bool", "bytes": "!!str", "time": "!!timestamp", "comment": sopsComment,
}

// value decrypts one value. What it is authenticated with is its path.
func (o *sopsOpener) value(text, path string) (plain, tag string, err error) {
	match := sopsValue.FindStringSubmatch(text)
	if match == nil {
		return "", "", fmt.Errorf("%w: it should be encrypted and is not", ErrDamaged)
	}
	var parts [3][]byte
	for i := range parts {
		if parts[i], err = base64.StdEncoding.DecodeString(match[i+1]); err != nil {
			return "", "", fmt.Errorf("%w: it is no base64", ErrDamaged)
		}
	}
	data, nonce, sum := parts[0], parts[1], parts[2]
	tag, known := sopsTags[match[4]]
	if !known || len(nonce) == 0 || len(sum) != aes.BlockSize {
		return "", "", fmt.Errorf("%w: it is of an unknown form", ErrDamaged)
	}
	gcm, err := cipher.NewGCMWithNonceSize(o.block, len(nonce))
	if err != nil {
		return "", "", fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	opened, err := gcm.Open(nil, nonce, append(data, sum...), []byte(path))
	if err != nil {
		return "", "", fmt.Errorf("%w: it was changed, or belongs elsewhere", ErrDamaged)
	}
	switch plain = string(opened); tag {
	case "!!bool":
		plain = strings.ToLower(plain) // SOPS writes Python's True and False
	case "!!float":
		number, err := strconv.ParseFloat(plain, 64)
		if err != nil {
			return "", "", fmt.Errorf("%w: it is no number", ErrDamaged)
		}
		plain = strconv.FormatFloat(number, 'g', -1, 64) // not as a long integer
	}
	return plain, tag, nil
}

// checkMAC compares what was summed up with what SOPS signed.
func (o *sopsOpener) checkMAC() error {
	// SOPS reads the time and writes it again before it authenticates with it.
	modified, err := time.Parse(time.RFC3339, o.metadata.LastModified)
	if err != nil {
		return fmt.Errorf("%w: its SOPS metadata has no time", ErrDamaged)
	}
	want, _, err := o.value(o.metadata.MAC, modified.Format(time.RFC3339))
	if err != nil {
		return fmt.Errorf("MAC of SOPS: %w", err)
	}
	if subtle.ConstantTimeCompare([]byte(want), fmt.Appendf(nil, "%X", o.sum.Sum(nil))) != 1 {
		return fmt.Errorf("%w: the MAC of SOPS doesn't fit: values were changed, moved or removed", ErrDamaged)
	}
	return nil
}
