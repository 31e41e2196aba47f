package cli

import (
	"math/rand/v2"
	"testing"
	"time"

	"pinnace.dev/pinnace/pkg/oci/mirror"
)

// Over a link whose speed changes from second to second, what is said to remain never grows, and ends at nothing.
func TestEstimateNeverGrows(t *testing.T) {
	const want = 100 << 20
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 1))
		e := estimate{started: time.Unix(0, 0)}
		at, arrived, last := e.started, int64(0), time.Duration(1<<62)
		for arrived < want {
			at = at.Add(time.Duration(100+random.IntN(900)) * time.Millisecond)
			if random.IntN(4) > 0 { // now and then nothing comes at all
				arrived = min(arrived+random.Int64N(3<<20), want)
			}
			e.look(arrived, want, at)
			if e.known && e.remaining > last {
				t.Fatalf("seed %d: %s remain after %s", seed, e.remaining, last)
			}
			if e.known {
				last = e.remaining
			}
		}
		if !e.known || e.remaining != 0 {
			t.Errorf("seed %d: %s remain at the end (known: %v)", seed, e.remaining, e.known)
		}
	}
}

// A burst at the beginning, and what an earlier process brought, promise nothing.
func TestEstimateIsNotTakenInAtTheBeginning(t *testing.T) {
	const rate, want, before = 1 << 20, 200 << 20, 100 << 20
	e := estimate{started: time.Unix(0, 0), resumed: before}
	arrived := int64(before + 64<<10)
	e.look(arrived, want, e.started.Add(time.Millisecond)) // 64 MiB/s
	for at := 100 * time.Millisecond; at <= 3*time.Second; at += 100 * time.Millisecond {
		arrived = before + 64<<10 + int64(at.Seconds()*rate)
		e.look(arrived, want, e.started.Add(at))
	}
	if !e.known || e.remaining < 90*time.Second || e.remaining > 100*time.Second {
		t.Errorf("after 3 s at 1 MiB/s of 100 MiB, %s remain (known: %v)", e.remaining, e.known)
	}
}

func TestTransferLine(t *testing.T) {
	e := estimate{started: time.Unix(0, 0)}
	got := e.line(mirror.Progress{Stage: "volume-0002.tar", Done: 3, All: 8, Want: 4 << 20}, 1<<20, time.Unix(2, 0))
	if want := "volume-0002.tar 3/8  1.0 MiB of 4.0 MiB  512.0 KiB/s  6s left"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
