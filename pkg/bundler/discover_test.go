package bundler

import (
	"bytes"
	"testing"
	"testing/fstest"

	"pinnace.dev/pinnace/api/document"
)

// A checkout may have files of gigabytes: what finds bundles reads no more of one than what says that it is too large.
func TestDiscoveryReadsBounded(t *testing.T) {
	d := discovery{fsys: fstest.MapFS{"pinnace.yaml": {Data: bytes.Repeat([]byte("#"), 2*document.MaxBytes)}}}
	data, err := d.file("pinnace.yaml")
	if err != nil || len(data) != document.MaxBytes+1 {
		t.Fatalf("read %d bytes, %v", len(data), err)
	}
	if _, err := document.Read("pinnace.yaml", data); err == nil {
		t.Error("what was cut off passes as whole")
	}
}
