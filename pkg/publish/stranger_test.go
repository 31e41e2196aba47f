package publish

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
	"pinnace.dev/pinnace/pkg/publish/gates"
	"pinnace.dev/pinnace/pkg/target/rollout"
)

// rolling is a site whose rollout's canary is let in by gate 1.
func rolling(t *testing.T) (*site, oci.Repository) {
	t.Helper()
	s := newSite(t, map[string]string{"pinnace.yaml": rolledOut})
	s.publish(nil)
	s.publish(map[string]string{"bundles/a/cm.yaml": configMap("a", "2")})
	if gate := s.step("fleet").Gate; gate.Sequence != 1 {
		t.Fatalf("got gate %d, want 1", gate.Sequence)
	}
	repo, err := s.registry.Repository(v1alpha1.RolloutRepository("fleet"))
	if err != nil {
		t.Fatal(err)
	}
	return s, repo
}

// strange pushes a gate that opens everything under tags, signed by whom is given.
func strange(t *testing.T, repo oci.Repository, signer *signing.Signer, sequence int64, tags ...string) {
	t.Helper()
	data, err := json.Marshal(v1alpha1.RolloutGate{
		TypeMeta: v1alpha1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.KindRolloutGate},
		Fleet:    "acme", Name: "fleet", Plan: 1, Sequence: sequence, Phase: v1alpha1.RolloutProgressing, OpenWave: 9, OpenBucket: v1alpha1.MaxBucket,
		IssuedAt: metav1.NewTime(start), ExpiresAt: metav1.NewTime(start.Add(time.Hour)),
	})
	if err != nil {
		t.Fatal(err)
	}
	desc, _, err := oci.Push(t.Context(), repo, oci.Artifact{
		Type: v1alpha1.ArtifactTypeGate, Layers: []oci.Blob{{MediaType: v1alpha1.MediaTypeGate, Data: data}},
	})
	if err == nil && signer != nil {
		_, err = signer.Sign(t.Context(), repo, desc)
	}
	point(t, repo, desc, tags...)
	if err != nil {
		t.Fatal(err)
	}
}

func point(t *testing.T, repo oci.Repository, desc ocispec.Descriptor, tags ...string) {
	t.Helper()
	for _, tag := range tags {
		if err := repo.Tag(t.Context(), desc, tag); err != nil {
			t.Fatal(err)
		}
	}
}

func resolve(t *testing.T, repo oci.Repository, tag string) ocispec.Descriptor {
	t.Helper()
	desc, err := repo.Resolve(t.Context(), tag)
	if err != nil {
		t.Fatal(err)
	}
	return desc
}

// Whoever may push stops no rollout: what a stranger puts under a tag is reported, the newest gate that counts is put in
// its place, and the next one comes after it.
func TestStrangersGate(t *testing.T) {
	stranger := anotherSigner(t)
	for _, test := range []struct {
		name string
		push func(t *testing.T, repo oci.Repository)
	}{
		{"unsigned", func(t *testing.T, repo oci.Repository) { strange(t, repo, nil, 99, "gate") }},
		{"signed by a stranger", func(t *testing.T, repo oci.Repository) { strange(t, repo, stranger, 99, "gate") }},
		{"unsigned, and under the number too", func(t *testing.T, repo oci.Repository) { strange(t, repo, nil, 1, "gate", "gate-1") }},
		{"a flood of numbers", func(t *testing.T, repo oci.Repository) {
			strange(t, repo, nil, 99, "gate", "gate-99", "gate-98", "gate-9223372036854775807", "gate-99999999999999999999")
		}},
		{"no gate at all", func(t *testing.T, repo oci.Repository) { point(t, repo, resolve(t, repo, "plan"), "gate") }},
		{"a plan's", func(t *testing.T, repo oci.Repository) { strange(t, repo, nil, 1, "plan", "gate") }},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, repo := rolling(t)
			first := resolve(t, repo, "gate")
			test.push(t, repo)
			look := s.options()
			look.Signer = nil
			seen, err := gates.Look(t.Context(), "fleet", look)
			if err != nil || seen.Gate.Sequence != 1 || len(seen.Refused) == 0 {
				t.Errorf("who looks sees gate %d, %v refused, %v; want 1", seen.Gate.Sequence, seen.Refused, err)
			}
			if now := resolve(t, repo, "gate"); now.Digest == first.Digest {
				t.Error("who only looks pointed the tag elsewhere")
			}
			result := s.step("fleet")
			if result.Written || result.Gate.Sequence != 1 || result.Gate.Phase != v1alpha1.RolloutProgressing {
				t.Errorf("got gate %d, %s, written: %v; want 1 as it is", result.Gate.Sequence, result.Gate.Phase, result.Written)
			}
			if now := resolve(t, repo, "gate"); now.Digest != first.Digest || resolve(t, repo, "gate-1").Digest != first.Digest {
				t.Errorf("the tags point at %s, want gate 1 again", now.Digest)
			}
			if text := result.Refused[0].String(); !strings.Contains(text, "the tag ") || !strings.Contains(text, "sha256:") {
				t.Errorf("it is reported as %s", text)
			}
			s.states["east"] = v1alpha1.RolloutDone
			if next := s.step("fleet").Gate; next.Sequence != 2 || next.Phase != v1alpha1.RolloutBaking {
				t.Errorf("then got gate %d, %s; want 2, %s", next.Sequence, next.Phase, v1alpha1.RolloutBaking)
			}
		})
	}
}

// A stranger who hides an abort, or puts back what was before it, reopens nothing.
func TestAbortIsNotUndoneByStrangers(t *testing.T) {
	for _, test := range []struct {
		name string
		hide func(t *testing.T, repo oci.Repository, first, abort ocispec.Descriptor)
	}{
		{"an older gate", func(t *testing.T, repo oci.Repository, first, _ ocispec.Descriptor) { point(t, repo, first, "gate") }},
		{"an older gate under every tag", func(t *testing.T, repo oci.Repository, first, _ ocispec.Descriptor) {
			point(t, repo, first, "gate", "gate-2")
		}},
		{"an unsigned one", func(t *testing.T, repo oci.Repository, _, _ ocispec.Descriptor) { strange(t, repo, nil, 2, "gate") }},
		{"an unsigned one under every tag", func(t *testing.T, repo oci.Repository, _, _ ocispec.Descriptor) {
			strange(t, repo, nil, 2, "gate", "gate-2")
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, repo := rolling(t)
			first := resolve(t, repo, "gate")
			if _, err := gates.Do(t.Context(), "fleet", rollout.Abort, "ann", "wrong", s.options()); err != nil {
				t.Fatal(err)
			}
			abort := resolve(t, repo, "gate")
			test.hide(t, repo, first, abort)
			s.states["east"] = v1alpha1.RolloutDone
			for range 2 {
				if gate := s.step("fleet").Gate; gate.Phase != v1alpha1.RolloutAborted || gate.Sequence != 2 {
					t.Fatalf("got gate %d, %s; want 2, aborted", gate.Sequence, gate.Phase)
				}
			}
			if now := resolve(t, repo, "gate"); now.Digest != abort.Digest {
				t.Errorf("the tag points at %s, want the abort", now.Digest)
			}
		})
	}
	t.Run("its signature too", func(t *testing.T) {
		// Nobody knows any more what gate 2 said: people say how it goes on.
		s, repo := rolling(t)
		if _, err := gates.Do(t.Context(), "fleet", rollout.Abort, "ann", "wrong", s.options()); err != nil {
			t.Fatal(err)
		}
		abort := resolve(t, repo, "gate")
		strange(t, repo, nil, 2, "gate", "gate-2", oci.SignatureTag(abort.Digest))
		s.states["east"] = v1alpha1.RolloutDone
		for sequence := range int64(2) {
			result := s.step("fleet")
			if sequence == 0 && (result.Gate.Phase != v1alpha1.RolloutPaused || result.Gate.Sequence != 2 || result.Gate.Reason != gates.ReasonGateLost) {
				t.Fatalf("got gate %d, %s, %s; want 2, paused", result.Gate.Sequence, result.Gate.Phase, result.Gate.Message)
			}
			if result.Gate.Phase != v1alpha1.RolloutPaused || result.Gate.OpenWave > 0 {
				t.Fatalf("it goes on by itself: %s", result.Gate.Phase)
			}
		}
		resumed, err := gates.Do(t.Context(), "fleet", rollout.Resume, "ann", "", s.options())
		if err != nil || resumed.Gate.Sequence != 3 {
			t.Fatalf("got gate %d, %v; want 3", resumed.Gate.Sequence, err)
		}
		if gate := s.step("fleet").Gate; gate.Phase != v1alpha1.RolloutBaking {
			t.Errorf("after it was resumed it is %s", gate.Phase)
		}
	})
}

// Keys that sign nothing here are the reader's mistake, and begin nothing anew.
func TestWrongKeyBeginsNothingAnew(t *testing.T) {
	s, repo := rolling(t)
	before := resolve(t, repo, "gate")
	opts := s.options()
	opts.Signer = anotherSigner(t)
	verifier, err := signing.NewKeyVerifier("other", anotherSigner(t).PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	opts.Verifier = verifier
	if _, err := gates.Step(t.Context(), "fleet", opts); err == nil || !strings.Contains(err.Error(), string(signing.KeyNotTrusted)) {
		t.Errorf("got %v, want that the key is not trusted", err)
	}
	if now := resolve(t, repo, "gate"); now.Digest != before.Digest {
		t.Error("it moved the gate")
	}
}
