package document

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Error is one finding at a place in a file. Line and Column count from 1.
type Error struct {
	File    string
	Line    int
	Column  int
	Message string
}

// Error returns file:line:column: message.
func (e Error) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Message)
}

// Errors are all findings of a file, sorted by place.
type Errors []Error

// Error returns the findings, one a line.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, finding := range e {
		lines[i] = finding.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns the findings.
func (e Errors) Unwrap() []error {
	out := make([]error, len(e))
	for i, finding := range e {
		out[i] = finding
	}
	return out
}

// orNil sorts the findings and returns an error only when there are some.
func (e Errors) orNil() error {
	if len(e) == 0 {
		return nil
	}
	slices.SortStableFunc(e, func(a, b Error) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return e
}
