package signing

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/cel-go/cel"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci/signing/evidence"
)

// maxExpressionCost stops expressions that loop over a predicate for seconds; a few hundred is usual.
const maxExpressionCost = 1_000_000

// attestation is one that a rule wants.
type attestation struct {
	predicate  string
	expression string
	program    cel.Program // nil: any predicate will do
}

func newAttestation(spec v1alpha1.Attestation) (attestation, error) {
	out := attestation{predicate: spec.Type, expression: spec.Expression}
	switch {
	case spec.Type == "":
		return out, errors.New("type: empty; name a predicate type such as https://slsa.dev/provenance/v1")
	case spec.Type == evidence.PredicateSign:
		return out, fmt.Errorf("type: %s is a signature, which signers ask for already", spec.Type)
	case spec.Expression == "":
		return out, nil
	}
	env, err := cel.NewEnv(cel.Variable("predicate", cel.DynType))
	if err != nil {
		return out, fmt.Errorf("expression: %w", err)
	}
	ast, issues := env.Compile(spec.Expression)
	if err := issues.Err(); err != nil {
		return out, fmt.Errorf("expression: %w", err)
	}
	if kind := ast.OutputType(); !kind.IsExactType(cel.BoolType) && !kind.IsExactType(cel.DynType) {
		return out, fmt.Errorf("expression: it yields %s, not a boolean", kind)
	}
	out.program, err = env.Program(ast, cel.CostLimit(maxExpressionCost))
	return out, err
}

// refuses evaluates the expression over a predicate whose signature was checked; nil when it holds.
func (a attestation) refuses(predicate json.RawMessage) error {
	if a.program == nil {
		return nil
	}
	var value any
	if err := json.Unmarshal(predicate, &value); err != nil {
		return fmt.Errorf("predicate: %w", err)
	}
	result, _, err := a.program.Eval(map[string]any{"predicate": value})
	if err != nil {
		return fmt.Errorf("%s: %w", a.expression, err)
	}
	if holds, ok := result.Value().(bool); !ok || !holds {
		return fmt.Errorf("%s is not true", a.expression)
	}
	return nil
}
