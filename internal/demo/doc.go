// Package demo is a whole fleet in one process, for pinnace demo: the embedded registry, keys, the example fleet and any
// number of simulated clusters, whose agents run the real sync code. It shows what the parts do together, in the first
// five minutes and without Kubernetes, and is the harness of tests and benchmarks with thousands of agents.
//
// [New] sets everything up, [Demo.Run] runs it until its context ends, and [Demo.Do] does what a newcomer asks for from
// a second terminal ([Listen], [Send]): break a bundle, cut a cluster off, put a forged target into the registry.
package demo
