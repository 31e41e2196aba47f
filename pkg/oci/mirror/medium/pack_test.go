package medium

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/pkg/oci/mirror"
)

// No volume is larger than asked for, whatever falls together in it: a medium has no byte more.
func TestVolumesKeepTheirLimit(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	blob := func(size int64) mirror.Blob {
		return mirror.Blob{Digest: digest.FromString(fmt.Sprint(random.Uint64())), Size: size}
	}
	for range 300 {
		var closure mirror.Closure
		for i := range 40 {
			manifest := blob(300 + random.Int64N(900))
			entry := &mirror.Entry{
				Kind: mirror.KindBundle, Repository: fmt.Sprintf("bundles/bundle-%d", i),
				MediaType: ocispec.MediaTypeImageManifest, Digest: manifest.Digest, Size: manifest.Size,
			}
			for range random.IntN(3) {
				entry.Blobs = append(entry.Blobs, blob(random.Int64N(20_000)))
			}
			for tag := range random.IntN(3) {
				entry.Tags = append(entry.Tags, fmt.Sprintf("gen-%d", tag))
			}
			closure.Entries = append(closure.Entries, entry)
		}
		limit := 30_000 + random.Int64N(40_000)
		volumes, _, err := pack(&closure, nil, limit)
		if err != nil {
			t.Fatal(err)
		}
		for _, volume := range volumes {
			if volume.Size > limit {
				t.Errorf("%s has %d bytes, and may have %d", volume.Name, volume.Size, limit)
			}
		}
	}
}
