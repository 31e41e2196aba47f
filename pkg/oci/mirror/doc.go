// Package mirror copies what clusters need from one registry to another, directly or over a medium.
//
// What is copied is a [Closure]: [Find] computes it from signed targets, with a reason for every entry. [Look] asks the
// receiver what it has, [Compare] decides what is to be done, and [Copier.Run] does it: every blob once, whatever the
// number of repositories, and the tags that readers poll last. Package transfer moves the bytes, package medium keeps
// closures on removable media.
//
// Vocabulary: the sender is where a closure is read, the receiver where it is written. A have is what a receiver holds;
// a receipt is the have that an import leaves. An entry is one manifest of a closure.
package mirror
