package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/pkg/oci"
)

// cosign's tags for what belongs to a manifest: sha256-<hex> and one of these.
//
// See https://github.com/sigstore/cosign/blob/v2.6.5/specs/SIGNATURE_SPEC.md#tag-based-discovery
var attachedTags = []struct {
	suffix string
	kind   Kind
}{{".sig", KindSignature}, {".att", KindAttestation}, {".sbom", KindSBOM}}

// maxReferrers stops lists of referrers that never end.
const maxReferrers = 1000

// attached is a manifest that belongs to another one.
type attached struct {
	kind Kind
	desc ocispec.Descriptor
	tag  string // empty for referrers
}

// referring is a repository that lists referrers itself, such as one on a medium.
type referring interface {
	Referrers(ctx context.Context, subject digest.Digest) ([]ocispec.Descriptor, error)
}

// source is a repository that a closure is read from.
type source struct {
	oci.Repository
	name   string // at the receiver
	origin string // full name, where it is elsewhere
	// few says that the repository is ours, and its tags are listed once; of others each tag is asked for.
	few  bool
	host *hostState

	once sync.Once
	tags map[string]bool
	err  error
}

// hostState remembers that a registry has no referrers API, so that it is asked once only.
type hostState struct {
	mu          sync.Mutex
	noReferrers bool
}

func (s *source) hasTag(ctx context.Context, tag string) (bool, error) {
	if !s.few {
		return true, nil // perhaps
	}
	s.once.Do(func() {
		var tags []string
		tags, s.err = s.Tags(ctx)
		s.tags = make(map[string]bool, len(tags))
		for _, tag := range tags {
			s.tags[tag] = true
		}
	})
	return s.tags[tag], s.err
}

// resolveTag returns the descriptor of a tag; false when there is none.
func (s *source) resolveTag(ctx context.Context, tag string) (ocispec.Descriptor, bool, error) {
	if ok, err := s.hasTag(ctx, tag); !ok || err != nil {
		return ocispec.Descriptor{}, false, err
	}
	desc, err := s.Resolve(ctx, tag)
	if errors.Is(err, oci.ErrNotFound) {
		return desc, false, nil
	}
	return desc, err == nil, err
}

// attachedTo lists the signatures, attestations and SBOMs of a manifest in both layouts: cosign's tags, and OCI 1.1's
// referrers, by the API or by the tag that stands in for it.
func (s *source) attachedTo(ctx context.Context, subject digest.Digest) ([]attached, error) {
	var found []attached
	base := strings.Replace(subject.String(), ":", "-", 1)
	for _, layout := range attachedTags {
		desc, ok, err := s.resolveTag(ctx, base+layout.suffix)
		if err != nil {
			return nil, fmt.Errorf("signatures of %s@%s: %w", s, subject, err)
		}
		if ok {
			found = append(found, attached{kind: layout.kind, desc: desc, tag: base + layout.suffix})
		}
	}
	referrers, err := s.referrers(ctx, subject, base)
	if err != nil {
		return nil, fmt.Errorf("referrers of %s@%s: %w", s, subject, err)
	}
	for _, desc := range referrers {
		if err := desc.Digest.Validate(); err != nil || !oci.IsManifest(desc.MediaType) {
			return nil, fmt.Errorf("referrers of %s@%s: %w: %q of type %q", s, subject, oci.ErrDamaged, desc.Digest, desc.MediaType)
		}
		found = append(found, attached{kind: referrerKind(desc.ArtifactType), desc: desc})
	}
	return found, nil
}

func (s *source) referrers(ctx context.Context, subject digest.Digest, fallback string) ([]ocispec.Descriptor, error) {
	if lister, ok := s.Repository.(referring); ok {
		return lister.Referrers(ctx, subject)
	}
	list, ok, err := s.referrersByAPI(ctx, subject)
	if err != nil || ok {
		return list, err
	}
	desc, ok, err := s.resolveTag(ctx, fallback)
	if err != nil || !ok {
		return nil, err
	}
	m, err := readManifest(ctx, s, desc)
	if err != nil {
		return nil, err
	}
	return m.Manifests, bounded(m.Manifests)
}

// referrersByAPI asks the API; false when the registry has none.
//
// See https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#listing-referrers
func (s *source) referrersByAPI(ctx context.Context, subject digest.Digest) ([]ocispec.Descriptor, bool, error) {
	endpoint, ok := oci.EndpointOf(s.Repository)
	if !ok || s.host.lacksReferrers() {
		return nil, false, nil
	}
	var all []ocispec.Descriptor
	at := endpoint.URL("referrers/" + subject.String())
	for at != nil {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
		if err != nil {
			return nil, false, err
		}
		resp, err := endpoint.Read(req)
		if err != nil {
			return nil, false, fmt.Errorf("%w: %w", oci.ErrUnreachable, err)
		}
		data, err := io.ReadAll(io.LimitReader(resp.Body, oci.MaxManifest+1))
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			s.host.setLacksReferrers()
			return nil, false, nil
		}
		var page manifest
		if err != nil || len(data) > oci.MaxManifest || json.Unmarshal(data, &page) != nil {
			return nil, false, fmt.Errorf("%w: the list of referrers can't be read", oci.ErrDamaged)
		}
		all = append(all, page.Manifests...)
		if err := bounded(all); err != nil {
			return nil, false, err
		}
		next, err := nextPage(resp)
		if err != nil || next == "" {
			return all, true, err
		}
		if at, err = at.Parse(next); err != nil || at.Host != endpoint.Host() {
			return nil, false, fmt.Errorf("%w: the next page of referrers is at %q", oci.ErrDamaged, next)
		}
	}
	return all, true, nil
}

func bounded(list []ocispec.Descriptor) error {
	if len(list) > maxReferrers {
		return fmt.Errorf("%w: more than %d referrers", oci.ErrTooLarge, maxReferrers)
	}
	return nil
}

// nextPage reads the Link header: <url>; rel="next".
func nextPage(resp *http.Response) (string, error) {
	link := resp.Header.Get("Link")
	if link == "" {
		return "", nil
	}
	address, _, ok := strings.Cut(strings.TrimPrefix(link, "<"), ">")
	if !ok {
		return "", fmt.Errorf("%w: Link header %q", oci.ErrDamaged, link)
	}
	return address, nil
}

func (h *hostState) lacksReferrers() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.noReferrers
}

func (h *hostState) setLacksReferrers() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.noReferrers = true
}

func referrerKind(artifactType string) Kind {
	switch {
	case strings.Contains(artifactType, "sigstore.bundle"), strings.Contains(artifactType, "cosign.artifact.sig"), strings.Contains(artifactType, "notary"):
		return KindSignature
	case strings.Contains(artifactType, "spdx"), strings.Contains(artifactType, "cyclonedx"), strings.Contains(artifactType, "sbom"):
		return KindSBOM
	case strings.Contains(artifactType, "in-toto"), strings.Contains(artifactType, "dsse"):
		return KindAttestation
	}
	return KindReferrer
}
