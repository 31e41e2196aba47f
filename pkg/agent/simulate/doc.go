// Package simulate makes clusters without Kubernetes, for trying things out, for tests and for benchmarks: thousands of
// them fit into one process. Everything but the cluster is real: an [Agent] runs the sync code of pkg/agent against a
// registry, verifies, keeps its state and reports. Only what is applied is applied to memory.
//
// What thousands of agents hold alike they share: a [Pool] keeps each blob once.
package simulate
