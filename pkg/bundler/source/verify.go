package source

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"

	"pinnace.dev/pinnace/api/v1alpha1"
)

const (
	// maxKeyFile stops a file of public keys that fills the memory: the fleet repository names it.
	maxKeyFile = 1 << 20
	// maxObject stops commits and tags that fill the memory: their messages have no other bound.
	maxObject = 8 << 20
	// gitNamespace is what git signs for with SSH keys; a signature for a file or a mail doesn't count.
	gitNamespace = "git"

	sshSignature = "-----BEGIN SSH SIGNATURE-----"
	pgpKeyBlock  = "-----BEGIN PGP PUBLIC KEY BLOCK-----"
)

// signed are the objects of a revision that may be signed, as Git keeps them.
type signed struct {
	commitHash, tagHash string
	commit, tag         []byte // tag is nil when no annotated tag leads to the commit
	// tagName is what was asked for: a signed tag under another name says nothing.
	tagName string
}

// signedObjects reads the commit and, where hash is an annotated tag's, the tag.
func signedObjects(repository *git.Repository, hash plumbing.Hash, commit *object.Commit) (signed, error) {
	out := signed{commitHash: commit.Hash.String()}
	var err error
	if out.commit, err = readObject(repository, plumbing.CommitObject, commit.Hash); err != nil {
		return out, err
	}
	if hash == commit.Hash {
		return out, nil
	}
	out.tagHash = hash.String()
	out.tag, err = readObject(repository, plumbing.TagObject, hash)
	return out, err
}

func readObject(repository *git.Repository, kind plumbing.ObjectType, hash plumbing.Hash) ([]byte, error) {
	found, err := repository.Storer.EncodedObject(kind, hash)
	if err != nil {
		return nil, err
	}
	reader, err := found.Reader()
	if err != nil {
		return nil, err
	}
	defer func() { _ = reader.Close() }()
	data, err := io.ReadAll(io.LimitReader(reader, maxObject+1))
	if err == nil && len(data) > maxObject {
		err = fmt.Errorf("%s %s has more than %d bytes", kind, hash, maxObject)
	}
	return data, err
}

// verifier refuses revisions that no allowed key signed. Nil accepts all.
type verifier struct {
	what string
	pgp  openpgp.EntityList
	ssh  []ssh.PublicKey
	// names of the keys, for people.
	names []string
}

// newVerifier reads the keys; files are relative to dir.
func newVerifier(spec *v1alpha1.GitVerify, dir string) (*verifier, error) {
	if spec == nil {
		return nil, nil
	}
	v := &verifier{what: spec.What}
	switch v.what {
	case "":
		v.what = v1alpha1.GitVerifyCommit
	case v1alpha1.GitVerifyCommit, v1alpha1.GitVerifyTag, v1alpha1.GitVerifyTagAndCommit:
	default:
		return nil, fmt.Errorf("verify.what %q is none of commit, tag and tagAndCommit", v.what)
	}
	if len(spec.Keys) == 0 {
		return nil, errors.New("verify names no key; add one to verify.keys")
	}
	for i, key := range spec.Keys {
		if err := v.add(key, dir); err != nil {
			return nil, fmt.Errorf("verify.keys[%d] %q: %w", i, key.Name, err)
		}
		v.names = append(v.names, key.Name)
	}
	return v, nil
}

func (v *verifier) add(key v1alpha1.GitKey, dir string) error {
	text := key.PublicKey
	switch {
	case (key.PublicKey == "") == (key.File == ""):
		return errors.New("set exactly one of publicKey and file")
	case key.File != "":
		var err error
		if text, err = readKeyFile(key.File, dir); err != nil {
			return err
		}
	}
	if strings.Contains(text, pgpKeyBlock) {
		keys, err := openpgp.ReadArmoredKeyRing(strings.NewReader(text))
		if err != nil {
			return fmt.Errorf("OpenPGP key: %w", err)
		}
		v.pgp = append(v.pgp, keys...)
		return nil
	}
	rest := []byte(text)
	added := false
	for len(bytes.TrimSpace(rest)) > 0 {
		var public ssh.PublicKey
		var err error
		if public, _, _, rest, err = ssh.ParseAuthorizedKey(rest); err != nil {
			break
		}
		v.ssh, added = append(v.ssh, public), true
	}
	if !added {
		return errors.New("is neither an OpenPGP key in armoured form nor an SSH key as in authorized_keys" + pemHint(text))
	}
	return nil
}

// pemHint helps who gave a key of another kind.
func pemHint(text string) string {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return ""
	}
	if _, err := x509.ParsePKIXPublicKey(block.Bytes); err == nil {
		return "; PEM keys sign artifacts, not commits"
	}
	return ""
}

func readKeyFile(name, dir string) (string, error) {
	if dir == "" {
		return "", fmt.Errorf("file %s: there is no fleet folder that it could be in", name)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", err
	}
	defer func() { _ = root.Close() }()
	file, err := root.Open(filepath.FromSlash(name))
	if err != nil {
		return "", fmt.Errorf("file %s: %w", name, err)
	}
	defer func() { _ = file.Close() }()
	data, err := io.ReadAll(io.LimitReader(file, maxKeyFile+1))
	if err == nil && len(data) > maxKeyFile {
		err = fmt.Errorf("file %s: more than %d bytes", name, maxKeyFile)
	}
	return string(data), err
}

// check refuses a revision whose signatures are not what is required.
func (v *verifier) check(repository string, objects signed) error {
	if v == nil {
		return nil
	}
	refuse := func(what string, err error) error {
		return &Error{
			URL: repository, Kind: ErrRefused, Err: fmt.Errorf("%s: %w", what, err),
			Act: "sign it with a key of git.verify: " + strings.Join(v.names, ", "),
		}
	}
	if v.what != v1alpha1.GitVerifyTag {
		if err := v.commit(objects); err != nil {
			return refuse("commit "+objects.commitHash, err)
		}
	}
	if v.what == v1alpha1.GitVerifyCommit {
		return nil
	}
	if objects.tag == nil {
		return refuse("revision", errors.New("is no annotated tag, and a signed one is required; name a tag or a range of versions in git.ref"))
	}
	if err := v.tag(objects); err != nil {
		return refuse(fmt.Sprintf("tag %q", objects.tagName), err)
	}
	return nil
}

// errUnsigned and errOtherKey are the reasons why a signature doesn't count.
var (
	errUnsigned = errors.New("is not signed")
	errOtherKey = errors.New("no allowed key made the signature")
)

func (v *verifier) commit(objects signed) error {
	encoded, err := decodeObject(plumbing.CommitObject, objects.commitHash, objects.commit)
	if err != nil {
		return err
	}
	commit := &object.Commit{}
	if err := commit.Decode(encoded); err != nil {
		return err
	}
	if commit.PGPSignature == "" {
		return errUnsigned
	}
	if !strings.HasPrefix(commit.PGPSignature, sshSignature) {
		return v.openPGP(commit.Verify)
	}
	bare := &plumbing.MemoryObject{}
	if err := commit.EncodeWithoutSignature(bare); err != nil {
		return err
	}
	return v.openSSH(bare, commit.PGPSignature)
}

func (v *verifier) tag(objects signed) error {
	encoded, err := decodeObject(plumbing.TagObject, objects.tagHash, objects.tag)
	if err != nil {
		return err
	}
	tag := &object.Tag{}
	if err := tag.Decode(encoded); err != nil {
		return err
	}
	switch {
	case tag.Name != objects.tagName:
		return fmt.Errorf("is the tag %q under another name", tag.Name)
	case tag.TargetType != plumbing.CommitObject || tag.Target.String() != objects.commitHash:
		return errors.New("does not point at the commit itself")
	case tag.PGPSignature == "":
		return errUnsigned
	}
	if !strings.HasPrefix(tag.PGPSignature, sshSignature) {
		return v.openPGP(tag.Verify)
	}
	bare := &plumbing.MemoryObject{}
	if err := tag.EncodeWithoutSignature(bare); err != nil {
		return err
	}
	return v.openSSH(bare, tag.PGPSignature)
}

// decodeObject checks that the bytes, which may come from disk, are those of the hash.
func decodeObject(kind plumbing.ObjectType, hash string, data []byte) (*plumbing.MemoryObject, error) {
	if plumbing.ComputeHash(kind, data).String() != hash {
		return nil, fmt.Errorf("the %s's bytes are not those of %s", kind, hash)
	}
	encoded := &plumbing.MemoryObject{}
	encoded.SetType(kind)
	_, err := encoded.Write(data)
	return encoded, err
}

// openPGP tries the keys one by one: an expired key must not spoil the others.
func (v *verifier) openPGP(verify func(armoredKeyRing string) (*openpgp.Entity, error)) error {
	failure := errOtherKey
	for _, key := range v.pgp {
		ring, err := armored(key)
		if err != nil {
			return err
		}
		if _, err = verify(ring); err == nil {
			return nil
		}
		failure = fmt.Errorf("%w: %w", errOtherKey, err)
	}
	return failure
}

// openSSH checks what git makes with gpg.format=ssh.
//
// See https://github.com/openssh/openssh-portable/blob/master/PROTOCOL.sshsig
func (v *verifier) openSSH(message *plumbing.MemoryObject, text string) error {
	signature, err := sshsig.Unarmor([]byte(text))
	if err != nil {
		return fmt.Errorf("SSH signature: %w", err)
	}
	for _, key := range v.ssh {
		reader, err := message.Reader()
		if err != nil {
			return err
		}
		if err := sshsig.Verify(reader, signature, key, signature.HashAlgorithm, gitNamespace); err == nil {
			return nil
		}
	}
	return errOtherKey
}

// armored writes a public key as go-git wants to read it.
func armored(key *openpgp.Entity) (string, error) {
	var out bytes.Buffer
	writer, err := armor.Encode(&out, openpgp.PublicKeyType, nil)
	if err != nil {
		return "", err
	}
	if err := key.Serialize(writer); err != nil {
		return "", err
	}
	if err := writer.Close(); err != nil {
		return "", err
	}
	return out.String(), nil
}
