package agent

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pinnace.dev/pinnace/pkg/agent/apply"
)

func openState(t *testing.T, dir string) *State {
	t.Helper()
	state, err := OpenState(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = state.Close() })
	return state
}

func TestStateRemembers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	state := openState(t, dir)
	want := Remembered{Known: Known{Generation: 7, Digest: "sha256:aa", Latest: noon}, Signers: []string{"release"}}
	if err := state.Remember(want); err != nil {
		t.Fatal(err)
	}
	record := Record{Bundle: bundleNamed("web"), Complete: true, Inventory: apply.InventoryOf(apply.Ref{APIVersion: "v1", Kind: "ConfigMap", Name: "c"})}
	if err := state.SaveRecord(record); err != nil {
		t.Fatal(err)
	}
	identity, err := state.Identity()
	if err != nil || identity == "" {
		t.Fatalf("identity %q, %v", identity, err)
	}
	if err := state.Close(); err != nil {
		t.Fatal(err)
	}

	state = openState(t, dir)
	got, err := state.Remembered()
	if err != nil || got.Known != want.Known {
		t.Errorf("remembered %+v, %v; want %+v", got, err, want)
	}
	records, err := state.Records()
	if err != nil || len(records) != 1 || !records["web"].Complete || len(records["web"].Inventory) != 1 {
		t.Errorf("records %+v, %v", records, err)
	}
	if again, err := state.Identity(); again != identity || err != nil {
		t.Errorf("identity %q, %v; before %q", again, err, identity)
	}
	for range 2 { // an absent one is fine
		if err := state.DropRecord("web"); err != nil {
			t.Errorf("DropRecord: %v", err)
		}
	}
}

func TestStateIsLocked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	openState(t, dir)
	_, err := OpenState(dir)
	if ReasonOf(err, "") != ReasonStateLocked || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
		t.Errorf("second agent: %v", err)
	}
}

func TestCorruptStateNamesTheFile(t *testing.T) {
	t.Parallel()
	tests := []struct {
		file, content string
		read          func(*State) error
	}{
		{"target.json", "{", func(s *State) error { _, err := s.Remembered(); return err }},
		{"target.json", `{"generation": 3}`, func(s *State) error { _, err := s.Remembered(); return err }},
		{"target.json", "", func(s *State) error { _, err := s.Remembered(); return err }},
		{"inventory/web.json", "\x00\x00", func(s *State) error { _, err := s.Records(); return err }},
	}
	for _, test := range tests {
		t.Run(test.file+" "+test.content, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			state := openState(t, dir)
			path := filepath.Join(dir, test.file)
			if err := os.WriteFile(path, []byte(test.content), 0o600); err != nil {
				t.Fatal(err)
			}
			err := test.read(state)
			var typed *Error
			if !errors.As(err, &typed) || typed.Reason != ReasonStateCorrupt || typed.Subject != path || !strings.Contains(typed.Mend, "remove the file") {
				t.Errorf("error %v, want one that names %s and what mends it", err, path)
			}
		})
	}
}

func TestUnwritableState(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenState(filepath.Join(file, "state")); ReasonOf(err, "") != ReasonStateUnwritable {
		t.Errorf("OpenState below a file: %v", err)
	}
}

// A process that writes without end is killed at random points. Whatever it left must read back, and no older than what
// it had said to be durable.
func TestKilledStateIsConsistent(t *testing.T) {
	if dir := os.Getenv("PINNACE_TEST_WRITE_STATE"); dir != "" {
		writeWithoutEnd(dir)
		return
	}
	t.Parallel()
	dir := t.TempDir()
	for range 30 {
		durable := killWriter(t, dir)
		state := openState(t, dir)
		remembered, err := state.Remembered()
		if err != nil {
			t.Fatalf("after a kill: %v", err)
		}
		if remembered.Known.Generation < durable {
			t.Fatalf("generation %d, but %d was durable", remembered.Known.Generation, durable)
		}
		records, err := state.Records()
		if err != nil {
			t.Fatalf("after a kill: %v", err)
		}
		if got := records["web"].Generation; got < durable {
			t.Fatalf("record of generation %d, but %d was durable", got, durable)
		}
		if err := state.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// killWriter starts the writer, kills it, and returns the last generation that it called durable.
func killWriter(t *testing.T, dir string) int64 {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilledStateIsConsistent$")
	cmd.Env = append(os.Environ(), "PINNACE_TEST_WRITE_STATE="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var durable int64
	kill := make(chan struct{})
	lines := bufio.NewScanner(out)
	for written := 0; lines.Scan(); written++ {
		if _, err := fmt.Sscanf(lines.Text(), "durable %d", &durable); err != nil {
			continue
		}
		if written == 3 {
			go func() {
				defer close(kill)
				<-time.After(time.Duration(rand.IntN(20_000)) * time.Microsecond)
				_ = cmd.Process.Kill()
			}()
		}
	}
	<-kill
	_ = cmd.Wait() // it was killed
	return durable
}

func writeWithoutEnd(dir string) {
	state, err := OpenState(dir)
	if err != nil {
		panic(err)
	}
	before, err := state.Remembered()
	if err != nil {
		panic(err)
	}
	padding := map[string]string{"pad": strings.Repeat("x", 100_000)}
	for generation := before.Known.Generation + 1; ; generation++ {
		bundle := bundleNamed("web")
		bundle.Variables = padding
		if err := state.SaveRecord(Record{Bundle: bundle, Generation: generation}); err != nil {
			panic(err)
		}
		if err := state.Remember(Remembered{Known: Known{Generation: generation}}); err != nil {
			panic(err)
		}
		fmt.Printf("durable %d\n", generation)
	}
}
