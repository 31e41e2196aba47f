package archtest

import (
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// bounded are the folders whose every bound docs/security.md lists: they read what may come from a hostile registry.
var bounded = []string{
	"pkg/oci", "pkg/oci/archive", "pkg/oci/signing", "pkg/oci/signing/evidence", "pkg/oci/signing/trustroot", "pkg/agent",
	"pkg/oci/registry", "pkg/manifests", "pkg/sealed", "internal/webhook", "internal/agentcli", "api/document",
}

// noBounds are constants named like bounds that bound nothing which is read.
var noBounds = map[string]string{
	"pkg/oci/archive.maxSegment": "what file systems store as one name",
	"pkg/oci/archive.MaxTarFile": "what the tar format can say",
	"api/document.maxText":       "how much of a value an error shows",
}

var boundName = regexp.MustCompile(`^[Mm]ax[A-Z]`)

// TestBoundsAreDocumented compares the table in docs/security.md with the constants, both ways.
func TestBoundsAreDocumented(t *testing.T) {
	root := filepath.Join("..", "..")
	page, err := os.ReadFile(filepath.Join(root, "docs", "security.md"))
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([^`]+\\.[A-Za-z]+)` \\| ([^|]+) \\|").FindAllStringSubmatch(string(page), -1) {
		rows[row[1]] = strings.TrimSpace(row[2])
	}
	constants := map[string]string{}
	for _, folder := range bounded {
		for name, value := range constantsOf(t, filepath.Join(root, folder)) {
			constants[folder+"."+name] = value
		}
	}
	for name, said := range rows {
		value, found := constants[name]
		if !found {
			t.Errorf("docs/security.md: there is no constant %s", name)
		} else if value != said {
			t.Errorf("docs/security.md: %s is %s, not %s", name, value, said)
		}
	}
	for name := range constants {
		_, short, _ := strings.Cut(name[strings.LastIndex(name, "/"):], ".")
		if rows[name] == "" && noBounds[name] == "" && boundName.MatchString(short) {
			t.Errorf("docs/security.md doesn't list %s", name)
		}
	}
}

// constantsOf returns the constants of a package, with their values as people write them.
func constantsOf(t *testing.T, folder string) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(node ast.Node) bool {
			spec, is := node.(*ast.ValueSpec)
			if !is || len(spec.Values) != len(spec.Names) {
				return true
			}
			for i, name := range spec.Names {
				if text, ok := said(spec.Values[i]); ok {
					out[name.Name] = text
				}
			}
			return true
		})
	}
	return out
}

// said writes a constant's value as the page does: 4 MiB, 10m, 50,000.
func said(expression ast.Expr) (string, bool) {
	text := types.ExprString(expression)
	unit := ""
	for name, short := range map[string]string{"time.Hour": "h", "time.Minute": "m", "time.Second": "s"} {
		if rest, found := strings.CutSuffix(text, name); found {
			text, unit = strings.TrimSuffix(strings.TrimSpace(rest), "*"), short
			if text == "" {
				text = "1"
			}
		}
	}
	value, err := types.Eval(token.NewFileSet(), nil, token.NoPos, text)
	if err != nil || value.Value == nil || value.Value.Kind() != constant.Int {
		return "", false
	}
	number, _ := constant.Int64Val(value.Value)
	if unit != "" {
		return strconv.FormatInt(number, 10) + unit, true
	}
	if strings.Contains(text, "<<") {
		for _, size := range []struct {
			bytes int64
			name  string
		}{{1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}} {
			if number%size.bytes == 0 {
				return strconv.FormatInt(number/size.bytes, 10) + " " + size.name, true
			}
		}
	}
	digits := strconv.FormatInt(number, 10)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits, true
}
