package ports

import (
	"net"
	"testing"
)

func TestPortsAreNotGivenTwice(t *testing.T) {
	var a, b Set
	defer func() { _, _ = a.Release(), b.Release() }()
	seen := map[int]bool{}
	for range 20 {
		for _, set := range []*Set{&a, &b} {
			port, err := set.Reserve()
			if err != nil {
				t.Fatal(err)
			}
			if seen[port] {
				t.Errorf("port %d was given twice", port)
			}
			seen[port] = true
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if free(l.Addr().(*net.TCPAddr).Port) {
		t.Error("a port that somebody listens on counts as free")
	}
}
