package hostile_test

import (
	"testing"

	"pinnace.dev/pinnace/e2e/hostile"
)

// wanted is how many attacks the table must have at least.
const wanted = 60

func TestAttacks(t *testing.T) {
	t.Parallel()
	attacks := hostile.Attacks()
	if len(attacks) < wanted {
		t.Errorf("%d attacks, want at least %d", len(attacks), wanted)
	}
	names := map[string]bool{}
	for _, attack := range attacks {
		if names[attack.Name] {
			t.Errorf("attack %q is there twice", attack.Name)
		}
		names[attack.Name] = true
		t.Run(attack.Name, func(t *testing.T) {
			t.Parallel()
			out, err := attack.Run(t.Context())
			if err != nil {
				t.Error(err)
			}
			t.Logf("%s: %s", out.Reason, out.Message)
		})
	}
}
