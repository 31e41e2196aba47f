package transfer

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/pkg/oci"
)

// How many transfers run at once grows while that brings more, shrinks when it brings less, and halves when the other
// side pushes back.
func TestTuner(t *testing.T) {
	type look struct {
		throughput float64
		pushedBack bool
	}
	for _, test := range []struct {
		name  string
		most  int
		looks []look
		want  []int
	}{
		{"more brings more", 12, []look{{100, false}, {130, false}, {160, false}, {190, false}}, []int{8, 10, 12, 12}},
		{"the link is full", 12, []look{{100, false}, {100, false}, {99, false}}, []int{8, 10, 12}},
		{"more brings less", 12, []look{{100, false}, {40, false}, {30, false}, {20, false}}, []int{8, 7, 6, 5}},
		{"it is throttled", 12, []look{{100, false}, {100, true}, {100, true}, {100, true}, {100, true}}, []int{8, 4, 2, 1, 1}},
		{"and recovers", 12, []look{{100, true}, {20, false}, {40, false}}, []int{3, 5, 7}},
		{"never more than asked for", 3, []look{{100, false}, {200, false}}, []int{3, 3}},
	} {
		t.Run(test.name, func(t *testing.T) {
			tuner := newTuner(test.most)
			var got []int
			for _, one := range test.looks {
				got = append(got, tuner.next(one.throughput, one.pushedBack))
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("limits (-want +got):\n%s", diff)
			}
		})
	}
}

// The gate lets in what the tuner allows, and takes back the places of those that gave up waiting.
func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(2)
		for range 2 {
			if err := g.enter(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		impatient, cancel := context.WithCancel(t.Context())
		gaveUp := make(chan error, 1)
		go func() { gaveUp <- g.enter(impatient) }()
		entered := make(chan error, 1)
		synctest.Wait()
		go func() { entered <- g.enter(t.Context()) }()
		synctest.Wait()
		cancel()
		if err := <-gaveUp; err == nil {
			t.Error("one that gave up was let in")
		}
		select {
		case <-entered:
			t.Error("a third was let in")
		default:
		}
		time.Sleep(tuneEvery)
		g.leave(1000, true) // pushed back: one at a time from now on
		synctest.Wait()
		select {
		case <-entered:
			t.Error("a second was let in after the other side pushed back")
		default:
		}
		g.leave(1000, false)
		if err := <-entered; err != nil {
			t.Error(err)
		}
	})
}

// What is to be sent waits until the window opens, and says so.
func TestTransfersWaitForTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		opens := began.Add(3 * time.Hour).Truncate(time.Minute)
		window, err := ParseWindow(opens.Format("15:04") + "-" + opens.Add(time.Hour).Format("15:04"))
		if err != nil {
			t.Fatal(err)
		}
		blob := oci.Blob{MediaType: "text/plain", Data: []byte("at night")}
		from, to := memory(t, blob), memory(t)
		var told time.Time
		engine := New(Options{Window: window, OnWait: func(until time.Time) { told = until }})
		if _, err := engine.Blob(t.Context(), from, to, blob.Descriptor()); err != nil {
			t.Fatal(err)
		}
		if now := time.Now(); now.Before(opens) || now.After(opens.Add(time.Minute)) {
			t.Errorf("it was sent at %s, and the window opens at %s", now, opens)
		}
		if !told.Equal(opens) {
			t.Errorf("it was told to wait until %s, want %s", told, opens)
		}
	})
}

func memory(t *testing.T, blobs ...oci.Blob) oci.Repository {
	t.Helper()
	repo, err := oci.NewMemory().Repository("a")
	if err != nil {
		t.Fatal(err)
	}
	for _, blob := range blobs {
		if err := repo.Push(t.Context(), ocispec.Descriptor{MediaType: blob.MediaType, Digest: blob.Descriptor().Digest, Size: int64(len(blob.Data))}, blob.Data); err != nil {
			t.Fatal(err)
		}
	}
	return repo
}

// A transfer that is under way when the window closes waits before its next piece, and goes on when it opens again.
func TestClosingWindowStopsBetweenPieces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opens := time.Now().Add(3 * time.Hour).Truncate(time.Minute)
		closes := opens.Add(time.Hour)
		window, err := ParseWindow(opens.Format("15:04") + "-" + closes.Format("15:04"))
		if err != nil {
			t.Fatal(err)
		}
		var pieces, waits []time.Time
		engine := New(Options{
			Window: window,
			OnWait: func(until time.Time) { waits = append(waits, until) },
			OnBytes: func(n int64) {
				if n == 0 {
					return
				}
				pieces = append(pieces, time.Now())
				if len(pieces) == 1 {
					time.Sleep(time.Until(closes.Add(time.Minute)))
				}
			},
		})
		blob := oci.Blob{MediaType: "text/plain", Data: make([]byte, 8<<20)}
		file, err := os.Create(filepath.Join(t.TempDir(), "volume"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = file.Close() }()
		if _, err := engine.ToFile(t.Context(), memory(t, blob), blob.Descriptor(), Place{File: file, Name: "volume"}); err != nil {
			t.Fatal(err)
		}
		next := opens.Add(24 * time.Hour)
		if len(pieces) < 2 || pieces[1].Before(next) {
			t.Errorf("pieces came at %s; the second may not before %s", pieces, next)
		}
		if want := []time.Time{opens, next}; !slices.EqualFunc(want, waits, time.Time.Equal) {
			t.Errorf("it waited until %s, want %s", waits, want)
		}
	})
}
