package cli

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the generated documentation")

// The reference in docs/ is what the program says of itself.
func TestReferenceIsCurrent(t *testing.T) {
	pages, err := referencePages(newRoot(&session{}))
	if err != nil {
		t.Fatal(err)
	}
	docs := filepath.Join("..", "..", "docs")
	if *update {
		if err := os.RemoveAll(filepath.Join(docs, "cli")); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range pages {
		file := filepath.Join(docs, filepath.FromSlash(name))
		if *update {
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, want, 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		got, err := os.ReadFile(file)
		if err != nil {
			t.Errorf("%v; run: go test ./internal/cli -update", err)
			continue
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s differs from the program; run: go test ./internal/cli -update\n%s", name, diff)
		}
	}
	committed, err := filepath.Glob(filepath.Join(docs, "cli", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range committed {
		if pages["cli/"+filepath.Base(file)] == nil {
			t.Errorf("%s describes no command; run: go test ./internal/cli -update", file)
		}
	}
}

// Every command says what it does at length and shows how; every flag says what it means.
func TestEveryCommandIsDescribed(t *testing.T) {
	root := newRoot(&session{})
	for _, cmd := range append(root.Commands(), root) {
		for _, cmd := range append(cmd.Commands(), cmd) {
			if cmd.Short == "" || cmd.Long == "" || strings.HasSuffix(cmd.Short, ".") {
				t.Errorf("%s: Short must be a line without a full stop, and Long say more", cmd.CommandPath())
			}
			if cmd.Runnable() && !cmd.HasSubCommands() && !cmd.Hidden && strings.Count(cmd.Example, cmd.CommandPath()) < 2 {
				t.Errorf("%s: has fewer than two examples", cmd.CommandPath())
			}
		}
	}
}
