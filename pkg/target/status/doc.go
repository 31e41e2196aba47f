// Package status reads, judges and sums up what agents say of their clusters.
//
// A report counts only when the cluster's key from the inventory signed it, when it is fresh, and when it speaks of the
// target that the cluster has now: everything else is shown as what it is, never as ready. [Reader] brings the reports,
// [Judge] gives each cluster its verdict, [Summarise] counts and finds what many clusters have in common.
package status
