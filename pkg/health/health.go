// Package health compiles and evaluates the CEL rules that say when a custom resource is ready: a publish compiles
// them to find what is wrong in them, an agent to judge objects by them.
package health

import (
	"fmt"
	"sync"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/ext"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// maxCost stops rules that compute without end and hold the agent up.
const maxCost = 1_000_000

// Rules are compiled rules, kept by their text. They are safe for concurrent use.
type Rules struct {
	mu       sync.Mutex
	env      *cel.Env
	programs map[string]cel.Program
}

// NewRules returns rules of which none is compiled.
func NewRules() *Rules { return &Rules{programs: map[string]cel.Program{}} }

// Compile prepares the rules of checks. The error names the check that is wrong.
func (r *Rules) Compile(checks []v1alpha1.HealthCheck) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, check := range checks {
		if r.programs[check.Ready] != nil {
			continue
		}
		program, err := r.compile(check.Ready)
		if err != nil {
			return fmt.Errorf("health.checks for %s %s: %w", check.APIVersion, check.Kind, err)
		}
		r.programs[check.Ready] = program
	}
	return nil
}

func (r *Rules) compile(rule string) (cel.Program, error) {
	if r.env == nil {
		env, err := cel.NewEnv(cel.Variable("self", cel.DynType), ext.Strings(), cel.OptionalTypes())
		if err != nil {
			return nil, fmt.Errorf("set up CEL: %w", err)
		}
		r.env = env
	}
	ast, issues := r.env.Compile(rule)
	if issues.Err() != nil {
		return nil, issues.Err()
	}
	if out := ast.OutputType(); !out.IsAssignableType(types.BoolType) && !types.DynType.IsExactType(out) {
		return nil, fmt.Errorf("%q gives %s, not bool", rule, out)
	}
	return r.env.Program(ast, cel.CostLimit(maxCost))
}

// Ready evaluates a compiled rule on an object. An error is most often a status field that isn't there yet.
func (r *Rules) Ready(rule string, object map[string]any) (bool, error) {
	r.mu.Lock()
	program := r.programs[rule]
	r.mu.Unlock()
	if program == nil {
		return false, fmt.Errorf("the rule %q is not compiled", rule)
	}
	out, _, err := program.Eval(map[string]any{"self": object})
	if err != nil {
		return false, err
	}
	return out.Value() == true, nil
}
