package cli

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"pinnace.dev/pinnace/pkg/oci/registry"
	"pinnace.dev/pinnace/pkg/oci/signing/signingtest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"pinnace": func() {
			ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
			defer stop()
			os.Exit(Run(ctx, Program{Version: "v0.0.0-test", In: os.Stdin, Out: os.Stdout, Err: os.Stderr}, os.Args[1:]))
		},
	})
}

// TestScripts runs the scripts in testdata/script. Each has an empty registry at $REGISTRY.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			server, err := registry.Start(registry.Options{})
			if err != nil {
				return err
			}
			env.Defer(func() { _ = server.Close() })
			env.Setenv("REGISTRY", server.Addr)
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("XDG_CACHE_HOME", filepath.Join(env.WorkDir, ".cache"))
			env.Setenv("COSIGN_PASSWORD", "secret")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits,
			"fresh": freshCopy,
			"edit":  edit,
			"page":  page,

			"sigstore": sigstore,
		},
	})
}

// exits runs a command and checks its exit code: exits 5 pinnace target nowhere. Output is compared as after exec.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits code command [args...]")
	}
	code := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var failed *exec.ExitError
		if !errors.As(err, &failed) {
			ts.Fatalf("%v", err)
		}
		code = failed.ExitCode()
	}
	if got := strconv.Itoa(code); got != args[0] {
		ts.Fatalf("exit code %s, want %s", got, args[0])
	}
}

// sigstore runs a Sigstore at $SIGSTORE, with its trusted_root.json and the tokens of two identities.
func sigstore(ts *testscript.TestScript, _ bool, _ []string) {
	running, err := signingtest.Start()
	ts.Check(err)
	ts.Defer(running.Close)
	ts.Setenv("SIGSTORE", running.URL)
	for name, data := range map[string]string{
		"trusted_root.json": string(running.TrustedRoot),
		"ci.token":          signingtest.Token("https://ci.example/fleet", "https://tokens.example"),
		"release.token":     signingtest.Token("https://ci.example/release", "https://tokens.example"),
	} {
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(data), 0o600))
	}
}

// freshCopy makes bad a copy of good.
func freshCopy(ts *testscript.TestScript, _ bool, _ []string) {
	ts.Check(os.RemoveAll(ts.MkAbs("bad")))
	ts.Check(os.CopyFS(ts.MkAbs("bad"), os.DirFS(ts.MkAbs("good"))))
}

// edit replaces a text that must be in the file: edit file old new.
func edit(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: edit file old new")
	}
	before := ts.ReadFile(args[0])
	after := strings.Replace(before, args[1], args[2], 1)
	if after == before {
		ts.Fatalf("%s does not hold %q", args[0], args[1])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(after), 0o644))
}
