package conform

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The list of optional fields is what the comments of Kubernetes' types say.
func TestOptionalFields(t *testing.T) {
	reached := map[string]map[string]bool{} // names of types by package
	seen := map[reflect.Type]bool{}
	var reach func(typ reflect.Type)
	reach = func(typ reflect.Type) {
		for slices.Contains([]reflect.Kind{reflect.Pointer, reflect.Slice, reflect.Map}, typ.Kind()) {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct || seen[typ] {
			return
		}
		seen[typ] = true
		if reached[typ.PkgPath()] == nil {
			reached[typ.PkgPath()] = map[string]bool{}
		}
		reached[typ.PkgPath()][typ.Name()] = true
		for i := range typ.NumField() {
			reach(typ.Field(i).Type)
		}
	}
	for _, typ := range own().AllKnownTypes() {
		reach(typ)
	}
	maps.DeleteFunc(reached, func(pkg string, _ map[string]bool) bool { return !strings.HasPrefix(pkg, "k8s.io/api") })
	out, err := exec.Command("go", append([]string{"list", "-f", "{{.ImportPath}} {{.Dir}}"}, slices.Sorted(maps.Keys(reached))...)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		pkg, dir, _ := strings.Cut(strings.TrimSpace(line), " ")
		maps.Copy(want, markedOptional(t, dir, reached[pkg]))
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(want)), optional); diff != "" {
		t.Errorf("(-comments +list):\n%s", diff)
	}
}

// markedOptional returns fields that are written when empty, and whose comment says +optional.
func markedOptional(t *testing.T, dir string, types map[string]bool) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*types*.go"))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, name := range files {
		of, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(of, func(node ast.Node) bool {
			spec, is := node.(*ast.TypeSpec)
			if !is || !types[spec.Name.Name] {
				return true
			}
			structure, is := spec.Type.(*ast.StructType)
			if !is {
				return true
			}
			for _, field := range structure.Fields.List {
				if field.Tag == nil || field.Doc == nil || !strings.Contains(strings.ReplaceAll(comments(field.Doc), "+k8s:optional", "+optional"), "+optional") {
					continue
				}
				name, options, _ := strings.Cut(reflect.StructTag(strings.Trim(field.Tag.Value, "`")).Get("json"), ",")
				if name != "" && name != "-" && !strings.Contains(options, "omitempty") && !strings.Contains(options, "omitzero") {
					found[spec.Name.Name+"."+name] = true
				}
			}
			return true
		})
	}
	return found
}

// comments are the lines as they stand: Text leaves out what looks like a directive.
func comments(group *ast.CommentGroup) string {
	var all strings.Builder
	for _, line := range group.List {
		all.WriteString(line.Text + "\n")
	}
	return all.String()
}
