package oci

import (
	"fmt"

	kjson "sigs.k8s.io/json"
)

// CheckJSON refuses documents that parsers of others would take in their own ways: nested too deeply, with a key that is
// there twice, or with something after them.
func CheckJSON(data []byte) error {
	if depth(data) > maxJSONDepth {
		return fmt.Errorf("%w: nested more than %d deep", ErrDamaged, maxJSONDepth)
	}
	var value any
	strict, err := kjson.UnmarshalStrict(data, &value)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if len(strict) > 0 {
		return fmt.Errorf("%w: %w", ErrDamaged, strict[0])
	}
	return nil
}
