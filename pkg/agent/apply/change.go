package apply

import (
	"errors"
	"fmt"
)

// Action is what happened to an object: a closed set.
type Action string

// Actions.
const (
	Created    Action = "created"
	Configured Action = "configured"
	Unchanged  Action = "unchanged"
	Deleted    Action = "deleted"
	Skipped    Action = "skipped" // left alone, Err says why
	Failed     Action = "failed"
)

// Change is what happened to one object. Err is the reason of Failed, and of Skipped where there is one.
type Change struct {
	Object Ref
	Action Action
	Err    error
}

// Result of an apply or a removal. Inventory lists everything that may exist afterwards, whatever went wrong, so
// that nothing is ever orphaned: keep it.
type Result struct {
	Changes   []Change
	Inventory Inventory
}

// Count returns how many objects had that action.
func (r Result) Count(action Action) int {
	n := 0
	for _, change := range r.Changes {
		if change.Action == action {
			n++
		}
	}
	return n
}

// Error says which object of which bundle failed, and how many more did.
type Error struct {
	Bundle string
	Object Ref // zero when no single object is to blame
	More   int
	Err    error
}

func (e *Error) Error() string {
	text := "bundle " + e.Bundle
	if e.Object != (Ref{}) {
		text += ": " + e.Object.String()
	}
	text += ": " + e.Err.Error()
	if e.More > 0 {
		text += fmt.Sprintf(" (and %d more)", e.More)
	}
	return text
}

func (e *Error) Unwrap() error { return e.Err }

// failure returns the first failed change as an error, nil when none failed.
func failure(bundle string, changes []Change) error {
	var first *Error
	for _, change := range changes {
		switch {
		case change.Action != Failed:
		case first == nil:
			first = &Error{Bundle: bundle, Object: change.Object, Err: change.Err}
		default:
			first.More++
		}
	}
	if first == nil {
		return nil
	}
	return first
}

// Why objects are left alone.
var (
	ErrKept          = errors.New("kept by a prune rule")
	ErrPruneDisabled = errors.New("annotated pinnace.dev/prune=disabled")
	ErrNotOurs       = errors.New("belongs to another bundle or to nobody of ours")
	ErrNotReached    = errors.New("an earlier stage failed")
	ErrInUse         = errors.New("namespace holds what is not the bundle's")
	ErrTerminating   = errors.New("is being deleted")
)
