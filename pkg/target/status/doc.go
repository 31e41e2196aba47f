// Package status reads and summarises what agents say of their clusters.
//
// A report counts only when the cluster's key from the inventory signed it and when it speaks of the target that the
// cluster has now: everything else is shown as what it is, never as ready.
package status
