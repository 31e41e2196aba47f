package oci

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// AttachedListed returns a view of a repository that lists the tags once, and then knows without asking which manifests
// have something attached by a tag: for whoever looks at many manifests of a repository of which few have much attached.
// It is for the moment: what is attached after the list was taken is not noticed.
func AttachedListed(repo Repository) Repository {
	view := &listed{Repository: repo}
	if registry, ok := repo.(*remoteRepository); ok {
		return &listedRemote{listed: view, remote: registry}
	}
	return view
}

type listed struct {
	Repository

	once sync.Once
	all  []string
	tags map[string]bool
	err  error
}

// Tags are those of the one list.
func (l *listed) Tags(ctx context.Context) ([]string, error) {
	l.once.Do(func() {
		l.all, l.err = l.Repository.Tags(ctx)
		l.tags = make(map[string]bool, len(l.all))
		for _, tag := range l.all {
			l.tags[tag] = true
		}
	})
	return l.all, l.err
}

// attachedPrefix begins the tags of what is attached: sha256-<hex>, with a suffix or without.
const attachedPrefix = "sha256-"

// absent says that a tag is known not to be there.
func (l *listed) absent(ctx context.Context, reference string) (bool, error) {
	if !strings.HasPrefix(reference, attachedPrefix) {
		return false, nil
	}
	_, err := l.Tags(ctx)
	return !l.tags[reference], err
}

// check returns ErrNotFound for a tag that isn't there.
func (l *listed) check(ctx context.Context, reference string) error {
	absent, err := l.absent(ctx, reference)
	if err == nil && absent {
		err = fmt.Errorf("%s:%s: %w", l, reference, ErrNotFound)
	}
	return err
}

func (l *listed) Resolve(ctx context.Context, reference string) (ocispec.Descriptor, error) {
	if err := l.check(ctx, reference); err != nil {
		return ocispec.Descriptor{}, err
	}
	return l.Repository.Resolve(ctx, reference)
}

// listedRemote is a view of a repository on a registry.
type listedRemote struct {
	*listed
	remote *remoteRepository
}

func (l *listedRemote) fetchTagged(ctx context.Context, reference string) (ocispec.Descriptor, io.ReadCloser, error) {
	if err := l.check(ctx, reference); err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	return l.remote.fetchTagged(ctx, reference)
}

// listReferrers doesn't ask for an index where the registry is known to have no referrers API and the tag isn't there.
func (l *listedRemote) listReferrers(ctx context.Context, subject ocispec.Descriptor) (list []ocispec.Descriptor, native bool, err error) {
	if time.Now().Unix() < l.remote.registry.unlisted.Load() {
		if absent, err := l.absent(ctx, ReferrersTag(subject.Digest)); err != nil || absent {
			return nil, false, err
		}
	}
	return l.remote.listReferrers(ctx, subject)
}
