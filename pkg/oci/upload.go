package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote/errcode"
)

const (
	// maxWhole is how much of a blob is sent with the request that begins its upload. What a registry doesn't take so is
	// sent twice, and servers read no more than this of what they leave aside, before they close the connection.
	maxWhole = 256 << 10
	// piecemealFor is how long one answer is believed that a registry wants a second request for each blob.
	piecemealFor = time.Hour
	// maxRefusal stops errors that never end.
	maxRefusal = 64 << 10
)

// pushBlob sends a small blob with one request, where oras-go needs two. Registries may leave the content aside: then
// the request has begun an upload, the second one completes it, and for an hour nothing is sent that way.
//
// See https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#single-post
func (r *remoteRepository) pushBlob(ctx context.Context, desc ocispec.Descriptor, content []byte) error {
	inTwo := func() error { return r.Repository.Push(ctx, desc, bytes.NewReader(content)) }
	if len(content) > maxWhole || time.Now().Unix() < r.registry.piecemeal.Load() {
		return inTwo()
	}
	endpoint := Endpoint{repo: r.Repository}
	resp, err := endpoint.sendBlob(ctx, http.MethodPost, endpoint.URL("blobs/uploads/"), desc, content)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	switch code := resp.StatusCode; {
	case code == http.StatusCreated:
		return nil
	case code == http.StatusAccepted:
		r.registry.piecemeal.Store(time.Now().Add(piecemealFor).Unix())
		return endpoint.complete(ctx, resp, desc, content)
	case code == http.StatusUnauthorized, code == http.StatusForbidden, code == http.StatusNotFound,
		code == http.StatusTooManyRequests, code >= http.StatusInternalServerError:
		return refusal(resp) // the other way would be answered the same
	}
	r.registry.piecemeal.Store(time.Now().Add(piecemealFor).Unix())
	return inTwo()
}

// complete sends a blob to the upload that a request has begun.
func (e Endpoint) complete(ctx context.Context, begun *http.Response, desc ocispec.Descriptor, content []byte) error {
	location, err := e.Location(begun)
	if err != nil {
		return err
	}
	if location == nil {
		return fmt.Errorf("%w: an upload was begun, and the answer doesn't say where it goes on", ErrDamaged)
	}
	resp, err := e.sendBlob(ctx, http.MethodPut, location, desc, content)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusCreated {
		return refusal(resp)
	}
	return nil
}

func (e Endpoint) sendBlob(ctx context.Context, method string, at *url.URL, desc ocispec.Descriptor, content []byte) (*http.Response, error) {
	query := at.Query()
	query.Set("digest", desc.Digest.String())
	at.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, method, at.String(), bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	return e.Do(req)
}

// refusal is what a registry says of a request that it didn't do.
func refusal(resp *http.Response) error {
	err := &errcode.ErrorResponse{Method: resp.Request.Method, URL: resp.Request.URL, StatusCode: resp.StatusCode}
	var body struct {
		Errors errcode.Errors `json:"errors"`
	}
	// What is no such document says nothing more than the status.
	if json.NewDecoder(io.LimitReader(resp.Body, maxRefusal)).Decode(&body) == nil {
		err.Errors = body.Errors
	}
	return err
}
