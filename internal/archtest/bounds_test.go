package archtest

import (
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"go/types"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// noBounds are constants named like bounds that bound nothing which is read.
var noBounds = map[string]string{
	"api/document.maxText":               "how much of a value an error shows",
	"api/v1alpha1.MaxBucket":             "how many buckets a wave has",
	"api/v1alpha1.MaxDriftEvents":        "what an agent writes",
	"api/v1alpha1.MaxGateEvents":         "what the builder writes",
	"api/v1alpha1.MaxProblems":           "what an agent writes",
	"api/v1alpha1.MaxReportSize":         "what an agent writes",
	"internal/cli.maxComment":            "what GitHub takes",
	"internal/cli.maxCopies":             "arguments of a command",
	"internal/cli.maxDifferences":        "what GitHub takes",
	"internal/cli.maxErrorLines":         "what is printed",
	"internal/cli.maxProblems":           "what is printed",
	"internal/cli.maxReferences":         "arguments of a command",
	"pkg/bundler.maxLookups":             "requests at the same time",
	"pkg/bundler.maxReads":               "bundles at the same time",
	"pkg/bundler.maxReleaseName":         "what Helm takes",
	"pkg/oci/archive.MaxTarFile":         "what the tar format can say",
	"pkg/oci/archive.maxSegment":         "what file systems store as one name",
	"pkg/oci/mirror.maxWhy":              "what is printed",
	"pkg/oci/mirror/medium.maxHolders":   "what is written",
	"pkg/oci/mirror/medium.maxListed":    "what is printed",
	"pkg/oci/mirror/transfer.maxBackoff": "how long we wait by ourselves",
	"pkg/publish.maxFindings":            "what is printed",
	"pkg/publish.maxSourcesAtOnce":       "sources at the same time",
	"pkg/publish/preview.maxVariations":  "what is printed",
	"pkg/target.maxFindings":             "what is printed",
	"pkg/target.maxNames":                "what is printed",
	"pkg/target/status.maxExamples":      "what is printed",
}

var boundName = regexp.MustCompile(`^[Mm]ax[A-Z]|^minStall|^Default(Packed|Unpacked|Files|PathLength|Depth|Stall)$`)

// bound is a constant that bounds something.
type bound struct {
	value     string // as people write it
	commented bool
}

// TestBoundsAreDocumented compares the table in docs/security.md with the constants of all packages, both ways, and wants
// each to have a comment.
func TestBoundsAreDocumented(t *testing.T) {
	root := filepath.Join("..", "..")
	page, err := os.ReadFile(filepath.Join(root, "docs", "security.md"))
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([^`]+\\.[A-Za-z]+)` \\| ([^|]+) \\|").FindAllStringSubmatch(string(page), -1) {
		rows[row[1]] = strings.Trim(row[2], " `")
	}
	found := map[string]bound{}
	for _, top := range []string{"api", "cmd", "internal", "pkg"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(file string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || filepath.Ext(file) != ".go" || strings.HasSuffix(file, "_test.go") {
				return err
			}
			folder, err := filepath.Rel(root, filepath.Dir(file))
			if err != nil {
				return err
			}
			return boundsOf(file, func(name string, one bound) { found[filepath.ToSlash(folder)+"."+name] = one })
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		if one, is := found[name]; !is {
			t.Errorf("docs/security.md: there is no bound %s", name)
		} else if one.value != rows[name] {
			t.Errorf("docs/security.md: %s is %s, not %s", name, one.value, rows[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(found)) {
		switch {
		case noBounds[name] != "":
		case rows[name] == "":
			t.Errorf("docs/security.md doesn't list %s; what bounds nothing that is read belongs into noBounds", name)
		case !found[name].commented:
			t.Errorf("%s has no comment; say what it stops", name)
		}
	}
	for name := range noBounds {
		if _, is := found[name]; !is {
			t.Errorf("noBounds: there is no constant %s", name)
		}
	}
}

// boundsOf tells the constants of a file that are named like bounds.
func boundsOf(file string, tell func(name string, one bound)) error {
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
	if err != nil {
		return err
	}
	ast.Inspect(parsed, func(node ast.Node) bool {
		group, is := node.(*ast.GenDecl)
		if !is || group.Tok != token.CONST {
			return true
		}
		for _, spec := range group.Specs {
			spec, is := spec.(*ast.ValueSpec)
			if !is || len(spec.Values) != len(spec.Names) {
				continue
			}
			commented := spec.Doc != nil || spec.Comment != nil || !group.Lparen.IsValid() && group.Doc != nil
			for i, name := range spec.Names {
				if boundName.MatchString(name.Name) {
					tell(name.Name, bound{said(spec.Values[i]), commented})
				}
			}
		}
		return false
	})
	return nil
}

// said writes a constant's value as the page does: 4 MiB, 10m, 50,000; what is no number as it stands.
func said(expression ast.Expr) string {
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
		return text
	}
	number, _ := constant.Int64Val(value.Value)
	if unit != "" {
		return strconv.FormatInt(number, 10) + unit
	}
	if strings.Contains(text, "<<") {
		for _, size := range []struct {
			bytes int64
			name  string
		}{{1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}} {
			if number%size.bytes == 0 {
				return strconv.FormatInt(number/size.bytes, 10) + " " + size.name
			}
		}
	}
	digits := strconv.FormatInt(number, 10)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}
