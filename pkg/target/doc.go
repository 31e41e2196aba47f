// Package target decides which cluster gets which bundle, and how. It is pure: no I/O, no clock.
//
// [New] checks a [Fleet]: clusters, groups and bundles as people wrote them. [Plan] matches clusters to bundles and
// merges overrides; each [Assignment] says why. [Assemble] makes a cluster's target out of its assignments and the
// artifacts that were built for them, and [Decide] says whether and with which generation it is published.
package target
