package sealed

import (
	"fmt"
	"strconv"
	"time"

	"go.yaml.in/yaml/v3"
)

// sopsBytes returns what the MAC of SOPS sums up of a plain value.
//
// See https://github.com/getsops/sops/blob/v3.13.3/sops.go#L972
func sopsBytes(node *yaml.Node) ([]byte, error) {
	var value any
	if err := node.Decode(&value); err != nil {
		return nil, fmt.Errorf("%w: it is not of its type", ErrDamaged)
	}
	switch value := value.(type) {
	case string:
		return []byte(value), nil
	case int:
		return []byte(strconv.Itoa(value)), nil
	case float64:
		return []byte(strconv.FormatFloat(value, 'f', -1, 64)), nil
	case bool:
		if value {
			return []byte("True"), nil
		}
		return []byte("False"), nil
	case time.Time:
		return value.MarshalText()
	}
	return nil, fmt.Errorf("%w: a value is of a type that SOPS doesn't know", ErrDamaged)
}
