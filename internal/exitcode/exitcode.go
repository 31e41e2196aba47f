// Package exitcode is the table of exit codes of pinnace and pinnace-agent: [Table] for documentation, [For] for main.
//
// An error gets its code from the first of: an [Error] in its chain, a sentinel of pkg/oci, the context's errors. An
// error that nothing classifies is [No].
package exitcode

import (
	"context"
	"errors"

	"pinnace.dev/pinnace/pkg/oci"
)

// The codes. Diff-like verbs keep kubectl's contract: No means differences only.
const (
	Done         = 0
	No           = 1
	Usage        = 2
	Partial      = 3
	Unauthorized = 4
	NotFound     = 5
	Refused      = 6
	Damaged      = 7
	TimedOut     = 8
	Unreachable  = 9
	Interrupted  = 130
)

// Code is one line of the table.
type Code struct {
	Code    int
	Name    string
	Meaning string
}

// Table lists every code, ascending.
var Table = []Code{
	{Done, "done", "done, verified, no difference"},
	{No, "no", "ran and the answer is no (differences, work to do, findings, not ready), or not classified"},
	{Usage, "usage", "wrong usage or configuration"},
	{Partial, "partial", "some of several failed"},
	{Unauthorized, "unauthorized", "authentication or authorisation failed"},
	{NotFound, "not-found", "what was asked for is not there"},
	{Refused, "refused", "signature or policy refused"},
	{Damaged, "damaged", "content is damaged"},
	{TimedOut, "timed-out", "timed out"},
	{Unreachable, "unreachable", "unreachable after retries"},
	{Interrupted, "interrupted", "interrupted"},
}

// Error gives an error its code.
type Error struct {
	Code int
	Err  error
}

func (e *Error) Error() string { return e.Err.Error() }

func (e *Error) Unwrap() error { return e.Err }

// With gives err the code; nil stays nil.
func With(code int, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Code: code, Err: err}
}

// For returns the code of an error; Done for nil.
func For(err error) int {
	if err == nil {
		return Done
	}
	if coded := (*Error)(nil); errors.As(err, &coded) {
		return coded.Code
	}
	for _, class := range classes {
		if errors.Is(err, class.err) {
			return class.code
		}
	}
	return No
}

// classes are in order: an error that matches two gets the first.
var classes = []struct {
	err  error
	code int
}{
	{context.Canceled, Interrupted},
	{oci.ErrNotVerified, Refused},
	{oci.ErrTooLarge, Refused},
	{oci.ErrDamaged, Damaged},
	{oci.ErrUnauthorized, Unauthorized},
	{oci.ErrNotFound, NotFound},
	{oci.ErrUnreachable, Unreachable},
	{context.DeadlineExceeded, TimedOut},
}
