// Package e2e holds the end-to-end tests: our programs as processes, a real registry, real Git over HTTP, real API
// servers. hack/demo tells the main story; the tests here hold every promise of it, and what happens when things go wrong.
package e2e
