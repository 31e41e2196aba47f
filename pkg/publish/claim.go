package publish

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
)

// Registries have no compare-and-swap: of two publishers that find pub-<n> free, both could set it. So each says first
// that it wants to, under a tag of its own, and then looks who else does. Whoever is alone may; whoever sees a claim
// that sorts before its own gives way. Both rules hold whatever the order of the requests, as long as a registry lists
// what was pushed before the question.
//
// A claim is never taken back by deleting it, which many registries don't allow, but by a second tag. One that neither
// leads to a publication nor is taken back within claimPatience belongs to a publisher that died.
const (
	claimPrefix = "claim-"
	voidPrefix  = "void-"

	claimPatience = 15 * time.Second
	claimPause    = 100 * time.Millisecond
)

// claim is the right to make one publication. All claims on one publication are the same manifest under other tags.
type claim struct {
	repo        oci.Repository
	publication int64
	id          string
}

func (c *claim) artifact() oci.Artifact {
	return oci.Artifact{
		Type:        v1alpha1.ArtifactTypeFleet,
		Layers:      []oci.Blob{{MediaType: ocispec.MediaTypeEmptyJSON, Data: ocispec.DescriptorEmptyJSON.Data}},
		Annotations: map[string]string{"pinnace.dev/publication": strconv.FormatInt(c.publication, 10)},
	}
}

func newClaim(ctx context.Context, repo oci.Repository, publication int64) (*claim, error) {
	random := make([]byte, 8)
	_, _ = rand.Read(random) // crypto/rand.Read never fails
	c := &claim{repo: repo, publication: publication, id: fmt.Sprintf("%d-%s", publication, hex.EncodeToString(random))}
	_, _, err := oci.Push(ctx, repo, c.artifact(), claimPrefix+c.id)
	return c, err
}

// void takes a claim back, or that of a publisher that died.
func (c *claim) void(ctx context.Context, id string) error {
	_, _, err := oci.Push(ctx, c.repo, c.artifact(), voidPrefix+id)
	return err
}

// others returns the claims of others on the same publication that were not taken back, sorted.
func (c *claim) others(ctx context.Context) ([]string, error) {
	tags, err := c.repo.Tags(ctx)
	if err != nil {
		return nil, err
	}
	wanted := fmt.Sprintf("%s%d-", claimPrefix, c.publication)
	var ids []string
	for _, tag := range tags {
		id, isClaim := strings.CutPrefix(tag, claimPrefix)
		if !isClaim || !strings.HasPrefix(tag, wanted) || id == c.id {
			continue
		}
		if _, void := slices.BinarySearch(tags, voidPrefix+id); !void {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// taken reports whether somebody made the publication.
func (c *claim) taken(ctx context.Context) (bool, error) {
	_, err := c.repo.Resolve(ctx, v1alpha1.PublicationTag(c.publication))
	if errors.Is(err, oci.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// takePublication sets pub-<n>, unless somebody else did or is about to: that is [ErrConcurrent].
func takePublication(ctx context.Context, repo oci.Repository, publication int64, desc ocispec.Descriptor) error {
	for {
		c, err := newClaim(ctx, repo, publication)
		if err != nil {
			return err
		}
		won, err := c.win(ctx)
		if err == nil && won {
			return repo.Tag(ctx, desc, v1alpha1.PublicationTag(publication))
		}
		if voided := c.void(context.WithoutCancel(ctx), c.id); err == nil {
			err = voided
		}
		if err == nil {
			err = c.giveWay(ctx)
		}
		if err != nil {
			return err
		}
	}
}

// win waits until nobody else claims the publication. It is false when somebody else goes first.
func (c *claim) win(ctx context.Context) (bool, error) {
	for started := time.Now(); ; {
		asked := time.Now()
		others, err := c.others(ctx)
		if err != nil {
			return false, err
		}
		// Asked after the list: who made the publication before may have cleaned up.
		if taken, err := c.taken(ctx); err != nil || taken {
			return false, err
		}
		switch {
		case len(others) == 0 && time.Since(asked) < claimPatience/2:
			return true, nil
		case len(others) == 0: // others may have lost patience with this one meanwhile
			return false, nil
		case others[0] < c.id:
			return false, nil
		case time.Since(started) > claimPatience:
			for _, id := range others {
				if err := c.void(ctx, id); err != nil {
					return false, err
				}
			}
		}
		if err := pause(ctx, claimPause); err != nil {
			return false, err
		}
	}
}

// giveWay waits until who goes first made the publication, which is [ErrConcurrent], or died.
func (c *claim) giveWay(ctx context.Context) error {
	for started := time.Now(); ; {
		others, err := c.others(ctx)
		if err != nil {
			return err
		}
		switch taken, err := c.taken(ctx); {
		case err != nil:
			return err
		case taken:
			return fmt.Errorf("publication %d: %w", c.publication, ErrConcurrent)
		case len(others) == 0:
			return nil
		}
		if time.Since(started) > claimPatience {
			for _, id := range others {
				if err := c.void(ctx, id); err != nil {
					return err
				}
			}
		}
		if err := pause(ctx, claimPause); err != nil {
			return err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
