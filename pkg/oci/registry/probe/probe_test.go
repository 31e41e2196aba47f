package probe_test

import (
	"errors"
	"testing"

	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/registry"
	"pinnace.dev/pinnace/pkg/oci/registry/probe"
)

func TestEmbedded(t *testing.T) {
	server, err := registry.Start(registry.Options{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	opened, err := oci.Open(server.Addr+"/fleet", oci.Options{PlainHTTP: true})
	if err != nil {
		t.Fatal(err)
	}
	findings, err := probe.Run(t.Context(), opened)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]probe.Answer{"referrers API": probe.No}
	for _, finding := range findings {
		expected := probe.Yes
		if answer, ok := want[finding.Feature]; ok {
			expected = answer
		}
		if finding.Answer != expected || finding.Means == "" {
			t.Errorf("%s: got %s (%s), want %s", finding.Feature, finding.Answer, finding.Detail, expected)
		}
	}
	if len(findings) < 10 {
		t.Errorf("%d findings only", len(findings))
	}
}

func TestNoRegistry(t *testing.T) {
	if _, err := probe.Run(t.Context(), oci.NewMemory()); !errors.Is(err, oci.ErrUnsupported) {
		t.Errorf("got %v, want %v", err, oci.ErrUnsupported)
	}
}
