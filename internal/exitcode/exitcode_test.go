package exitcode_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"pinnace.dev/pinnace/internal/exitcode"
	"pinnace.dev/pinnace/pkg/oci"
)

func TestFor(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		err  error
		want int
	}{
		{"nil", nil, exitcode.Done},
		{"unknown", errors.New("x"), exitcode.No},
		{"coded", fmt.Errorf("run: %w", exitcode.With(exitcode.Usage, errors.New("x"))), exitcode.Usage},
		{"coded wins over a sentinel", exitcode.With(exitcode.Partial, oci.ErrDamaged), exitcode.Partial},
		{"not verified", fmt.Errorf("fetch: %w", oci.ErrNotVerified), exitcode.Refused},
		{"too large", fmt.Errorf("fetch: %w", oci.ErrTooLarge), exitcode.Refused},
		{"damaged", oci.ErrDamaged, exitcode.Damaged},
		{"unauthorized", oci.ErrUnauthorized, exitcode.Unauthorized},
		{"not found", oci.ErrNotFound, exitcode.NotFound},
		{"unreachable", oci.ErrUnreachable, exitcode.Unreachable},
		{"unreachable for want of time", errors.Join(oci.ErrUnreachable, context.DeadlineExceeded), exitcode.Unreachable},
		{"timed out", context.DeadlineExceeded, exitcode.TimedOut},
		{"interrupted", context.Canceled, exitcode.Interrupted},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if got := exitcode.For(test.err); got != test.want {
				t.Errorf("For(%v) = %d, want %d", test.err, got, test.want)
			}
		})
	}
}

func TestWithKeepsNil(t *testing.T) {
	t.Parallel()
	if err := exitcode.With(exitcode.Usage, nil); err != nil {
		t.Errorf("With(Usage, nil) = %v, want nil", err)
	}
}

func TestTableIsAscending(t *testing.T) {
	t.Parallel()
	ascending := slices.IsSortedFunc(exitcode.Table, func(a, b exitcode.Code) int { return a.Code - b.Code })
	if !ascending {
		t.Errorf("table is not sorted: %v", exitcode.Table)
	}
}
