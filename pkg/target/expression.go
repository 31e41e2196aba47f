package target

import (
	"errors"
	"fmt"
	"strings"

	"github.com/Masterminds/semver/v3"
	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/ext"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// maxExpressionCost stops expressions that would keep a publish busy: a comparison costs a few units.
const maxExpressionCost = 100_000

// Facts are what an agent reported of its cluster: its own claim. Empty fields are unknown.
type Facts struct {
	Kubernetes    string // version
	Agent         string // version
	Nodes         int
	Architectures []string // of the nodes, sorted
}

// minor returns 36 of v1.36.3, and 0 when the version is unknown.
func (f Facts) minor() int {
	parsed, err := semver.NewVersion(f.Kubernetes)
	if err != nil {
		return 0
	}
	return int(parsed.Minor()) //nolint:gosec // a minor version is small
}

// expression is a CEL expression over a cluster. It may be used concurrently.
type expression struct {
	program  cel.Program
	text     string
	reported bool // it uses facts
}

// newExpression compiles an expression; see [v1alpha1.TargetRule].
func newExpression(text string) (*expression, error) {
	env, err := cel.NewEnv(
		cel.Variable("cluster", cel.MapType(cel.StringType, cel.DynType)),
		cel.Variable("reported", cel.MapType(cel.StringType, cel.DynType)),
		ext.Strings(),
	)
	if err != nil {
		return nil, err
	}
	ast, issues := env.Compile(text)
	if issues.Err() != nil {
		return nil, errors.New(firstLine(issues.Err().Error()))
	}
	if ast.OutputType() != cel.BoolType && ast.OutputType() != cel.DynType {
		return nil, fmt.Errorf("yields %s, want a boolean", ast.OutputType())
	}
	program, err := env.Program(ast, cel.CostLimit(maxExpressionCost), cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return nil, err
	}
	out := &expression{program: program, text: text}
	for _, reference := range ast.NativeRep().ReferenceMap() {
		out.reported = out.reported || reference.Name == "reported"
	}
	return out, nil
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return strings.TrimPrefix(line, "ERROR: <input>:")
}

// match evaluates the expression. What it asks of a cluster that has no such key is false.
func (e *expression) match(seen *view) (bool, string) {
	value, _, err := e.program.Eval(map[string]any{"cluster": seen.data["cluster"], "reported": seen.reported()})
	if err != nil {
		return false, fmt.Sprintf("expression %s: %v", e.text, err)
	}
	if matched, ok := value.Value().(bool); ok && matched {
		return true, ""
	}
	return false, "expression is false: " + e.text
}

// checkReported refuses reported facts where the fleet doesn't allow them.
func (e *expression) checkReported(spec v1alpha1.FleetSpec) error {
	if e.reported && !spec.ReportedFacts {
		return errors.New("expression: uses reported facts, which a cluster says of itself; allow that with reportedFacts: true in the fleet's spec")
	}
	return nil
}
