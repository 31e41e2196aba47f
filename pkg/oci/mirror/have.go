package mirror

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
)

// Documents and artifacts of mirroring.
const (
	KindHave  = "MirrorHave"
	KindIndex = "MirrorIndex"

	MediaTypeHave       = "application/vnd.pinnace.mirror.have.v1+json"
	MediaTypeIndex      = "application/vnd.pinnace.mirror.index.v1+json+gzip"
	ArtifactTypeReceipt = "application/vnd.pinnace.mirror.receipt.v1"

	// RepositoryReceipt is where a receiver keeps what the last import left, relative to its prefix.
	RepositoryReceipt = "mirror"

	// MaxHave stops haves that fill the memory: a million blobs fit.
	MaxHave = 64 << 20
)

// Have is what a receiver holds. After an import it is the receipt, and says of which.
type Have struct {
	v1alpha1.TypeMeta `json:",inline"`
	Registry          string      `json:"registry"`
	TakenAt           metav1.Time `json:"takenAt"`
	Fleet             string      `json:"fleet,omitempty"`
	Publication       int64       `json:"publication,omitempty"`
	// Imported are the last imports, by stream.
	Imported map[string]Imported `json:"imported,omitempty"`
	// Repositories are the SHA-256 digests of manifests and blobs, by repository: sorted, 32 bytes each, base64.
	Repositories map[string]string `json:"repositories"`
}

// Imported is the last import of a stream.
type Imported struct {
	Sequence int64         `json:"sequence"`
	Index    digest.Digest `json:"index"` // of the signed index's payload
}

// Holdings are a have, to be asked.
type Holdings struct {
	byDigest map[digest.Digest][]string // repositories
	// short are those of which only the beginning of the digest is known, of shortLength characters.
	short       map[digest.Digest][]string
	shortLength int
}

const digestSize = 32

// NewHave makes a have of digests by repository.
func NewHave(registry string, now time.Time, held map[string][]digest.Digest) Have {
	have := Have{
		TypeMeta: v1alpha1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: KindHave}, Registry: registry,
		TakenAt: metav1.NewTime(now.UTC().Truncate(time.Second)), Repositories: map[string]string{},
	}
	for repository, digests := range held {
		var raw [][]byte
		for _, d := range digests {
			if sum, ok := rawDigest(d); ok {
				raw = append(raw, sum)
			}
		}
		slices.SortFunc(raw, bytes.Compare)
		raw = slices.CompactFunc(raw, bytes.Equal)
		have.Repositories[repository] = base64.RawStdEncoding.EncodeToString(bytes.Join(raw, nil))
	}
	return have
}

func rawDigest(d digest.Digest) ([]byte, bool) {
	if d.Validate() != nil || d.Algorithm() != digest.SHA256 {
		return nil, false
	}
	sum := make([]byte, digestSize)
	_, err := fmt.Sscanf(d.Encoded(), "%x", &sum)
	return sum, err == nil
}

// Holdings reads the digests.
func (h *Have) Holdings() (*Holdings, error) {
	out := &Holdings{byDigest: map[digest.Digest][]string{}}
	for _, repository := range slices.Sorted(maps.Keys(h.Repositories)) {
		digests, err := h.In(repository)
		if err != nil {
			return nil, err
		}
		for _, d := range digests {
			out.byDigest[d] = append(out.byDigest[d], repository)
		}
	}
	return out, nil
}

// In returns what a repository holds.
func (h *Have) In(repository string) ([]digest.Digest, error) {
	raw, err := base64.RawStdEncoding.DecodeString(h.Repositories[repository])
	if err != nil || len(raw)%digestSize != 0 {
		return nil, fmt.Errorf("have: repository %q: %w", repository, oci.ErrDamaged)
	}
	var digests []digest.Digest
	for sum := range slices.Chunk(raw, digestSize) {
		digests = append(digests, digest.NewDigestFromBytes(digest.SHA256, sum))
	}
	return digests, nil
}

// Has says whether the receiver has a blob or manifest in any repository.
func (h *Holdings) Has(d digest.Digest) bool { return len(h.In(d)) > 0 }

// In returns the repositories that have it.
func (h *Holdings) In(d digest.Digest) []string {
	if h == nil {
		return nil
	}
	in := h.byDigest[d]
	if h.shortLength > 0 && h.shortLength < len(d) {
		for _, repository := range h.short[d[:h.shortLength]] {
			if !slices.Contains(in, repository) {
				in = append(in[:len(in):len(in)], repository)
			}
		}
	}
	return in
}

// Add notes that repositories have a blob or manifest.
func (h *Holdings) Add(d digest.Digest, repositories ...string) {
	for _, repository := range repositories {
		if !slices.Contains(h.byDigest[d], repository) {
			h.byDigest[d] = append(h.byDigest[d], repository)
		}
	}
}

// AddShort notes that a repository has what begins with a digest's first characters: always as many.
func (h *Holdings) AddShort(short digest.Digest, repository string) {
	if h.short == nil {
		h.short, h.shortLength = map[digest.Digest][]string{}, len(short)
	}
	h.short[short] = append(h.short[short], repository)
}

// Len is how many different blobs and manifests there are.
func (h *Holdings) Len() int { return len(h.byDigest) }

// DecodeHave reads a have that isn't signed; nothing in it is trusted, and a wrong one is found before an import.
func DecodeHave(data []byte) (Have, error) {
	var have Have
	if len(data) > MaxHave {
		return have, fmt.Errorf("have: %w: at most %d bytes are allowed", oci.ErrTooLarge, MaxHave)
	}
	if err := oci.DecodeJSON(data, KindHave, &have, &have.TypeMeta); err != nil {
		return have, fmt.Errorf("have: %w", err)
	}
	return have, nil
}

// TakeHave asks a registry what it holds: every tagged manifest, and what it names. Repositories are those that the
// registry lists, or, where it doesn't, those of the last receipt.
func TakeHave(ctx context.Context, registry oci.Registry, now time.Time, jobs int) (Have, error) {
	receipt, _, err := ReadReceipt(ctx, registry)
	if err != nil && !errors.Is(err, oci.ErrNotFound) {
		return Have{}, err
	}
	names, err := oci.Catalog(ctx, registry)
	if errors.Is(err, oci.ErrUnsupported) {
		if names = slices.Collect(maps.Keys(receipt.Repositories)); len(names) == 0 {
			return Have{}, fmt.Errorf("%w; without a list of repositories, a have is known only after the first import", err)
		}
	} else if err != nil {
		return Have{}, err
	}
	t := taking{held: map[string][]digest.Digest{}, jobs: cmp.Or(jobs, defaultJobs)}
	if err := t.all(ctx, registry, names); err != nil {
		return Have{}, err
	}
	have := NewHave(registry.String(), now, t.held)
	have.Fleet, have.Publication, have.Imported = receipt.Fleet, receipt.Publication, receipt.Imported
	return have, nil
}

type taking struct {
	jobs int
	mu   sync.Mutex
	held map[string][]digest.Digest
}

func (t *taking) all(ctx context.Context, registry oci.Registry, names []string) error {
	var work []func(context.Context) error
	for _, name := range names {
		if name == RepositoryReceipt || strings.HasPrefix(name, "status/") {
			continue
		}
		work = append(work, func(ctx context.Context) error {
			repo, err := registry.Repository(name)
			if err != nil {
				return err
			}
			return t.repository(ctx, repo, name)
		})
	}
	return runAll(ctx, t.jobs, work)
}

// Contents are the tagged manifests of a repository, and what they name and is there.
func Contents(ctx context.Context, repo oci.Repository) ([]digest.Digest, error) {
	t := taking{held: map[string][]digest.Digest{}}
	err := t.repository(ctx, repo, "")
	return t.held[""], err
}

func (t *taking) repository(ctx context.Context, repo oci.Repository, name string) error {
	tags, err := repo.Tags(ctx)
	if err != nil {
		return err
	}
	seen := map[digest.Digest]bool{}
	for _, tag := range tags {
		desc, err := repo.Resolve(ctx, tag)
		if errors.Is(err, oci.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		if err := t.manifest(ctx, repo, name, desc, seen); err != nil {
			return err
		}
	}
	return nil
}

// manifest notes a manifest and what it names, where that is there: of an index not every platform is.
func (t *taking) manifest(ctx context.Context, repo oci.Repository, name string, desc ocispec.Descriptor, seen map[digest.Digest]bool) error {
	if seen[desc.Digest] {
		return nil
	}
	seen[desc.Digest] = true
	m, err := readManifest(ctx, repo, desc)
	if errors.Is(err, oci.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	t.note(name, desc.Digest)
	for _, blob := range m.blobs() {
		t.note(name, blob.Digest)
	}
	for _, child := range m.Manifests {
		if err := t.manifest(ctx, repo, name, child, seen); err != nil {
			return err
		}
	}
	return nil
}

func (t *taking) note(repository string, d digest.Digest) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.held[repository] = append(t.held[repository], d)
}

// ReadReceipt reads the receipt that the last import left in a registry. ErrNotFound before the first one. It returns
// the bytes too, which may be a signed envelope.
func ReadReceipt(ctx context.Context, registry oci.Registry) (Have, []byte, error) {
	repo, err := registry.Repository(RepositoryReceipt)
	if err != nil {
		return Have{}, nil, err
	}
	desc, err := repo.Resolve(ctx, v1alpha1.TagCurrent)
	if err != nil {
		return Have{}, nil, err
	}
	m, _, err := oci.ReadManifest(ctx, repo, desc)
	if err != nil {
		return Have{}, nil, err
	}
	if m.ArtifactType != ArtifactTypeReceipt || len(m.Layers) != 1 {
		return Have{}, nil, fmt.Errorf("receipt %s: %w: it is no receipt", repo, oci.ErrDamaged)
	}
	data, err := oci.ReadAll(ctx, repo, m.Layers[0], 2*MaxHave)
	if err != nil {
		return Have{}, nil, err
	}
	payload, err := UnwrapUnsafe(data)
	if err != nil {
		return Have{}, nil, err
	}
	have, err := DecodeHave(payload)
	return have, data, err
}

// WriteReceipt leaves a receipt in a registry: the have, or a signed envelope around it.
func WriteReceipt(ctx context.Context, registry oci.Registry, data []byte) error {
	repo, err := registry.Repository(RepositoryReceipt)
	if err != nil {
		return err
	}
	_, _, err = oci.Push(ctx, repo, oci.Artifact{
		Type: ArtifactTypeReceipt, Layers: []oci.Blob{{MediaType: MediaTypeHave, Data: data}},
	}, v1alpha1.TagCurrent)
	return err
}

// UnwrapUnsafe returns the payload of a DSSE envelope without looking at its signatures, or the data itself where it is
// none.
func UnwrapUnsafe(data []byte) ([]byte, error) {
	var envelope struct {
		PayloadType string `json:"payloadType"`
		Payload     []byte `json:"payload"`
	}
	if err := json.Unmarshal(data, &envelope); err != nil {
		return nil, fmt.Errorf("%w: %w", oci.ErrDamaged, err)
	}
	if envelope.PayloadType == "" {
		return data, nil
	}
	return envelope.Payload, nil
}

// With is the have after a closure has come too. Repositories of status come and go, and are not kept.
func (h *Have) With(closure *Closure, registry string, now time.Time) (Have, error) {
	holdings, err := h.Holdings()
	if err != nil {
		return Have{}, err
	}
	held := map[string][]digest.Digest{}
	for d, repositories := range holdings.byDigest {
		for _, repository := range repositories {
			held[repository] = append(held[repository], d)
		}
	}
	for _, entry := range closure.Entries {
		if entry.Kind == KindStatus {
			continue
		}
		held[entry.Repository] = append(held[entry.Repository], entry.Digest)
		for _, blob := range entry.Blobs {
			held[entry.Repository] = append(held[entry.Repository], blob.Digest)
		}
	}
	out := NewHave(registry, now, held)
	out.Fleet, out.Publication, out.Imported = h.Fleet, h.Publication, maps.Clone(h.Imported)
	return out, nil
}
