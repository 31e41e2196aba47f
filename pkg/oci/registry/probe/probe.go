// Package probe finds out what a registry can do, by doing it, and says what that means.
//
// [Run] writes a few small artifacts to a scratch repository, looks, and deletes them again where it can.
package probe

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/pkg/oci"
)

// Answer is what a registry does: a closed set.
type Answer string

const (
	Yes     Answer = "yes"
	No      Answer = "no"
	Unknown Answer = "unknown" // the question could not be asked
)

// Finding is one thing that a registry can do, or can't.
type Finding struct {
	Feature string `json:"feature"`
	Answer  Answer `json:"answer"`
	// Means says what follows from it for the user.
	Means  string `json:"means"`
	Detail string `json:"detail,omitempty"`
}

// probing is one look at a registry.
type probing struct {
	registry    oci.Registry
	name, other string // scratch repositories
	repo        oci.Repository
	endpoint    oci.Endpoint
	artifact    oci.Artifact
	findings    []Finding
}

// question is asked in order; later ones use what earlier ones wrote.
type question struct {
	feature string
	ask     func(*probing, context.Context) (Answer, string, error)
	yes, no string
}

var questions = []question{
	{"referrers API", (*probing).referrers, "signatures and SBOMs are listed by the registry itself", "signatures are found by tags (sha256-…), which Pinnace, cosign and oras use by themselves; nothing to do"},
	{"conditional GET", (*probing).notModified, "polls that change nothing transfer nothing", "polls use HEAD, which is as small; nothing to do"},
	{"cross-repository mount", (*probing).mount, "a layer that many images share is sent once", "mirroring sends shared layers once for each repository; it works, and takes longer"},
	{"chunked upload", (*probing).chunked, "large blobs are sent in pieces", "every blob is sent whole; an upload that is cut begins anew"},
	{"resumed upload", (*probing).resumed, "an upload that was cut, or killed, goes on where it stopped", "an upload that is cut begins anew: keep links stable or layers small"},
	{"resumed download", (*probing).ranges, "a download that was cut goes on where it stopped", "a download that is cut reads the blob from its beginning again"},
	{"incomplete index", (*probing).sparse, "single platforms of an image can be mirrored (--platform)", "mirror without --platform: this registry wants every platform of an image"},
	{"untagged manifests", (*probing).untagged, "they stay, for now: see to it that no retention rule deletes them while signatures or platforms need them", "manifests need a tag here; Pinnace tags all of its own, but platforms of images have none: do not mirror multi-platform images to it"},
	{"tags of deleted manifests", (*probing).deletes, "pinnace mirror prune works", "pinnace mirror prune can't delete; set the registry to allow it, or clean up with its own tools"},
	{"catalog", (*probing).catalog, "pinnace mirror have and prune find every repository", "pinnace mirror have and prune know what imports and syncs left a receipt of; let sites import rather than sync"},
}

// Run probes a registry below its prefix. The error is for a registry that can't be written to at all.
func Run(ctx context.Context, registry oci.Registry) ([]Finding, error) {
	random := make([]byte, 6)
	_, _ = rand.Read(random) // crypto/rand.Read never fails
	p := &probing{registry: registry, name: "pinnace-check/" + hex.EncodeToString(random)}
	p.other = p.name + "/other"
	p.artifact = oci.Artifact{
		Type: "application/vnd.pinnace.check.v1", Layers: []oci.Blob{{MediaType: "text/plain", Data: []byte(p.name)}},
	}
	var err error
	if p.repo, err = registry.Repository(p.name); err != nil {
		return nil, err
	}
	var ok bool
	if p.endpoint, ok = oci.EndpointOf(p.repo); !ok {
		return nil, fmt.Errorf("probe %s: %w: it is no registry", registry, oci.ErrUnsupported)
	}
	desc, _, err := oci.Push(ctx, p.repo, p.artifact, "check")
	if err != nil {
		return nil, fmt.Errorf("probe %s: push an artifact: %w", registry, err)
	}
	for _, q := range questions {
		answer, detail, err := q.ask(p, ctx)
		if ctx.Err() != nil {
			return p.findings, ctx.Err()
		}
		finding := Finding{Feature: q.feature, Answer: answer, Means: q.no, Detail: detail}
		if answer == Yes {
			finding.Means = q.yes
		}
		if err != nil {
			finding.Answer, finding.Means, finding.Detail = Unknown, "it could not be found out", err.Error()
		}
		p.findings = append(p.findings, finding)
	}
	_ = p.repo.Delete(ctx, desc) // gone already, or it doesn't delete
	return p.findings, nil
}

// do sends a request, and reads and closes the answer's body.
func (p *probing) do(ctx context.Context, method string, at *url.URL, header http.Header, body []byte) (*http.Response, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, at.String(), bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	for name, values := range header {
		req.Header[name] = values
	}
	resp, err := p.endpoint.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(resp.Body, oci.MaxManifest))
	return resp, data, err
}

// status is an answer by the status of a response.
func status(resp *http.Response, err error, good ...int) (Answer, string, error) {
	if err != nil {
		return Unknown, "", err
	}
	for _, one := range good {
		if resp.StatusCode == one {
			return Yes, "", nil
		}
	}
	return No, resp.Status, nil
}

func (p *probing) referrers(ctx context.Context) (Answer, string, error) {
	resp, data, err := p.do(ctx, http.MethodGet, p.endpoint.URL("referrers/"+p.artifact.Descriptor().Digest.String()), nil, nil) //nolint:bodyclose // do closes it
	if err != nil || resp.StatusCode != http.StatusOK {
		return status(resp, err, http.StatusOK)
	}
	var index ocispec.Index
	answer, detail := verdict(json.Unmarshal(data, &index))
	return answer, detail, nil
}

// verdict is no for an error, which says why.
func verdict(err error) (Answer, string) {
	if err != nil {
		return No, err.Error()
	}
	return Yes, ""
}

func (p *probing) notModified(ctx context.Context) (Answer, string, error) {
	d := p.artifact.Descriptor().Digest.String()
	header := http.Header{"If-None-Match": {`"` + d + `"`}, "Accept": {ocispec.MediaTypeImageManifest}}
	resp, _, err := p.do(ctx, http.MethodGet, p.endpoint.URL("manifests/check"), header, nil) //nolint:bodyclose // do closes it
	return status(resp, err, http.StatusNotModified)
}

func (p *probing) mount(ctx context.Context) (Answer, string, error) {
	other, err := p.registry.Repository(p.other)
	if err != nil {
		return Unknown, "", err
	}
	endpoint, _ := oci.EndpointOf(other)
	at := endpoint.URL("blobs/uploads/")
	at.RawQuery = url.Values{"mount": {p.artifact.Layers[0].Descriptor().Digest.String()}, "from": {p.endpoint.Name()}}.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, at.String(), http.NoBody)
	if err != nil {
		return Unknown, "", err
	}
	resp, err := endpoint.Do(req, p.endpoint.Name())
	if err == nil {
		_ = resp.Body.Close()
	}
	return status(resp, err, http.StatusCreated)
}

// open begins an upload.
func (p *probing) open(ctx context.Context) (*url.URL, error) {
	resp, _, err := p.do(ctx, http.MethodPost, p.endpoint.URL("blobs/uploads/"), nil, nil) //nolint:bodyclose // do closes it
	if err != nil {
		return nil, err
	}
	return next(resp, http.StatusAccepted)
}

// next is where an upload goes on.
func next(resp *http.Response, want int) (*url.URL, error) {
	if resp.StatusCode != want {
		return nil, errors.New(resp.Status)
	}
	at, err := resp.Request.URL.Parse(resp.Header.Get("Location"))
	if err == nil {
		at.Scheme = resp.Request.URL.Scheme
	}
	return at, err
}

func (p *probing) patch(ctx context.Context, at *url.URL, from int, piece []byte) (*url.URL, error) {
	resp, _, err := p.do(ctx, http.MethodPatch, at, http.Header{ //nolint:bodyclose // do closes it
		"Content-Type": {"application/octet-stream"}, "Content-Range": {fmt.Sprintf("%d-%d", from, from+len(piece)-1)},
	}, piece)
	if err != nil {
		return nil, err
	}
	return next(resp, http.StatusAccepted)
}

func (p *probing) finish(ctx context.Context, at *url.URL, d digest.Digest) error {
	query := at.Query()
	query.Set("digest", d.String())
	at.RawQuery = query.Encode()
	resp, _, err := p.do(ctx, http.MethodPut, at, http.Header{"Content-Type": {"application/octet-stream"}}, nil) //nolint:bodyclose // do closes it
	if err == nil && resp.StatusCode != http.StatusCreated {
		err = errors.New(resp.Status)
	}
	return err
}

func (p *probing) chunked(ctx context.Context) (Answer, string, error) {
	data := []byte("chunked " + p.name)
	half := len(data) / 2
	at, err := p.open(ctx)
	if err == nil {
		at, err = p.patch(ctx, at, 0, data[:half])
	}
	if err == nil {
		at, err = p.patch(ctx, at, half, data[half:])
	}
	if err == nil {
		err = p.finish(ctx, at, digest.FromBytes(data))
	}
	answer, detail := verdict(err)
	return answer, detail, nil
}

// resumed asks how far an upload came, and goes on from there.
func (p *probing) resumed(ctx context.Context) (Answer, string, error) {
	data := []byte("resumed " + p.name)
	half := len(data) / 2
	at, err := p.open(ctx)
	if err == nil {
		at, err = p.patch(ctx, at, 0, data[:half])
	}
	if answer, detail := verdict(err); answer == No {
		return No, detail, nil
	}
	resp, _, err := p.do(ctx, http.MethodGet, at, nil, nil) //nolint:bodyclose // do closes it
	if err != nil {
		return Unknown, "", err
	}
	if got, want := strings.TrimPrefix(resp.Header.Get("Range"), "bytes="), fmt.Sprintf("0-%d", half-1); got != want {
		return No, fmt.Sprintf("%s: Range is %q, want %q", resp.Status, got, want), nil
	}
	if moved, err := next(resp, resp.StatusCode); err == nil && resp.Header.Get("Location") != "" {
		at = moved
	}
	if at, err = p.patch(ctx, at, half, data[half:]); err == nil {
		err = p.finish(ctx, at, digest.FromBytes(data))
	}
	answer, detail := verdict(err)
	return answer, detail, nil
}

func (p *probing) ranges(ctx context.Context) (Answer, string, error) {
	layer := p.artifact.Layers[0]
	resp, data, err := p.do(ctx, http.MethodGet, p.endpoint.URL("blobs/"+layer.Descriptor().Digest.String()), http.Header{"Range": {"bytes=4-"}}, nil) //nolint:bodyclose // do closes it
	if err == nil && resp.StatusCode == http.StatusPartialContent && !bytes.Equal(data, layer.Data[4:]) {
		return No, "the bytes are others", nil
	}
	return status(resp, err, http.StatusPartialContent)
}

// sparse pushes an index that names a manifest which isn't there.
func (p *probing) sparse(ctx context.Context) (Answer, string, error) {
	absent := oci.Artifact{Type: p.artifact.Type, Annotations: map[string]string{"absent": p.name}}.Manifest().Descriptor()
	present := p.artifact.Manifest().Descriptor()
	data, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{present, absent},
	})
	if err != nil {
		return Unknown, "", err
	}
	blob := oci.Blob{MediaType: ocispec.MediaTypeImageIndex, Data: data}
	err = p.repo.Push(ctx, blob.Descriptor(), data, "sparse")
	if errors.Is(err, oci.ErrUnreachable) || errors.Is(err, oci.ErrUnauthorized) {
		return Unknown, "", err
	}
	if err == nil {
		_ = p.repo.Delete(ctx, blob.Descriptor()) // a courtesy
	}
	answer, detail := verdict(err)
	return answer, detail, nil
}

func (p *probing) untagged(ctx context.Context) (Answer, string, error) {
	artifact := p.artifact
	artifact.Annotations = map[string]string{"untagged": p.name}
	desc, _, err := oci.Push(ctx, p.repo, artifact)
	if answer, detail := verdict(err); answer == No {
		return No, detail, nil
	}
	_, err = p.repo.Resolve(ctx, desc.Digest.String())
	if errors.Is(err, oci.ErrNotFound) {
		return No, "", nil
	}
	_ = p.repo.Delete(ctx, desc) // a courtesy
	return Yes, "", err
}

func (p *probing) deletes(ctx context.Context) (Answer, string, error) {
	err := p.repo.Delete(ctx, p.artifact.Manifest().Descriptor())
	if errors.Is(err, oci.ErrUnsupported) {
		return No, "", nil
	}
	if err != nil {
		return Unknown, "", err
	}
	if _, err = p.repo.Resolve(ctx, "check"); err == nil {
		return No, "the tag is still there", nil
	}
	return Yes, "", nil
}

func (p *probing) catalog(ctx context.Context) (Answer, string, error) {
	names, err := oci.Catalog(ctx, p.registry)
	if answer, detail := verdict(err); errors.Is(err, oci.ErrUnsupported) {
		return answer, detail, nil
	}
	if err == nil && len(names) == 0 {
		return No, "the list is empty", nil
	}
	return Yes, "", err
}
