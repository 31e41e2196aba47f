package source

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	gitcache "github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/transport"
	"github.com/go-git/go-git/v5/storage/filesystem"
	"github.com/go-git/go-git/v5/storage/memory"
	"golang.org/x/crypto/ssh/knownhosts"

	"pinnace.dev/pinnace/api/v1alpha1"
)

const (
	// treeDir holds the checkout, gitDir the fetched objects, both in a working folder.
	treeDir = "tree"
	gitDir  = "git"
	// fetched is the local name of what was fetched.
	fetched = plumbing.ReferenceName("refs/pinnace/fetched")
)

// remote is one repository on its server.
type remote struct {
	address  address
	auth     transport.AuthMethod
	caBundle []byte
	quota    int64 // bytes that are fetched at most
}

func newRemote(ctx context.Context, a address, auth Auth) (*remote, error) {
	method, err := auth.method(ctx, a)
	if failure := (*Error)(nil); errors.As(err, &failure) {
		return nil, err
	}
	if err != nil {
		return nil, &Error{URL: a.identity, Kind: ErrUnauthorized, Err: err}
	}
	r := &remote{address: a, auth: method, quota: maxBytes}
	if auth.CAFile != "" && a.scheme == "https" {
		if r.caBundle, err = os.ReadFile(auth.CAFile); err != nil {
			return nil, fmt.Errorf("certificates for git: %w", err)
		}
	}
	return r, nil
}

// revision is what a reference points at. name is empty when a commit was asked for by its hash.
type revision struct {
	name   plumbing.ReferenceName
	commit string
	// tag is the hash of the annotated tag that leads to the commit; empty when none does.
	tag string
	// version is the tag that a range means.
	version string
}

// resolve lists the references once. A commit needs no listing.
func (r *remote) resolve(ctx context.Context, ref v1alpha1.GitRef) (revision, error) {
	if ref.Commit != "" {
		return revision{commit: ref.Commit}, nil
	}
	lister := git.NewRemote(memory.NewStorage(), &config.RemoteConfig{Name: "origin", URLs: []string{r.address.url}})
	references, err := lister.ListContext(ctx, &git.ListOptions{
		Auth: r.auth, CABundle: r.caBundle, PeelingOption: git.AppendPeeled,
	})
	if err != nil {
		return revision{}, r.fail(ctx, err)
	}
	byName := map[plumbing.ReferenceName]*plumbing.Reference{}
	for _, reference := range references {
		byName[reference.Name()] = reference
	}
	name, what, chosen := plumbing.HEAD, "HEAD", ""
	switch {
	case ref.Branch != "":
		name, what = plumbing.NewBranchReferenceName(ref.Branch), fmt.Sprintf("branch %q", ref.Branch)
	case ref.Semver != "":
		version, err := highestTag(byName, ref.Semver)
		if err != nil {
			return revision{}, err
		}
		name, what = plumbing.NewTagReferenceName(version), fmt.Sprintf("tag within %q", ref.Semver)
		chosen = version
	case ref.Tag != "":
		name, what = plumbing.NewTagReferenceName(ref.Tag), fmt.Sprintf("tag %q", ref.Tag)
	default:
		if head := byName[name]; head != nil && head.Type() == plumbing.SymbolicReference {
			name = head.Target()
		}
	}
	reference := byName[name]
	if reference == nil || reference.Type() != plumbing.HashReference {
		return revision{}, &Error{
			URL: r.address.identity, Kind: ErrNotFound, Err: fmt.Errorf("no %s", what),
			Act: "push it or change git.ref of the source" + similar(name, byName),
		}
	}
	out := revision{name: name, commit: reference.Hash().String(), version: chosen}
	// An annotated tag points at a tag object; what it peels to is the commit.
	if peeled := byName[name+"^{}"]; peeled != nil {
		out.tag, out.commit = out.commit, peeled.Hash().String()
	}
	return out, nil
}

// highestTag returns the tag that a range means; a name that no tag has when there is none.
func highestTag(all map[plumbing.ReferenceName]*plumbing.Reference, within string) (string, error) {
	var tags []string
	for name := range all {
		if name.IsTag() && !strings.HasSuffix(string(name), "^{}") {
			tags = append(tags, name.Short())
		}
	}
	return HighestVersion(tags, within)
}

func similar(name plumbing.ReferenceName, all map[plumbing.ReferenceName]*plumbing.Reference) string {
	for _, prefix := range []string{"refs/heads/", "refs/tags/"} {
		for _, known := range []string{name.Short(), "main", "master"} {
			candidate := plumbing.ReferenceName(prefix + known)
			if _, found := all[candidate]; found && candidate != name {
				return fmt.Sprintf(" (there is %s)", candidate)
			}
		}
	}
	return ""
}

// fetch gets the revision, shallow where the server can, writes its files to work/tree and returns the commit. The
// commit differs from the revision's when the branch moved in the meantime.
func (r *remote) fetch(ctx context.Context, rev revision, work string) (string, signed, error) {
	disk := newQuotaFS(osfs.New(filepath.Join(work, gitDir)), r.quota)
	storage := filesystem.NewStorage(disk, gitcache.NewObjectLRUDefault())
	defer func() { _ = storage.Close() }()
	repository, err := git.Init(storage, nil)
	if err != nil {
		return "", signed{}, fmt.Errorf("cache of checkouts: %w", err)
	}
	origin, err := repository.CreateRemote(&config.RemoteConfig{Name: "origin", URLs: []string{r.address.url}})
	if err != nil {
		return "", signed{}, r.fail(ctx, err)
	}
	get := func(depth int, specs ...config.RefSpec) error {
		return origin.FetchContext(ctx, &git.FetchOptions{
			Auth: r.auth, CABundle: r.caBundle, Depth: depth, Tags: git.NoTags, RefSpecs: specs, Force: true,
		})
	}
	hash := plumbing.NewHash(rev.commit)
	if rev.name != "" {
		if err := get(1, config.RefSpec("+"+rev.name+":"+fetched)); err != nil {
			return "", signed{}, r.fail(ctx, err)
		}
		reference, err := repository.Reference(fetched, true)
		if err != nil {
			return "", signed{}, r.fail(ctx, err)
		}
		hash = reference.Hash()
	} else if err := get(1, config.RefSpec(rev.commit+":"+fetched.String())); err != nil {
		// Servers hand out single commits only where they are set up to, and say so in many ways.
		if failure := r.classify(err); ctx.Err() != nil || failure != nil {
			return "", signed{}, r.fail(ctx, err)
		}
		if err := get(0, "+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"); err != nil {
			return "", signed{}, r.fail(ctx, err)
		}
	}
	commit, err := peel(repository, hash)
	if err != nil {
		return "", signed{}, &Error{
			URL: r.address.identity, Kind: ErrNotFound, Err: fmt.Errorf("commit %s: %w", hash, err),
			Act: "push it to a branch or a tag, or change git.ref of the source",
		}
	}
	if err := export(ctx, commit, filepath.Join(work, treeDir)); err != nil {
		return "", signed{}, &Error{URL: r.address.identity, Kind: ErrRefused, Err: err}
	}
	objects, err := signedObjects(repository, hash, commit)
	if err != nil {
		return "", signed{}, r.fail(ctx, err)
	}
	objects.tagName = rev.name.Short()
	return commit.Hash.String(), objects, nil
}

func peel(repository *git.Repository, hash plumbing.Hash) (*object.Commit, error) {
	if tag, err := repository.TagObject(hash); err == nil {
		return tag.Commit()
	}
	return repository.CommitObject(hash)
}

// fail says which kind of failure it is, and what mends it.
func (r *remote) fail(ctx context.Context, err error) error {
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return ctx.Err()
	case ctx.Err() != nil:
		return &Error{URL: r.address.identity, Kind: ErrUnreachable, Err: ctx.Err()}
	}
	if failure := r.classify(err); failure != nil {
		return failure
	}
	failure := &Error{URL: r.address.identity, Err: err}
	switch r.address.scheme {
	case "ssh":
		// What is left of a handshake that reached the server.
		failure.Kind, failure.Act = ErrUnauthorized, r.credentialsAct()
	case "file":
		failure.Kind, failure.Act = ErrNotFound, "check the path, and that git is installed"
	default:
		failure.Kind, failure.Act = ErrUnreachable, "check that the URL is a Git repository's and look at the server's log"
	}
	return failure
}

// classify knows the errors that say by their type what they are; nil for others.
func (r *remote) classify(err error) *Error {
	var network net.Error
	var hostKey *knownhosts.KeyError
	var certificate *tls.CertificateVerificationError
	failure := &Error{URL: r.address.identity, Err: err}
	switch {
	case errors.Is(err, errQuota):
		failure.Kind = ErrRefused
	case errors.As(err, &hostKey):
		failure.Kind = ErrUnauthorized
		failure.Act = fmt.Sprintf("check the server's key and add it: ssh-keyscan %s >> ~/.ssh/known_hosts", strings.Split(r.address.host, ":")[0])
	case errors.Is(err, transport.ErrAuthenticationRequired):
		failure.Kind, failure.Err, failure.Act = ErrUnauthorized, transport.ErrAuthenticationRequired, r.credentialsAct()
	case errors.Is(err, transport.ErrAuthorizationFailed), errors.Is(err, transport.ErrInvalidAuthMethod):
		failure.Kind, failure.Act = ErrUnauthorized, r.credentialsAct()
	case errors.Is(err, transport.ErrRepositoryNotFound):
		failure.Kind, failure.Err, failure.Act = ErrNotFound, transport.ErrRepositoryNotFound, "check the URL"
		if r.address.scheme != "file" {
			failure.Act += "; servers also say so when credentials are missing: " + r.credentialsAct()
		}
	case errors.Is(err, transport.ErrEmptyRemoteRepository):
		failure.Kind, failure.Act = ErrNotFound, "push a first commit"
	case errors.As(err, &certificate):
		failure.Kind, failure.Act = ErrUnreachable, "name the file with its authority's certificate in PINNACE_GIT_CA_FILE"
	case errors.As(err, &network):
		failure.Kind, failure.Act = ErrUnreachable, "check the URL, the network and the proxy"
	default:
		return nil
	}
	return failure
}

func (r *remote) credentialsAct() string {
	switch r.address.scheme {
	case "ssh":
		return "add a key that the server knows to the agent (ssh-add), or name its file in PINNACE_GIT_SSH_KEY"
	case "file":
		return "check the folder's permissions"
	}
	act := fmt.Sprintf("put %s://USER:TOKEN@%s into ~/.git-credentials", r.address.scheme, r.address.host)
	if r.address.scheme == "https" {
		act += ", or set PINNACE_GIT_TOKEN and PINNACE_GIT_HOST=" + r.address.host
	}
	return act
}
