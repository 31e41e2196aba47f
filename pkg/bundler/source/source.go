// Package source turns a Git revision into a folder.
//
// [Checkout] fetches what a [v1alpha1.Source] names, [Fleet] the fleet repository itself. Checkouts are plain folders
// without .git, kept by commit below a cache folder: an unchanged repository costs one listing of its references.
// What went wrong is an [Error] that names the repository without credentials and what mends it.
package source

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// DefaultTimeout ends a checkout from a server that keeps the connection open and sends nothing.
const DefaultTimeout = 10 * time.Minute

// Options say where checkouts are kept and how servers are reached.
type Options struct {
	// CacheDir keeps checkouts; it is made when absent, readable for its owner only.
	CacheDir string
	// Fleet is what a source without git means: the fleet repository itself.
	Fleet Tree
	Auth  Auth
	// Timeout of one checkout; DefaultTimeout when zero.
	Timeout time.Duration
}

// Tree is a source's content on disk.
type Tree struct {
	// Dir is absolute and must not be written to.
	Dir string
	// Commit is the full hash; empty for a local folder.
	Commit string
	// Repository identifies where it came from: the URL without user, password, default port and .git; empty for a
	// local folder.
	Repository string
	// Version is the tag that a range of versions meant; empty for others.
	Version string
	// Cached is true when nothing was fetched.
	Cached bool
}

// What callers branch on; an [Error] is one of them.
var (
	ErrUnauthorized = errors.New("not authorised")
	ErrNotFound     = errors.New("not found")
	ErrUnreachable  = errors.New("unreachable")
	ErrRefused      = errors.New("refused")
)

// Error says which repository could not be checked out, why, and what mends it.
type Error struct {
	// URL has no user and no password.
	URL string
	// Kind is one of the package's errors.
	Kind error
	// Err is the cause.
	Err error
	// Act is what a person can do.
	Act string
}

func (e *Error) Error() string {
	text := fmt.Sprintf("git %s: %v", e.URL, e.Kind)
	if e.Err != nil {
		text += fmt.Sprintf(": %v", e.Err)
	}
	if e.Act != "" {
		text += "; " + e.Act
	}
	return text
}

func (e *Error) Unwrap() []error { return []error{e.Kind, e.Err} }

// Checkout returns the content of a source: opts.Fleet when it names no repository, else the revision that its
// reference points at now. It may be called concurrently, also by several processes with the same cache folder.
func Checkout(ctx context.Context, src v1alpha1.Source, opts Options) (Tree, error) {
	if src.Git == nil {
		if opts.Fleet.Dir == "" {
			return Tree{}, fmt.Errorf("source %q: names no git repository and there is no fleet folder", src.Name)
		}
		return opts.Fleet, nil
	}
	tree, err := checkout(ctx, *src.Git, opts)
	if err != nil {
		return Tree{}, fmt.Errorf("source %q: %w", src.Name, err)
	}
	return tree, nil
}

// Fleet returns the fleet repository: a local folder, which is used in place, or a repository's URL at a revision.
func Fleet(ctx context.Context, location string, ref v1alpha1.GitRef, opts Options) (Tree, error) {
	if IsURL(location) {
		tree, err := checkout(ctx, v1alpha1.GitSource{URL: location, Ref: ref}, opts)
		if err != nil {
			return Tree{}, fmt.Errorf("fleet: %w", err)
		}
		return tree, nil
	}
	if ref != (v1alpha1.GitRef{}) {
		return Tree{}, fmt.Errorf("fleet %s: a local folder has no branch, tag or commit to choose; use file://%s", location, location)
	}
	dir, err := filepath.Abs(location)
	if err != nil {
		return Tree{}, fmt.Errorf("fleet: %w", err)
	}
	// Symbolic links on the way to the folder are the user's; those inside of it are checked where files are read.
	dir, err = filepath.EvalSymlinks(dir)
	if err != nil {
		return Tree{}, fmt.Errorf("fleet: %w", err)
	}
	if info, err := os.Stat(dir); err != nil {
		return Tree{}, fmt.Errorf("fleet: %w", err)
	} else if !info.IsDir() {
		return Tree{}, fmt.Errorf("fleet %s: is a file; name the folder that holds pinnace.yaml", location)
	}
	return Tree{Dir: dir, Cached: true}, nil
}

func checkout(ctx context.Context, git v1alpha1.GitSource, opts Options) (Tree, error) {
	if opts.CacheDir == "" {
		return Tree{}, errors.New("no cache folder for checkouts")
	}
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(opts.Timeout, DefaultTimeout))
	defer cancel()
	address, err := parseAddress(git.URL)
	if err != nil {
		return Tree{}, err
	}
	if err := checkRef(git.Ref); err != nil {
		return Tree{}, &Error{URL: address.identity, Kind: ErrRefused, Err: err}
	}
	verify, err := newVerifier(git.Verify, opts.Fleet.Dir)
	if err != nil {
		return Tree{}, &Error{URL: address.identity, Kind: ErrRefused, Err: err}
	}
	remote, err := newRemote(ctx, address, opts.Auth)
	if err != nil {
		return Tree{}, err
	}
	revision, err := remote.resolve(ctx, git.Ref)
	if err != nil {
		return Tree{}, err
	}
	tree := Tree{Commit: revision.commit, Repository: address.identity, Version: revision.version, Cached: true}
	store := cache{dir: opts.CacheDir, repository: address.identity}
	var found bool
	if tree.Dir, found = store.lookup(revision.commit); found {
		if verify == nil {
			return tree, nil
		}
		if signed, err := store.signed(revision); err == nil {
			return tree, verify.check(address.identity, signed)
		}
	}
	var signed signed
	tree.Cached = false
	tree.Dir, tree.Commit, err = store.fill(func(work string) (commit string, err error) {
		if commit, signed, err = remote.fetch(ctx, revision, work); err != nil {
			return "", err
		}
		return commit, verify.check(address.identity, signed)
	})
	if err != nil {
		return Tree{}, err
	}
	if verify != nil {
		// Without them the next checkout fetches again.
		_ = store.keepSigned(signed)
	}
	return tree, nil
}

// Cached returns a repository's checkout at a commit when it is on disk. Nobody is asked.
func Cached(git v1alpha1.GitSource, commit string, opts Options) (Tree, bool) {
	address, err := parseAddress(git.URL)
	if err != nil || opts.CacheDir == "" || !fullHash.MatchString(commit) {
		return Tree{}, false
	}
	dir, found := cache{dir: opts.CacheDir, repository: address.identity}.lookup(commit)
	return Tree{Dir: dir, Commit: commit, Repository: address.identity, Cached: true}, found
}
