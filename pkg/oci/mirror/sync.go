package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync/atomic"

	"github.com/google/renameio/v2"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
)

// SyncOptions say what is brought from where to where.
type SyncOptions struct {
	From      From
	Selection Selection
	Copier    Copier // without Open, which is the sender's
	// StateFile remembers what the last sync left, so that the next one asks each repository once when nothing
	// changed. Nothing is remembered when empty.
	StateFile string
	// Key identifies sender, receiver and selection in the state.
	Key string
	// Everything looks at every artifact, whatever the state says: for signatures that were added since, and for a
	// receiver that lost something.
	Everything bool
}

// Sync brings a receiver up to date. The report is nil when nothing had changed since the last one.
func Sync(ctx context.Context, opts SyncOptions) (*Plan, *Report, error) {
	if !opts.Everything {
		state, err := readState(opts.StateFile, opts.Key)
		if err != nil {
			return nil, nil, err
		}
		if state != nil {
			same, err := state.holds(ctx, opts.From, opts.Copier.To)
			if err != nil || same {
				return &Plan{Closure: &Closure{}}, nil, err
			}
		}
	}
	closure, err := Find(ctx, opts.From, opts.Selection)
	if err != nil {
		return nil, nil, err
	}
	there, err := Look(ctx, opts.Copier.To, closure, opts.From.Jobs)
	if err != nil {
		return nil, nil, err
	}
	plan := Compare(closure, there)
	copier := opts.Copier
	copier.Open = Opener(opts.From.Registry, opts.From.Host)
	report, err := copier.Run(ctx, plan)
	if err != nil {
		return plan, report, err
	}
	if report.Complete() && len(closure.Missing)+len(closure.Refused) == 0 {
		err = newState(opts.Key, closure).write(opts.StateFile)
	}
	return plan, report, err
}

// state is what a complete sync left.
type state struct {
	Key string `json:"key"`
	// Sender are the moving tags of the fleet's repositories, by repository:tag, empty for one that wasn't there yet;
	// Receiver one tag of each repository.
	Sender   map[string]digest.Digest `json:"sender"`
	Receiver map[string]digest.Digest `json:"receiver"`
}

func newState(key string, closure *Closure) *state {
	s := &state{Key: key, Sender: map[string]digest.Digest{}, Receiver: map[string]digest.Digest{}}
	chosen := map[string]bool{}
	// A trust root, and gates, may come later than the targets that wait for them.
	s.Sender[v1alpha1.RepositoryTrust+":"+v1alpha1.TagCurrent] = ""
	for _, name := range closure.Gates {
		s.Sender[name+":"+v1alpha1.TagGate] = ""
	}
	for _, entry := range closure.Entries {
		for _, tag := range entry.Moving {
			// The fleet index names the targets; gates and the trust root change by themselves.
			if entry.Kind == KindFleet || entry.Kind == KindRollout || entry.Kind == KindTrust {
				s.Sender[entry.Repository+":"+tag] = entry.Digest
			}
			s.Receiver[entry.Repository+":"+tag] = entry.Digest
			chosen[entry.Repository] = true
		}
	}
	for _, entry := range closure.Entries {
		for _, tag := range entry.Tags {
			if !chosen[entry.Repository] && !strings.HasPrefix(tag, "sha256-") {
				s.Receiver[entry.Repository+":"+tag] = entry.Digest
				chosen[entry.Repository] = true
			}
		}
	}
	return s
}

// holds says whether both sides are as the state says.
func (s *state) holds(ctx context.Context, from From, to oci.Registry) (bool, error) {
	var differs atomic.Bool
	var work []func(context.Context) error
	add := func(registry oci.Registry, tags map[string]digest.Digest) {
		for name, want := range tags {
			work = append(work, func(ctx context.Context) error {
				repository, tag, _ := strings.Cut(name, ":")
				repo, err := registry.Repository(repository)
				if err != nil {
					return err
				}
				desc, err := repo.Resolve(ctx, tag)
				if errors.Is(err, oci.ErrNotFound) {
					desc, err = ocispec.Descriptor{}, nil
				}
				if err == nil && desc.Digest != want {
					differs.Store(true)
				}
				return err
			})
		}
	}
	add(from.Registry, s.Sender)
	add(to, s.Receiver)
	err := runAll(ctx, max(from.Jobs, defaultJobs), work)
	return err == nil && !differs.Load(), err
}

func readState(path, key string) (*state, error) {
	if path == "" {
		return nil, nil
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the state of mirroring: %w", err)
	}
	var s state
	readable := json.Unmarshal(data, &s) == nil && s.Key == key && s.Sender[v1alpha1.RepositoryFleet+":"+v1alpha1.TagCurrent] != ""
	if !readable {
		return nil, nil // as good as none
	}
	return &s, nil
}

func (s *state) write(path string) error {
	if path == "" {
		return nil
	}
	data, err := json.Marshal(s)
	if err == nil {
		err = renameio.WriteFile(path, data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("write the state of mirroring: %w", err)
	}
	return nil
}
