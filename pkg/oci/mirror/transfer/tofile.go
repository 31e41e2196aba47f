package transfer

import (
	"context"
	"encoding"
	"fmt"
	"io"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/pkg/oci"
)

// Place is where a blob is written in a file.
type Place struct {
	File   io.WriterAt
	Name   string // of the file, for the journal
	Offset int64
	// Sync makes what was written durable, before the journal says so; may be nil.
	Sync func() error
}

// pieceSize is how much is written to a file at once.
const pieceSize = 1 << 20

// ToFile brings a blob into a file. It goes on where a process that was killed stopped, when there is a journal.
func (e *Engine) ToFile(ctx context.Context, from oci.Repository, desc ocispec.Descriptor, to Place) (result Result, err error) {
	if err := desc.Digest.Validate(); err != nil || desc.Size < 0 {
		return Result{}, fmt.Errorf("%w: descriptor %q of %d bytes", oci.ErrDamaged, desc.Digest, desc.Size)
	}
	if err := e.gate.enter(ctx); err != nil {
		return Result{}, err
	}
	defer func() { e.gate.leave(result.Sent, congested(err) || result.Cuts > 0) }()
	result.Action = Copied
	sum := desc.Digest.Algorithm().Hash()
	key := journalKey(to.Name, desc.Digest)
	var done int64
	if record := e.opts.Journal.session(key); record != nil && len(record.Checkpoints) > 0 {
		last := record.Checkpoints[len(record.Checkpoints)-1]
		if state, ok := sum.(encoding.BinaryUnmarshaler); ok && last.Offset <= desc.Size && state.UnmarshalBinary(last.Hash) == nil {
			done = last.Offset
		} else {
			sum.Reset()
		}
	}
	e.opts.OnResumed(done)
	in := e.download(ctx, from, desc, done)
	defer func() { _ = in.Close(); result.Cuts = in.cuts }()
	buffer, _ := e.buffers.Get().([]byte)
	defer func() { e.buffers.Put(buffer) }() //nolint:staticcheck // a slice's header is small beside what it holds
	for saved := done; done < desc.Size; {
		if err := e.open(ctx); err != nil {
			return result, err
		}
		piece := buffer[:min(int64(len(buffer)), int64(e.opts.Chunk), desc.Size-done)]
		if _, err := io.ReadFull(in, piece); err != nil {
			return result, err
		}
		if _, err := to.File.WriteAt(piece, to.Offset+done); err != nil {
			return result, err
		}
		_, _ = sum.Write(piece) // a hash never fails
		done += int64(len(piece))
		result.Sent += int64(len(piece))
		e.opts.OnBytes(int64(len(piece)))
		if done < desc.Size && done-saved >= int64(e.opts.Chunk) {
			e.checkpoint(key, to, done, sum)
			saved = done
		}
	}
	if got := fmt.Sprintf("%x", sum.Sum(nil)); got != desc.Digest.Encoded() {
		e.opts.Journal.setSession(sessionRecord{Key: key})
		return result, fmt.Errorf("%w: what %s sent has the digest %s:%s", oci.ErrDamaged, from, desc.Digest.Algorithm(), got)
	}
	e.opts.Journal.SetDone(to.Name, desc.Digest)
	return result, nil
}

func (e *Engine) checkpoint(key string, to Place, done int64, sum any) {
	state, ok := sum.(encoding.BinaryMarshaler)
	if !ok || e.opts.Journal == nil {
		return
	}
	data, err := state.MarshalBinary()
	if err != nil || to.Sync != nil && to.Sync() != nil {
		return
	}
	e.opts.Journal.setSession(sessionRecord{Key: key, Location: to.Name, Checkpoints: []checkpoint{{Offset: done, Hash: data}}})
}
