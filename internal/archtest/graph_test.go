package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "pinnace.dev/pinnace"

// pkg is what go list says of a package.
type pkg struct {
	ImportPath   string
	Doc          string
	Imports      []string
	TestImports  []string
	XTestImports []string
	Standard     bool
}

// graph holds every package that this module builds, its dependencies included, by import path.
type graph map[string]pkg

func load(t *testing.T) graph {
	t.Helper()
	look(t, root)
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-json=ImportPath,Doc,Imports,TestImports,XTestImports,Standard", "./...")
	cmd.Dir = root
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	packages := graph{}
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		packages[p.ImportPath] = p
	}
	return packages
}

// root is the module's, seen from this package.
const root = "../.."

// look opens every folder of the module: go test keeps a result until what the test itself opened changes, and doesn't
// know what go list reads.
func look(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if entry.IsDir() && (!strings.HasPrefix(entry.Name(), ".") && entry.Name() != "bin") {
			look(t, filepath.Join(dir, entry.Name()))
		}
	}
}

// own returns this module's packages, without the module's name, sorted.
func (g graph) own() []string {
	var own []string
	for path := range g {
		// internal/anchor only keeps requirements in go.mod.
		if name, ok := ours(path); ok && name != "internal/anchor" {
			own = append(own, name)
		}
	}
	slices.Sort(own)
	return own
}

// ours cuts the module's name off.
func ours(path string) (string, bool) { return strings.CutPrefix(path, module+"/") }

// chain returns the shortest way of imports from a package to one that the predicate holds for, itself not counted,
// that doesn't lead through some others.
func (g graph) chain(from string, forbidden func(path string) bool, through []string) []string {
	cameFrom := map[string]string{from: ""}
	for queue := []string{from}; len(queue) > 0; queue = queue[1:] {
		for _, next := range g[queue[0]].Imports {
			if _, seen := cameFrom[next]; seen || withinAny(next, through) {
				continue
			}
			cameFrom[next] = queue[0]
			if forbidden(next) {
				var chain []string
				for at := next; at != ""; at = cameFrom[at] {
					chain = append(chain, at)
				}
				slices.Reverse(chain)
				return chain
			}
			queue = append(queue, next)
		}
	}
	return nil
}

// within says whether a path is the folder or below it.
func within(path, folder string) bool {
	return path == folder || strings.HasPrefix(path, folder+"/")
}

func withinAny(path string, folders []string) bool {
	return slices.ContainsFunc(folders, func(folder string) bool { return within(path, folder) })
}
