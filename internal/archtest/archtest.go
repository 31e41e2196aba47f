// Package archtest holds the architecture as a test: which package may import which, and which third-party module may
// be used where. docs/architecture.md explains the tables; a change there is a change here, with its reason.
package archtest
