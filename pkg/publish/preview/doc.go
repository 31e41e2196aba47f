// Package preview says what a publish would change on clusters, for people who decide whether they want it.
//
// [Pairs] matches the bundles of a cluster's targets before and after; [Groups] puts clusters together for which the
// change is the same. [Options] compares what travels in the target, [Objects] unpacks what a cluster gets of a bundle,
// and [Compare] says what becomes of each object. Secrets never appear: a [Mask] replaces them by stars, as kubectl diff
// does.
package preview
