package gates

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
)

// Who may push to a rollout's repository may point its tags at anything. What isn't signed as the policy wants, or is of
// another rollout, counts for nothing, for agents and here: it is reported, and the newest that is right is looked for,
// so that nobody stops a rollout, lowers a sequence or brings an older gate back by pushing.

// Refused is what a tag of a rollout points at although it counts for nothing.
type Refused struct {
	Tag    string `json:"tag"`
	Digest string `json:"digest"`
	// Reason is why it counts for nothing.
	Reason string `json:"reason"`

	err error
}

func (r Refused) String() string {
	return fmt.Sprintf("the tag %s points at %s, which counts for nothing: %s", r.Tag, r.Digest, r.Reason)
}

// maxRefused stops a repository that somebody filled with tags of what nobody signed.
const maxRefused = 100

// refusedError says that something under a tag counts for nothing; the network had no part in it.
type refusedError struct{ error }

func (e *refusedError) Unwrap() error { return e.error }

// refuse marks an error of what was found under a tag, unless it is the network's or the registry's.
func refuse(err error) error {
	var refusal *signing.Error
	if errors.As(err, &refusal) || errors.Is(err, oci.ErrDamaged) || errors.Is(err, oci.ErrTooLarge) || errors.Is(err, oci.ErrNotFound) {
		return &refusedError{err}
	}
	return err
}

// kind is a kind of document that a rollout's repository numbers.
type kind[T any] struct {
	tag  string // the newest, as it is believed; <tag>-<number> is each one
	read func(context.Context, oci.Repository, oci.Verified) (T, error)
	// number is the document's own, rollout the one that it is of.
	number  func(*T) int64
	rollout func(*T) string
}

var planKind = kind[v1alpha1.RolloutPlan]{
	v1alpha1.TagPlan, oci.FetchPlan,
	func(p *v1alpha1.RolloutPlan) int64 { return p.Plan }, func(p *v1alpha1.RolloutPlan) string { return p.Name },
}

var gateKind = kind[v1alpha1.RolloutGate]{
	v1alpha1.TagGate, oci.FetchGate,
	func(g *v1alpha1.RolloutGate) int64 { return g.Sequence }, func(g *v1alpha1.RolloutGate) string { return g.Name },
}

// shelf is the repository of one rollout.
type shelf struct {
	oci.Repository
	rollout, name string
	verifier      Verifier
	refused       []Refused
}

func openShelf(registry oci.Registry, verifier Verifier, rollout string) (*shelf, error) {
	name := v1alpha1.RolloutRepository(rollout)
	repo, err := registry.Repository(name)
	return &shelf{Repository: repo, rollout: rollout, name: name, verifier: verifier}, err
}

// document is one that counts.
type document[T any] struct {
	content T
	desc    ocispec.Descriptor
}

// get reads what a tag or digest points at. What counts for nothing is noted, and a refusedError; an absent tag is
// [oci.ErrNotFound].
func get[T any](ctx context.Context, s *shelf, kind kind[T], reference string) (*document[T], error) {
	desc, err := s.Resolve(ctx, reference)
	if err != nil {
		return nil, err
	}
	found := &document[T]{desc: desc}
	verified, err := s.verifier.Verify(ctx, s.Repository, s.name, desc)
	if err == nil {
		found.content, err = kind.read(ctx, s.Repository, verified)
	}
	if err == nil {
		err = kind.fits(s, found, reference)
	}
	if err = refuse(err); errors.As(err, new(*refusedError)) {
		s.note(Refused{Tag: reference, Digest: desc.Digest.String(), Reason: reasonOf(err), err: err})
	}
	return found, err
}

// reasonOf an error, for people. That of a verifier says how to sign, which is the last thing to be done here.
func reasonOf(err error) string {
	var refusal *signing.Error
	if errors.As(err, &refusal) {
		return string(refusal.Reason)
	}
	return err.Error()
}

// fits checks that a document is what its tag says.
func (k kind[T]) fits(s *shelf, found *document[T], reference string) error {
	if of := k.rollout(&found.content); of != s.rollout {
		return fmt.Errorf("%w: it is of rollout %q", oci.ErrDamaged, of)
	}
	number := k.number(&found.content)
	if wanted, numbered := numberOf(k.tag, reference); numbered && wanted != number {
		return fmt.Errorf("%w: its number is %d", oci.ErrDamaged, number)
	}
	return nil
}

func (s *shelf) note(refused Refused) {
	if _, err := digest.Parse(refused.Tag); err == nil {
		return // no tag points at it
	}
	if !slices.ContainsFunc(s.refused, func(r Refused) bool { return r.Tag == refused.Tag }) {
		s.refused = append(s.refused, refused)
	}
}

// numberOf is the number of a tag such as gate-7.
func numberOf(kind, tag string) (int64, bool) {
	text, is := strings.CutPrefix(tag, kind+"-")
	number, err := strconv.ParseInt(text, 10, 64)
	return number, is && err == nil && number > 0
}

// current reads the document that the kind's tag points at; where that counts for nothing, the newest that counts. It is
// nil when there is none yet. Where there are some, none of which counts, the reader's own keys are in doubt.
func current[T any](ctx context.Context, s *shelf, kind kind[T]) (*document[T], error) {
	found, err := get(ctx, s, kind, kind.tag)
	switch {
	case err == nil:
		return found, nil
	case errors.Is(err, oci.ErrNotFound) && !errors.As(err, new(*refusedError)):
		return nil, nil
	case !errors.As(err, new(*refusedError)):
		return nil, err
	}
	found, err = newer(ctx, s, kind, nil)
	if found != nil || err != nil {
		return found, err
	}
	for _, refused := range s.refused {
		if number, is := numberOf(kind.tag, refused.Tag); is && number > 1 || kind.tag == v1alpha1.TagPlan {
			return nil, fmt.Errorf("nothing that counts stands under any tag of %s; if it is not the key that is wrong, delete the tag %s: %w",
				s, refused.Tag, refused.err)
		}
	}
	return nil, nil
}

// newer looks for the newest document with a higher number than one that is known, and returns the known one where there
// is none. Numbered tags say where to look. Where one of them was pointed elsewhere, its document is found by its
// signature, whose tag names its digest.
func newer[T any](ctx context.Context, s *shelf, kind kind[T], known *document[T]) (*document[T], error) {
	tags, err := s.Tags(ctx)
	if err != nil {
		return nil, err
	}
	var numbers []int64
	floor := int64(0)
	if known != nil {
		floor = kind.number(&known.content)
	}
	for _, tag := range tags {
		if number, is := numberOf(kind.tag, tag); is && number > floor {
			numbers = append(numbers, number)
		}
	}
	slices.Sort(numbers)
	slices.Reverse(numbers)
	for i, number := range numbers {
		if i == maxRefused {
			return nil, fmt.Errorf("more than %d tags of %s, such as %s-%d, point at what nobody may sign: delete them, and find out who may push there",
				maxRefused, s, kind.tag, number)
		}
		found, err := get(ctx, s, kind, fmt.Sprintf("%s-%d", kind.tag, number))
		if err == nil {
			known = found
			break
		}
		if !errors.Is(err, oci.ErrNotFound) && !errors.As(err, new(*refusedError)) {
			return nil, err
		}
	}
	if len(s.refused) == 0 {
		return known, nil
	}
	return signed(ctx, s, kind, known, tags)
}

// signed looks for a newer document among all that have a signature.
func signed[T any](ctx context.Context, s *shelf, kind kind[T], known *document[T], tags []string) (*document[T], error) {
	tried := 0
	for _, tag := range tags {
		hex, is := strings.CutPrefix(tag, "sha256-")
		hex, is2 := strings.CutSuffix(hex, ".sig")
		subject := digest.NewDigestFromEncoded(digest.SHA256, hex)
		if !is || !is2 || subject.Validate() != nil || known != nil && known.desc.Digest == subject {
			continue
		}
		if tried++; tried > 2*maxRefused {
			break // what people need is found by its number
		}
		found, err := get(ctx, s, kind, subject.String())
		switch {
		case err == nil && (known == nil || kind.number(&found.content) > kind.number(&known.content)):
			known = found
		case err != nil && !errors.Is(err, oci.ErrNotFound) && !errors.As(err, new(*refusedError)):
			return nil, err
		}
	}
	return known, nil
}

// point lets a tag point at a document again.
func (s *shelf) point(ctx context.Context, desc ocispec.Descriptor, tags ...string) error {
	for _, tag := range tags {
		if now, err := s.Resolve(ctx, tag); err == nil && now.Digest == desc.Digest {
			continue
		}
		if err := s.Tag(ctx, desc, tag); err != nil {
			return err
		}
	}
	return nil
}
