// Package gates keeps rollouts in the registry: the plans that a publish makes, the gates that let clusters in, and what
// people approved.
//
// A rollout's repository is its whole state. [Read] reads it, [Step] reads, lets the rules of pkg/target/rollout decide
// and writes at most one gate: it may be run by anybody who holds the key, as often as they like, and be killed at any
// time. A gate is pushed and signed before anything points at it, and is then tagged with its sequence; whoever finds
// that tag taken knows that another one was faster ([ErrConcurrent]).
package gates
