package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// codeBlock finds the code blocks of a page.
var codeBlock = regexp.MustCompile("(?ms)^```([a-z]+)\n(.*?)^```$")

// page runs a page of the documentation: page docs/signing.md. A block of yaml that begins with "# NAME" is written to
// that file, a block of text to page/text-N, and each line of a console block that begins with "$ " is run, with the
// script's registry in place of registry.example.com.
func page(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: page file")
	}
	data, err := os.ReadFile(filepath.Join(moduleRoot, args[0]))
	ts.Check(err)
	ts.Check(os.MkdirAll(ts.MkAbs("page"), 0o755))
	blocks := codeBlock.FindAllStringSubmatch(string(data), -1)
	texts := 0
	for _, block := range blocks {
		switch first, _, _ := strings.Cut(block[2], "\n"); block[1] {
		case "yaml":
			if name, ok := strings.CutPrefix(first, "# "); ok {
				ts.Check(os.WriteFile(ts.MkAbs(name), []byte(block[2]), 0o600))
			}
		case "text":
			texts++
			ts.Check(os.WriteFile(ts.MkAbs(fmt.Sprintf("page/text-%d", texts)), []byte(block[2]), 0o600))
		}
	}
	for _, block := range blocks {
		if block[1] != "console" {
			continue
		}
		for line := range strings.Lines(block[2]) {
			if command, ok := strings.CutPrefix(strings.TrimSpace(line), "$ "); ok {
				words := strings.Fields(strings.ReplaceAll(command, "registry.example.com", ts.Getenv("REGISTRY")))
				if err := ts.Exec(words[0], words[1:]...); err != nil {
					ts.Fatalf("%s: %s: %v", args[0], command, err)
				}
			}
		}
	}
	if len(blocks) == 0 {
		ts.Fatalf("%s has no code blocks", args[0])
	}
}

// moduleRoot is absolute: scripts run elsewhere.
var moduleRoot = func() string {
	root, err := filepath.Abs("../..")
	if err != nil {
		panic(err)
	}
	return root
}()
