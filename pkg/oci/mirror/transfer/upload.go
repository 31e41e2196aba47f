package transfer

import (
	"bytes"
	"context"
	"encoding"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/pkg/oci"
)

// upload brings one blob to a registry.
//
// See https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#pushing-a-blob-in-chunks
type upload struct {
	engine     *Engine
	from       oci.Repository
	to         oci.Endpoint
	repository oci.Repository
	desc       ocispec.Descriptor
	result     Result

	location    *url.URL
	offset      int64 // that the registry has
	highest     int64 // that was ever sent
	reported    int64 // to OnBytes
	checkpoints []checkpoint
}

// keptCheckpoints is how far back a registry that lost its last bytes can be met.
const keptCheckpoints = 3

// errLost says that the registry knows the upload no more.
var errLost = errors.New("the registry lost the upload")

func (u *upload) key() string { return journalKey(u.repository.String(), u.desc.Digest) }

func (u *upload) run(ctx context.Context, mountFrom []string) error {
	u.result.Action = Copied
	resumed := u.resume(ctx)
	for attempt := 0; ; attempt++ {
		if !resumed {
			mounted, err := u.begin(ctx, mountFrom)
			if err != nil {
				return err
			}
			if mounted {
				u.result.Action = Mounted
				return nil
			}
		}
		resumed = false
		err := u.send(ctx)
		if err == nil {
			u.engine.opts.Journal.setSession(sessionRecord{Key: u.key()})
			return nil
		}
		if !errors.Is(err, errLost) || attempt >= u.engine.opts.Retries {
			return err
		}
		if err := u.engine.pause(ctx, attempt, err); err != nil {
			return err
		}
	}
}

// resume goes on with what the journal knows.
func (u *upload) resume(ctx context.Context) bool {
	record := u.engine.opts.Journal.session(u.key())
	if record == nil {
		return false
	}
	location, err := url.Parse(record.Location)
	if err != nil || location.Host != u.to.URL("").Host {
		return false
	}
	u.location, u.checkpoints = location, record.Checkpoints
	if err := u.status(ctx); err != nil {
		u.location, u.checkpoints = nil, nil
		return false
	}
	u.highest = u.offset
	u.advance(u.offset) // they are there already
	return true
}

// begin mounts the blob or opens an upload.
func (u *upload) begin(ctx context.Context, mountFrom []string) (mounted bool, err error) {
	u.offset, u.checkpoints = 0, nil
	for i := 0; ; i++ {
		at := u.to.URL("blobs/uploads/")
		var others []string
		if i < len(mountFrom) {
			at.RawQuery = url.Values{"mount": {u.desc.Digest.String()}, "from": {mountFrom[i]}}.Encode()
			others = mountFrom[i : i+1]
		}
		resp, err := u.request(ctx, http.MethodPost, at, nil, nil, others...)
		if err != nil {
			return false, err
		}
		_ = resp.Body.Close()
		switch resp.StatusCode {
		case http.StatusCreated:
			return true, nil
		case http.StatusAccepted:
			if err := u.moved(resp); err != nil {
				return false, err
			}
			if i+1 < len(mountFrom) {
				u.cancel(ctx)
				continue
			}
			return false, nil
		}
		if i < len(mountFrom) {
			continue // no mount from there, so without
		}
		return false, newStatusError(resp)
	}
}

// send sends the blob from the offset that the registry has.
func (u *upload) send(ctx context.Context) error {
	buffer, _ := u.engine.buffers.Get().([]byte)
	defer func() { u.engine.buffers.Put(buffer) }() //nolint:staticcheck // a slice's header is small beside what it holds
	for attempt := 0; ; attempt++ {
		err := u.stream(ctx, buffer)
		if !errors.Is(err, errBehind) || attempt > u.engine.opts.Retries {
			return err
		}
	}
}

// errBehind says that the registry has less than was thought, so that the source must be read again from before.
var errBehind = errors.New("the registry lost its last bytes")

// stream reads, hashes and sends to the end.
func (u *upload) stream(ctx context.Context, buffer []byte) error {
	hashed, sum, err := u.startHash()
	if err != nil {
		return err
	}
	in := u.engine.download(ctx, u.from, u.desc, hashed)
	defer func() { _ = in.Close(); u.result.Cuts += in.cuts }()
	// What the registry has, and we haven't hashed yet, is read but not sent.
	if _, err := io.CopyN(sum, in, u.offset-hashed); err != nil {
		return err
	}
	whole := u.offset == 0 && u.desc.Size <= int64(len(buffer))
	for at := u.offset; at < u.desc.Size; {
		piece := buffer[:min(int64(len(buffer)), u.desc.Size-at)]
		if _, err := io.ReadFull(in, piece); err != nil {
			return err
		}
		_, _ = sum.Write(piece) // a hash never fails
		if at += int64(len(piece)); at == u.desc.Size {
			if err := u.checkDigest(ctx, sum); err != nil {
				return err
			}
		}
		if whole {
			return u.finish(ctx, piece)
		}
		if err := u.engine.open(ctx); err != nil {
			return err
		}
		if err := u.chunk(ctx, piece); err != nil {
			return err
		}
		u.remember(sum)
	}
	if u.desc.Size == 0 || u.offset == u.desc.Size && hashed == u.desc.Size {
		if err := u.checkDigest(ctx, sum); err != nil {
			return err
		}
	}
	return u.finish(ctx, nil)
}

// startHash takes up the hash at the last checkpoint that the registry has passed.
func (u *upload) startHash() (int64, hash.Hash, error) {
	sum := u.desc.Digest.Algorithm().Hash()
	for _, c := range slices.Backward(u.checkpoints) {
		state, ok := sum.(encoding.BinaryUnmarshaler)
		if c.Offset <= u.offset && ok && state.UnmarshalBinary(c.Hash) == nil {
			return c.Offset, sum, nil
		}
	}
	sum.Reset()
	return 0, sum, nil
}

func (u *upload) checkDigest(ctx context.Context, sum hash.Hash) error {
	if got := fmt.Sprintf("%x", sum.Sum(nil)); got != u.desc.Digest.Encoded() {
		u.cancel(ctx)
		u.engine.opts.Journal.setSession(sessionRecord{Key: u.key()})
		return fmt.Errorf("%w: what %s sent has the digest %s:%s", oci.ErrDamaged, u.from, u.desc.Digest.Algorithm(), got)
	}
	return nil
}

// remember writes a checkpoint.
func (u *upload) remember(sum hash.Hash) {
	state, ok := sum.(encoding.BinaryMarshaler)
	if !ok {
		return
	}
	data, err := state.MarshalBinary()
	if err != nil {
		return
	}
	u.checkpoints = append(u.checkpoints, checkpoint{Offset: u.offset, Hash: data})
	u.checkpoints = u.checkpoints[max(0, len(u.checkpoints)-keptCheckpoints):]
	u.engine.opts.Journal.setSession(sessionRecord{Key: u.key(), Location: u.location.String(), Checkpoints: slices.Clone(u.checkpoints)})
}

// chunk sends a piece that begins at the registry's offset, and what of it was lost again.
func (u *upload) chunk(ctx context.Context, piece []byte) error {
	start, end := u.offset, u.offset+int64(len(piece))
	for attempt := 0; u.offset < end; {
		rest := piece[u.offset-start:]
		u.account(u.offset, end)
		header := http.Header{
			"Content-Type":  {"application/octet-stream"},
			"Content-Range": {fmt.Sprintf("%d-%d", u.offset, end-1)},
		}
		resp, err := u.request(ctx, http.MethodPatch, u.location, header, rest)
		if err == nil {
			err = u.accepted(resp)
		}
		if err == nil {
			u.offset = end
			u.advance(end)
			return nil
		}
		if attempt++; attempt > u.engine.opts.Retries || ctx.Err() != nil {
			return err
		}
		if err := u.catchUp(ctx, attempt, err); err != nil {
			return err
		}
		switch {
		case u.offset < start:
			return errBehind
		case u.offset > end:
			return fmt.Errorf("%w: the registry has %d bytes, and was sent %d", oci.ErrDamaged, u.offset, end)
		case u.offset > start:
			attempt = 0
		}
	}
	return nil
}

// account counts what is sent, and what of it was sent before.
func (u *upload) account(from, to int64) {
	u.result.Sent += to - from
	if from < u.highest {
		u.result.Resent += min(u.highest, to) - from
	}
	u.highest = max(u.highest, to)
}

// advance reports bytes, each once.
func (u *upload) advance(to int64) {
	if to > u.reported {
		u.engine.opts.OnBytes(to - u.reported)
		u.reported = to
	}
}

func (u *upload) accepted(resp *http.Response) error {
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusAccepted {
		return newStatusError(resp)
	}
	return u.moved(resp)
}

// catchUp waits and asks the registry how far it came.
func (u *upload) catchUp(ctx context.Context, attempt int, cause error) error {
	refused := (*statusError)(nil)
	if !errors.As(cause, &refused) || refused.status != http.StatusRequestedRangeNotSatisfiable {
		if !passing(ctx, cause) && !errors.Is(cause, oci.ErrNotFound) {
			return cause
		}
	}
	u.result.Cuts++
	for ; ; attempt++ {
		if err := u.engine.pause(ctx, attempt-1, cause); err != nil {
			return err
		}
		err := u.status(ctx)
		if err == nil || errors.Is(err, errLost) || attempt >= u.engine.opts.Retries || ctx.Err() != nil {
			return err
		}
		cause = err
	}
}

// status asks how many bytes the registry has.
func (u *upload) status(ctx context.Context) error {
	resp, err := u.request(ctx, http.MethodGet, u.location, nil, nil)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	switch resp.StatusCode {
	case http.StatusNoContent, http.StatusAccepted, http.StatusOK:
	case http.StatusNotFound, http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusRequestedRangeNotSatisfiable:
		return errLost
	default:
		return newStatusError(resp)
	}
	_, last, ok := strings.Cut(strings.TrimPrefix(resp.Header.Get("Range"), "bytes="), "-")
	n, err := strconv.ParseInt(last, 10, 64)
	if !ok || err != nil || n < 0 || n >= max(u.desc.Size, 1) {
		return errLost
	}
	// 0-0 is said of one byte and of none; nobody sends one byte.
	if u.offset = n + 1; n == 0 {
		u.offset = 0
	}
	return u.moved(resp)
}

// finish closes the upload, with the blob when it is sent whole.
func (u *upload) finish(ctx context.Context, whole []byte) error {
	at := *u.location
	query := at.Query()
	query.Set("digest", u.desc.Digest.String())
	at.RawQuery = query.Encode()
	header := http.Header{"Content-Type": {"application/octet-stream"}}
	u.account(u.offset, u.offset+int64(len(whole)))
	resp, err := u.request(ctx, http.MethodPut, &at, header, whole)
	if err == nil {
		defer func() { _ = resp.Body.Close() }()
		if resp.StatusCode == http.StatusCreated || resp.StatusCode == http.StatusNoContent {
			u.advance(u.desc.Size)
			return nil
		}
		err = newStatusError(resp)
	}
	// The answer may have been lost, and not the request.
	if exists, existsErr := u.repository.Exists(ctx, u.desc); existsErr == nil && exists {
		u.advance(u.desc.Size)
		return nil
	}
	refused := (*statusError)(nil)
	if passing(ctx, err) || errors.Is(err, oci.ErrNotFound) || errors.As(err, &refused) && refused.status == http.StatusRequestedRangeNotSatisfiable {
		u.result.Cuts++
		return fmt.Errorf("%w: %w", errLost, err)
	}
	return err
}

// cancel gives the upload up; a registry forgets it by itself some day.
func (u *upload) cancel(ctx context.Context) {
	if resp, err := u.request(ctx, http.MethodDelete, u.location, nil, nil); err == nil {
		_ = resp.Body.Close()
	}
}

// moved takes the address for the next request.
func (u *upload) moved(resp *http.Response) error {
	location := resp.Header.Get("Location")
	if location == "" {
		return nil
	}
	next, err := resp.Request.URL.Parse(location)
	if err != nil {
		return fmt.Errorf("upload's location %q: %w", location, err)
	}
	// Credentials go to this address: it must be the registry's own.
	want := u.to.URL("")
	if next.Host != want.Host {
		return fmt.Errorf("%w: the registry sends uploads to another host, %s", oci.ErrUnauthorized, next.Host)
	}
	next.Scheme = want.Scheme // behind a proxy that ends TLS registries say http
	u.location = next
	return nil
}

func (u *upload) request(ctx context.Context, method string, at *url.URL, header http.Header, body []byte, others ...string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, at.String(), http.NoBody)
	if err != nil {
		return nil, err
	}
	if header != nil {
		req.Header = header
	}
	if body != nil {
		// Without GetBody nothing below sends it again by itself: how far it came is asked first.
		req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	}
	resp, err := u.to.Do(req, others...)
	return resp, unreachable(err)
}
