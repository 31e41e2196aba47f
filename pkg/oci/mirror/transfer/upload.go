package transfer

import (
	"context"
	"encoding"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

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
	offset      int64        // that the registry has
	highest     int64        // that was ever sent
	reported    atomic.Int64 // to OnBytes
	checkpoints []checkpoint
	chunkSize   int64 // as asked for, or more where the registry takes nothing less
}

// keptCheckpoints is how far back a registry that lost its last bytes can be met.
const keptCheckpoints = 3

// maxLeastChunk bounds what a registry may ask for as its smallest chunk: a chunk is what a cut may cost.
const maxLeastChunk = 64 << 20

// errLost says that the registry knows the upload no more.
var errLost = errors.New("the registry lost the upload")

func (u *upload) key() string { return journalKey(u.repository.String(), u.desc.Digest) }

func (u *upload) run(ctx context.Context, mountFrom []string) error {
	u.result.Action, u.chunkSize = Copied, int64(u.engine.opts.Chunk)
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
	u.location, u.checkpoints, u.chunkSize = location, record.Checkpoints, max(u.chunkSize, record.ChunkSize)
	if err := u.status(ctx); err != nil {
		u.location, u.checkpoints = nil, nil
		return false
	}
	u.highest = u.offset
	u.reported.Store(u.offset)
	u.engine.opts.OnResumed(u.offset)
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
		resp, err := u.request(ctx, http.MethodPost, at, nil, nil, 0, others...)
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
			least, _ := strconv.ParseInt(resp.Header.Get("OCI-Chunk-Min-Length"), 10, 64) // most registries say nothing
			u.chunkSize = max(u.chunkSize, min(least, maxLeastChunk))
			return false, nil
		}
		if i < len(mountFrom) {
			continue // no mount from there, so without
		}
		return false, newStatusError(resp)
	}
}

// errCut says that the blob has to be read, and sent, again from the offset that the registry has.
var errCut = errors.New("the upload was cut")

// send sends the blob from the offset that the registry has, and goes on where it is cut.
func (u *upload) send(ctx context.Context) error {
	for failures := 0; ; {
		before := u.offset
		err := u.stream(ctx)
		if !errors.Is(err, errCut) {
			return err
		}
		if failures++; u.offset > before {
			failures = 1
		}
		if failures > u.engine.opts.Retries {
			return err
		}
		if err := u.catchUp(ctx, failures, err); err != nil {
			return err
		}
	}
}

// stream reads, hashes and sends to the end: in one piece when that is no more than a chunk.
func (u *upload) stream(ctx context.Context) error {
	body, err := u.body(ctx)
	if err != nil {
		return err
	}
	defer func() { u.result.Cuts += body.close() }()
	if u.offset == 0 && u.desc.Size <= u.chunkSize {
		return u.finish(ctx, body)
	}
	for u.offset < u.desc.Size {
		if err := u.engine.open(ctx); err != nil {
			return err
		}
		if err := u.chunk(ctx, body); err != nil {
			return err
		}
		u.remember(body.sum)
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

// body reads the blob from the registry's offset. What the registry has, and wasn't hashed yet, is read and not sent.
func (u *upload) body(ctx context.Context) (*blobBody, error) {
	hashed, sum, err := u.startHash()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	body := &blobBody{in: u.engine.download(ctx, u.from, u.desc, hashed), cancel: cancel, sum: sum, at: hashed, desc: u.desc}
	if _, err := io.CopyN(io.Discard, body, u.offset-hashed); err != nil {
		body.close()
		return nil, err
	}
	body.sent = u.account
	return body, nil
}

// blobBody is what is sent: it is hashed on its way, and its last bytes are kept back when they are wrong. A request that
// failed may read on for a while; once it is closed, nobody does.
type blobBody struct {
	mu     sync.Mutex
	closed bool
	cancel context.CancelFunc

	in   *download
	sum  hash.Hash
	at   int64
	desc ocispec.Descriptor
	sent func(from, to int64) // may be nil
	err  error                // why reading ended early
}

func (b *blobBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return 0, fs.ErrClosed
	}
	n, err := b.in.Read(p)
	_, _ = b.sum.Write(p[:n]) // a hash never fails
	if n > 0 && b.at+int64(n) == b.desc.Size {
		if got := fmt.Sprintf("%x", b.sum.Sum(nil)); got != b.desc.Digest.Encoded() {
			b.err = fmt.Errorf("%w: what %s sent has the digest %s:%s", oci.ErrDamaged, b.in.from, b.desc.Digest.Algorithm(), got)
			return 0, b.err
		}
	}
	if b.sent != nil {
		b.sent(b.at, b.at+int64(n))
	}
	b.at += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		b.err = err
	}
	return n, err
}

// close returns how often reading was cut and went on.
func (b *blobBody) close() int {
	b.cancel()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	_ = b.in.Close() // it was read
	return b.in.cuts
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
	u.engine.opts.Journal.setSession(sessionRecord{Key: u.key(), Location: u.location.String(), ChunkSize: u.chunkSize, Checkpoints: slices.Clone(u.checkpoints)})
}

// chunk sends the next piece.
func (u *upload) chunk(ctx context.Context, body *blobBody) error {
	end := min(u.offset+u.chunkSize, u.desc.Size)
	resp, err := u.request(ctx, http.MethodPatch, u.location, http.Header{ //nolint:bodyclose // accepted closes it
		"Content-Type":  {"application/octet-stream"},
		"Content-Range": {fmt.Sprintf("%d-%d", u.offset, end-1)},
	}, io.LimitReader(body, end-u.offset), end-u.offset)
	if err == nil {
		err = u.accepted(resp)
	}
	if err != nil {
		return u.cut(ctx, body, err)
	}
	u.offset = end
	u.advance(end)
	return nil
}

// cut says whether to go on: not when the blob can't be read, or is wrong.
func (u *upload) cut(ctx context.Context, body *blobBody, err error) error {
	body.mu.Lock()
	readErr := body.err
	body.mu.Unlock()
	if readErr != nil {
		if errors.Is(readErr, oci.ErrDamaged) {
			u.cancel(ctx)
			u.engine.opts.Journal.setSession(sessionRecord{Key: u.key()})
		}
		return readErr
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("%w: %w", errCut, err)
}

// account counts what is sent, and what of it was sent before.
func (u *upload) account(from, to int64) {
	u.result.Sent += to - from
	if from < u.highest {
		u.result.Resent += min(u.highest, to) - from
	}
	u.highest = max(u.highest, to)
	u.advance(to)
}

// advance reports bytes, each once.
func (u *upload) advance(to int64) {
	for {
		before := u.reported.Load()
		if to <= before {
			return
		}
		if u.reported.CompareAndSwap(before, to) {
			u.engine.opts.OnBytes(to - before)
			return
		}
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
	resp, err := u.request(ctx, http.MethodGet, u.location, nil, nil, 0)
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
func (u *upload) finish(ctx context.Context, whole *blobBody) error {
	at := *u.location
	query := at.Query()
	query.Set("digest", u.desc.Digest.String())
	at.RawQuery = query.Encode()
	var body io.Reader
	var size int64
	if whole != nil {
		body, size = whole, u.desc.Size
	}
	resp, err := u.request(ctx, http.MethodPut, &at, http.Header{"Content-Type": {"application/octet-stream"}}, body, size)
	if err == nil {
		defer func() { _ = resp.Body.Close() }()
		if resp.StatusCode == http.StatusCreated || resp.StatusCode == http.StatusNoContent {
			u.advance(u.desc.Size)
			return nil
		}
		err = newStatusError(resp)
	}
	if whole != nil {
		if cause := u.cut(ctx, whole, err); !errors.Is(cause, errCut) {
			return cause
		}
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
	if resp, err := u.request(ctx, http.MethodDelete, u.location, nil, nil, 0); err == nil {
		_ = resp.Body.Close()
	}
}

// moved takes the address for the next request.
func (u *upload) moved(resp *http.Response) error {
	next, err := u.to.Location(resp)
	if err != nil || next == nil {
		return err
	}
	u.location = next
	return nil
}

// request sends a body of size bytes, or none. Without GetBody nothing below sends it again by itself: how far it came is
// asked first.
func (u *upload) request(ctx context.Context, method string, at *url.URL, header http.Header, body io.Reader, size int64, others ...string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, at.String(), http.NoBody)
	if err != nil {
		return nil, err
	}
	if header != nil {
		req.Header = header
	}
	if body != nil && size > 0 {
		req.Body, req.ContentLength = io.NopCloser(body), size
	}
	resp, err := u.to.Do(req, others...)
	return resp, unreachable(err)
}
