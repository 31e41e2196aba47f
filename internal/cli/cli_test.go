package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pinnace.dev/pinnace/api/document"
	"pinnace.dev/pinnace/internal/exitcode"
	"pinnace.dev/pinnace/pkg/bundler/source"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
	"pinnace.dev/pinnace/pkg/publish"
)

func TestExitCode(t *testing.T) {
	finding := document.Error{File: "f.yaml", Line: 1, Column: 1, Message: "x"}
	tests := map[string]struct {
		err  error
		want int
	}{
		"nothing":            {nil, exitcode.Done},
		"unclassified":       {errors.New("x"), exitcode.No},
		"usage":              {fmt.Errorf("a: %w", usagef("x")), exitcode.Usage},
		"finding":            {fmt.Errorf("a: %w", finding), exitcode.Usage},
		"findings":           {errors.Join(document.Errors{finding}, errors.New("x")), exitcode.Usage},
		"refused signature":  {fmt.Errorf("a: %w", &signing.Error{}), exitcode.Refused},
		"refused publish":    {&publish.RefusedError{Targets: []publish.TargetResult{{}}}, exitcode.Refused},
		"wrong password":     {signing.ErrPassword, exitcode.Unauthorized},
		"git credentials":    {fmt.Errorf("a: %w", source.ErrUnauthorized), exitcode.Unauthorized},
		"git unreachable":    {source.ErrUnreachable, exitcode.Unreachable},
		"git not found":      {source.ErrNotFound, exitcode.NotFound},
		"no file":            {fmt.Errorf("a: %w", fs.ErrNotExist), exitcode.NotFound},
		"registry":           {fmt.Errorf("a: %w", oci.ErrUnreachable), exitcode.Unreachable},
		"a chart":            {ofInput(errors.New("chart x: y")), exitcode.Usage},
		"a full disk":        {ofInput(&fs.PathError{Op: "write", Path: "x", Err: errors.New("full")}), exitcode.No},
		"another publish":    {ofInput(fmt.Errorf("a: %w", publish.ErrConcurrent)), exitcode.No},
		"registry, as input": {ofInput(oci.ErrUnauthorized), exitcode.Unauthorized},
	}
	for name, test := range tests {
		if got := exitCode(test.err); got != test.want {
			t.Errorf("%s: got %d, want %d", name, got, test.want)
		}
	}
}

func TestErrorLines(t *testing.T) {
	one := document.Error{File: "f.yaml", Line: 1, Column: 2, Message: "one"}
	two := document.Error{File: "f.yaml", Line: 3, Column: 4, Message: "two"}
	tests := map[string]struct {
		err  error
		want []string
	}{
		"one line":          {errors.New("a\n  b"), []string{"a b"}},
		"findings":          {document.Errors{one, two}, []string{"f.yaml:1:2: one", "f.yaml:3:4: two"}},
		"joined":            {errors.Join(errors.New("a"), document.Errors{one, two}), []string{"a", "f.yaml:1:2: one", "f.yaml:3:4: two"}},
		"behind a prefix":   {fmt.Errorf("source: %w", document.Errors{one, two}), []string{"source: f.yaml:1:2: one", "source: f.yaml:3:4: two"}},
		"two in a sentence": {fmt.Errorf("%w because %w", one, two), []string{"f.yaml:1:2: one because f.yaml:3:4: two"}},
		"a full disk": {
			&fs.PathError{Op: "write", Path: "cache/x", Err: syscall.ENOSPC},
			[]string{"write cache/x: no space left on device; free space on the disk, or name another folder with --cache-dir"},
		},
		"with an act": {
			fmt.Errorf("reg/x: %w", oci.ErrUnauthorized),
			[]string{"reg/x: not authorised; log in with docker login, or name credentials with --registry-config"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, errorLines(test.err)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestErrorsAreBounded(t *testing.T) {
	var many document.Errors
	for i := range 30 {
		many = append(many, document.Error{File: "f.yaml", Line: i, Message: "x"})
	}
	for verbose, want := range map[bool]int{false: maxErrorLines + 1, true: 30} {
		var out bytes.Buffer
		s := &session{Program: Program{Err: &out}, verbose: verbose, logFormat: "text"}
		s.printError(many, exitcode.Usage)
		if got := strings.Count(out.String(), "\n"); got != want {
			t.Errorf("verbose=%v: got %d lines, want %d", verbose, got, want)
		}
	}
}

// What a foreign name holds must not steer the terminal or break the table.
func TestTableIsPlain(t *testing.T) {
	var out bytes.Buffer
	err := printTable(&out, view{columns: columns("A", "+B", "C"), rows: [][]string{{"x\x1b[31m\ny", "wide", ""}}}, false)
	if err != nil {
		t.Fatal(err)
	}
	if want := "A          C\nx [31m y   -\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}

func TestMessages(t *testing.T) {
	tests := map[string]struct {
		session session
		want    string
	}{
		"text":  {session{logFormat: "text"}, "done: a\nwarning: b\ndoing: c stage=build\nwarning: d\n"},
		"quiet": {session{logFormat: "text", quiet: true}, "warning: b\nwarning: d\n"},
		"verbose": {
			session{logFormat: "text", verbose: true},
			"done: a\nwarning: b\ndoing: c stage=build\nwarning: d\ndoing: e\n",
		},
		"json": {
			session{logFormat: "json"},
			`{"level":"info","msg":"a","state":"done"}` + "\n" + `{"level":"warn","msg":"b","state":"warning"}` + "\n" +
				`{"level":"info","msg":"c","stage":"build"}` + "\n" + `{"level":"warn","msg":"d"}` + "\n",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			s := test.session
			s.Err = &out
			s.message(markDone, "a")
			s.message(markWarning, "b")
			s.log().With("stage", "build").Info("c")
			s.log().Warn("d")
			s.log().Debug("e")
			if diff := cmp.Diff(test.want, out.String()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// The registry says where it listens, serves, and ends when interrupted.
func TestRegistryServe(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	out, in := io.Pipe()
	code := make(chan int, 1)
	go func() {
		code <- Run(ctx, Program{In: os.Stdin, Out: in, Err: io.Discard}, []string{"registry", "serve", "--root", t.TempDir()})
		_ = in.Close()
	}()
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.Get("http://" + strings.TrimSpace(addr) + "/v2/")
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Errorf("status %d, want 200", response.StatusCode)
	}
	interrupt()
	if got := <-code; got != exitcode.Done {
		t.Errorf("exit code %d, want %d: a server that is asked to end is done", got, exitcode.Done)
	}
}

func TestInterrupted(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	interrupt()
	var stderr bytes.Buffer
	dir := t.TempDir()
	public := dir + "/key.pub"
	_, data, err := signing.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(public, data, 0o600); err != nil {
		t.Fatal(err)
	}
	code := Run(ctx, Program{In: os.Stdin, Out: io.Discard, Err: &stderr},
		[]string{"status", "--registry", "127.0.0.1:1/x", "--plain-http", "--key", public})
	if code != exitcode.Interrupted || stderr.String() != "error: interrupted\n" {
		t.Errorf("got %d and %q, want %d and one word", code, stderr.String(), exitcode.Interrupted)
	}
}

func TestSplitReference(t *testing.T) {
	tests := []struct{ in, prefix, registry, name, reference string }{
		{"r.example:5000/fleet/targets/a:current", "", "r.example:5000/fleet", "targets/a", "current"},
		{"oci://r.example/x/y/bundles/b@sha256:ab", "", "r.example/x/y", "bundles/b", "sha256:ab"},
		{"r.example/x/bundles/b:1@sha256:ab", "", "r.example/x", "bundles/b", "sha256:ab"},
		{"r.example/fleet/fleet", "", "r.example/fleet", "fleet", "current"},
		{"r.example:5000/x/other/thing:v1", "oci://r.example:5000/x/", "r.example:5000/x", "other/thing", "v1"},
	}
	for _, test := range tests {
		registry, name, reference, err := splitReference(test.in, test.prefix)
		if err != nil || registry != test.registry || name != test.name || reference != test.reference {
			t.Errorf("%s: got %q %q %q %v, want %q %q %q", test.in, registry, name, reference, err, test.registry, test.name, test.reference)
		}
	}
}

func TestFleetName(t *testing.T) {
	for folder, want := range map[string]string{
		"fleet": "fleet", "My Fleet": "my-fleet", "--": "fleet", strings.Repeat("a", 80): strings.Repeat("a", 63), ".config": "config",
	} {
		if got := fleetName(folder); got != want {
			t.Errorf("%q: got %q, want %q", folder, got, want)
		}
	}
}
