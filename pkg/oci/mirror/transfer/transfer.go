// Package transfer moves blobs from one repository to another, also over links that break.
//
// An [Engine] bounds how much is under way at the same time, how fast, and when. [Engine.Blob] mounts a blob from a
// repository beside it where that is possible, and otherwise streams it: the download goes on at the byte where it was
// cut (Range), the upload goes in chunks at the offset that the registry kept. A [Journal] remembers uploads, so that a
// process that was killed sends at most one chunk again. Every byte is hashed on the way; wrong ones are never
// finished.
package transfer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/time/rate"

	"pinnace.dev/pinnace/pkg/oci"
)

// Defaults of [Options].
const (
	DefaultJobs  = 12
	DefaultChunk = 16 << 20

	defaultRetries = 8
	defaultBackoff = 250 * time.Millisecond
	maxBackoff     = 30 * time.Second
)

// Options of an engine. The zero value is unlimited and forgets everything when the process ends.
type Options struct {
	// Jobs bounds how many transfers run at the same time; fewer run while more don't help. DefaultJobs when zero.
	Jobs int
	// Rate bounds the bytes per second of all transfers together; unlimited when zero.
	Rate int64
	// Window is when transfers may run; always when zero. One that is under way when it closes waits at its next chunk.
	Window Window
	// Chunk is how many bytes are sent in one piece; DefaultChunk when zero.
	Chunk int
	// Retries is how often a transfer that gets no further is tried again; 8 when zero.
	Retries int
	// Backoff is the pause before the first try; it doubles up to 30s. 250ms when zero.
	Backoff time.Duration
	// Journal remembers uploads; nothing does when nil.
	Journal *Journal
	// OnBytes is called with bytes as they are sent, those that are sent again once only, from several goroutines; may be
	// nil.
	OnBytes func(n int64)
	// OnResumed is called with bytes that an earlier process sent already, or wrote; OnBytes is when nil.
	OnResumed func(n int64)
	// OnWait is called when transfers wait for the window; may be nil.
	OnWait func(until time.Time)
}

// Engine moves blobs. It may be used concurrently.
type Engine struct {
	opts    Options
	limiter *rate.Limiter
	gate    *gate
	buffers sync.Pool
	now     func() time.Time                                 // by which the window opens and closes
	wait    func(ctx context.Context, d time.Duration) error // until it opens
}

// New returns an engine.
func New(opts Options) *Engine {
	opts.Jobs = cmp.Or(max(opts.Jobs, 0), DefaultJobs)
	opts.Chunk = cmp.Or(max(opts.Chunk, 0), DefaultChunk)
	opts.Retries = cmp.Or(max(opts.Retries, 0), defaultRetries)
	opts.Backoff = cmp.Or(max(opts.Backoff, 0), defaultBackoff)
	if opts.OnBytes == nil {
		opts.OnBytes = func(int64) {}
	}
	if opts.OnResumed == nil {
		opts.OnResumed = opts.OnBytes
	}
	e := &Engine{opts: opts, gate: newGate(opts.Jobs), now: time.Now, wait: sleep}
	if opts.Rate > 0 {
		e.limiter = rate.NewLimiter(rate.Limit(opts.Rate), int(max(min(opts.Rate, readStep), 1)))
	}
	e.buffers.New = func() any { return make([]byte, pieceSize) }
	return e
}

// Action is what happened to a blob: a closed set.
type Action string

const (
	Copied  Action = "copied"
	Mounted Action = "mounted" // from another repository of the receiver, without sending it
)

// Result is what it took to bring a blob.
type Result struct {
	Action Action
	Sent   int64 // bytes that the receiver was sent, those that were sent again included
	Resent int64 // bytes that were sent again
	Cuts   int   // how often the transfer was broken and went on
}

// Blob brings a blob from one repository into another that doesn't have it. mountFrom are repositories of the receiver
// that have it, relative to its host. It waits for its turn.
func (e *Engine) Blob(ctx context.Context, from, to oci.Repository, desc ocispec.Descriptor, mountFrom ...string) (Result, error) {
	result, err := e.blob(ctx, from, to, desc, mountFrom)
	if err != nil {
		return result, fmt.Errorf("bring %s to %s: %w", desc.Digest, to, err)
	}
	return result, nil
}

func (e *Engine) blob(ctx context.Context, from, to oci.Repository, desc ocispec.Descriptor, mountFrom []string) (result Result, err error) {
	if err := desc.Digest.Validate(); err != nil || desc.Size < 0 {
		return Result{}, fmt.Errorf("%w: descriptor %q of %d bytes", oci.ErrDamaged, desc.Digest, desc.Size)
	}
	if err := e.gate.enter(ctx); err != nil {
		return Result{}, err
	}
	defer func() { e.gate.leave(result.Sent, congested(err) || result.Cuts > 0) }()
	if err := e.open(ctx); err != nil {
		return Result{}, err
	}
	endpoint, ok := oci.EndpointOf(to)
	if !ok {
		return e.blobIntoStore(ctx, from, to, desc)
	}
	up := &upload{engine: e, from: from, to: endpoint, repository: to, desc: desc}
	err = up.run(ctx, mountFrom)
	return up.result, err
}

// maxStoreBlob stops blobs that fill the memory, in a store that takes them whole: a layout or memory.
const maxStoreBlob = 512 << 20

func (e *Engine) blobIntoStore(ctx context.Context, from, to oci.Repository, desc ocispec.Descriptor) (Result, error) {
	if desc.Size > maxStoreBlob {
		return Result{}, fmt.Errorf("%w: %d bytes, %s takes at most %d", oci.ErrTooLarge, desc.Size, to, maxStoreBlob)
	}
	in := e.download(ctx, from, desc, 0)
	defer func() { _ = in.Close() }()
	data, err := io.ReadAll(in)
	if err != nil {
		return Result{}, err
	}
	if err := to.Push(ctx, desc, data); err != nil {
		return Result{}, err
	}
	e.opts.OnBytes(desc.Size)
	return Result{Action: Copied, Sent: desc.Size, Cuts: in.cuts}, nil
}

// open waits until the window is open.
func (e *Engine) open(ctx context.Context) error {
	now := e.now()
	wait := e.opts.Window.Wait(now)
	if wait <= 0 {
		return nil
	}
	if e.opts.OnWait != nil {
		e.opts.OnWait(now.Add(wait))
	}
	return e.wait(ctx, wait)
}

// pause waits before another try: as long as the registry asked, or longer each time.
func (e *Engine) pause(ctx context.Context, attempt int, err error) error {
	wait := min(e.opts.Backoff<<min(attempt, 16), maxBackoff)
	if refused := (*statusError)(nil); errors.As(err, &refused) && refused.retryAfter > 0 {
		wait = refused.retryAfter
	}
	return sleep(ctx, wait)
}

func sleep(ctx context.Context, wait time.Duration) error {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
