package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/pkg/oci"
)

// Ranger is a repository that opens a blob at any byte, such as one on a medium.
type Ranger interface {
	OpenAt(ctx context.Context, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error)
}

// readStep is how many bytes the rate is accounted for at once.
const readStep = 64 << 10

// download reads a blob from an offset to its end and goes on where it is cut. It gives exactly the descriptor's size or
// an error; the digest is checked by whoever hashes.
type download struct {
	engine *Engine
	//nolint:containedctx // a reader has no other way to learn that it is no longer wanted
	ctx      context.Context
	from     oci.Repository
	desc     ocispec.Descriptor
	offset   int64
	body     io.ReadCloser
	failures int
	cuts     int
}

func (e *Engine) download(ctx context.Context, from oci.Repository, desc ocispec.Descriptor, offset int64) *download {
	return &download{engine: e, ctx: ctx, from: from, desc: desc, offset: offset}
}

func (d *download) Read(p []byte) (int, error) {
	left := d.desc.Size - d.offset
	if left == 0 {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), left, readStep)]
	if d.engine.limiter != nil {
		p = p[:min(len(p), d.engine.limiter.Burst())]
		if err := d.engine.limiter.WaitN(d.ctx, len(p)); err != nil {
			return 0, err
		}
	}
	for {
		if d.body == nil {
			body, err := openAt(d.ctx, d.from, d.desc, d.offset)
			if err != nil {
				if err := d.retry(err); err != nil {
					return 0, err
				}
				continue
			}
			d.body = body
		}
		n, err := d.body.Read(p) // one that nothing comes from gives up by itself
		if n > 0 {
			d.offset += int64(n)
			d.failures = 0
			return n, nil
		}
		if err == nil {
			continue
		}
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF // there was more to come
		}
		_ = d.Close()
		d.cuts++
		if err := d.retry(unreachable(err)); err != nil {
			return 0, err
		}
	}
}

// retry waits before another try, or returns why there is none.
func (d *download) retry(err error) error {
	d.failures++
	if !passing(d.ctx, err) || d.failures > d.engine.opts.Retries {
		return fmt.Errorf("read from %s at byte %d: %w", d.from, d.offset, err)
	}
	return d.engine.pause(d.ctx, d.failures-1, err)
}

func (d *download) Close() error {
	if d.body == nil {
		return nil
	}
	err := d.body.Close()
	d.body = nil
	return err
}

// openAt opens a blob at a byte. Where the other side can't, what stands before is read and dropped.
func openAt(ctx context.Context, from oci.Repository, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	if ranger, ok := from.(Ranger); ok {
		return ranger.OpenAt(ctx, desc, offset)
	}
	endpoint, ok := oci.EndpointOf(from)
	if !ok {
		body, err := from.Fetch(ctx, desc)
		if err != nil {
			return nil, err
		}
		return skip(body, offset)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint.URL("blobs/"+desc.Digest.String()).String(), nil)
	if err != nil {
		return nil, err
	}
	if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", offset, desc.Size-1))
	}
	resp, err := endpoint.Read(req)
	if err != nil {
		return nil, unreachable(err)
	}
	switch resp.StatusCode {
	case http.StatusPartialContent:
		return resp.Body, nil
	case http.StatusOK:
		if resp.ContentLength >= 0 && resp.ContentLength != desc.Size {
			_ = resp.Body.Close()
			return nil, fmt.Errorf("%w: %d bytes, want %d", oci.ErrDamaged, resp.ContentLength, desc.Size)
		}
		return skip(resp.Body, offset)
	}
	defer func() { _ = resp.Body.Close() }()
	return nil, newStatusError(resp)
}

func skip(body io.ReadCloser, offset int64) (io.ReadCloser, error) {
	if offset == 0 {
		return body, nil
	}
	if seeker, ok := body.(io.Seeker); ok {
		_, err := seeker.Seek(offset, io.SeekStart)
		if err != nil {
			_ = body.Close()
		}
		return body, err
	}
	if _, err := io.CopyN(io.Discard, body, offset); err != nil {
		return nil, errors.Join(err, body.Close())
	}
	return body, nil
}
