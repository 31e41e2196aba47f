package medium

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/mirror"
	"pinnace.dev/pinnace/pkg/oci/mirror/transfer"
)

// keptSize is how many bytes of a kept manifest's digest the index has. They find the manifest in its repository, and
// nothing is trusted for them; a delta would else consist of digests for the most part. Two of a million manifests
// agree in so many bytes with a probability of 1 in 30 million.
const keptSize = 8

// abbreviate writes what is kept into the index: by repository, the first bytes of the digests, sorted, base64.
func abbreviate(kept map[string][]digest.Digest) map[string]string {
	short := map[string]string{}
	for repository, digests := range kept {
		var raw [][]byte
		for _, d := range digests {
			if sum, err := hex.DecodeString(d.Encoded()); err == nil && len(sum) >= keptSize {
				raw = append(raw, sum[:keptSize])
			}
		}
		slices.SortFunc(raw, bytes.Compare)
		short[repository] = base64.RawStdEncoding.EncodeToString(bytes.Join(raw, nil))
	}
	return short
}

// kept reads what is kept: by repository, the beginnings of digests.
func (x *Index) kept() (map[string][]digest.Digest, error) {
	kept := map[string][]digest.Digest{}
	for repository, short := range x.Kept {
		raw, err := base64.RawStdEncoding.DecodeString(short)
		if err != nil || len(raw) == 0 || len(raw)%keptSize != 0 {
			return nil, fmt.Errorf("index: %w: what is kept in %q", oci.ErrDamaged, repository)
		}
		for sum := range slices.Chunk(raw, keptSize) {
			kept[repository] = append(kept[repository], digest.NewDigestFromBytes(digest.SHA256, sum))
		}
	}
	return kept, nil
}

// gone are manifests that are kept and that the receiver hasn't.
func (i *importing) gone(ctx context.Context) ([]Held, error) {
	kept, err := i.index.kept()
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	var gone []Held
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(cmp.Or(i.Jobs, transfer.DefaultJobs))
	for _, name := range slices.Sorted(maps.Keys(kept)) {
		group.Go(func() error {
			absent, err := i.absentOf(ctx, name, kept[name])
			mu.Lock()
			defer mu.Unlock()
			for _, d := range absent {
				gone = append(gone, Held{Blob: mirror.Blob{Digest: d}, In: []string{name}})
			}
			return err
		})
	}
	err = group.Wait()
	slices.SortFunc(gone, func(a, b Held) int { return cmp.Compare(a.Digest, b.Digest) })
	return gone, err
}

// absentOf returns which of a repository's kept manifests are not there. Their digests are taken from the receipt, and
// those that it doesn't name from the repository itself.
func (i *importing) absentOf(ctx context.Context, name string, kept []digest.Digest) ([]digest.Digest, error) {
	repo, err := i.To.Repository(name)
	if err != nil {
		return nil, err
	}
	named, err := i.before.In(name)
	if err != nil {
		return nil, err
	}
	var absent []digest.Digest
	listed := false
	for _, short := range kept {
		full, ok := find(named, short)
		if !ok && !listed {
			listed = true
			there, err := mirror.Contents(ctx, repo)
			if err != nil {
				return nil, err
			}
			named = append(named, there...)
			full, ok = find(named, short)
		}
		if ok {
			_, err = repo.Resolve(ctx, full.String())
		}
		switch {
		case !ok:
			absent = append(absent, short)
		case errors.Is(err, oci.ErrNotFound):
			absent = append(absent, full)
		case err != nil:
			return nil, err
		}
	}
	return absent, nil
}

// find returns the digest that begins so.
func find(digests []digest.Digest, short digest.Digest) (digest.Digest, bool) {
	i := slices.IndexFunc(digests, func(d digest.Digest) bool { return strings.HasPrefix(d.String(), short.String()) })
	if i < 0 {
		return "", false
	}
	return digests[i], true
}
