package signing

import (
	"sync"

	"github.com/opencontainers/go-digest"

	"pinnace.dev/pinnace/pkg/oci"
)

// maxCached stops a cache that grows with every version that ever ran; an agent has some hundred artifacts.
const maxCached = 4096

// cache remembers what one policy accepted. What was signed stays signed: a digest stands for its bytes, and a signature
// is valid by the time at which it was made. Refusals are not remembered, since a signature may yet come.
type cache struct {
	mu       sync.Mutex
	accepted map[cacheKey]acceptance
	inTag    map[*rule]bool // the last artifact of the rule had its signatures under cosign's tag
}

// cacheKey has the name, since it chooses the rule, and the place, since each has signatures of its own: what is on a
// disk is verified from what is on the disk.
type cacheKey struct {
	place  string
	name   string
	digest digest.Digest
}

type acceptance struct {
	rule     string
	signers  []string
	evidence []oci.Attached
}

func newCache() *cache { return &cache{accepted: map[cacheKey]acceptance{}, inTag: map[*rule]bool{}} }

func (c *cache) get(key cacheKey) (acceptance, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	found, ok := c.accepted[key]
	return found, ok
}

func (c *cache) put(key cacheKey, found acceptance) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.accepted) >= maxCached {
		clear(c.accepted)
	}
	c.accepted[key] = found
}

// tagged says where signatures that a rule wants were found last: it is the first place to look at, and mostly the only
// one. It decides nothing else.
func (c *cache) tagged(r *rule) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.inTag[r]
}

func (c *cache) setTagged(r *rule, tagged bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inTag[r] = tagged
}
