package agent

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
)

// A report stays small, whatever the bundles, and keeps what is worst.
func TestReportIsBounded(t *testing.T) {
	bundle := func(i int, state v1alpha1.State, text int) v1alpha1.ReportedBundle {
		out := v1alpha1.ReportedBundle{Name: fmt.Sprintf("bundle-%05d", i), State: state, Message: strings.Repeat("ü", text)}
		for range v1alpha1.MaxProblems {
			out.Problems = append(out.Problems, v1alpha1.Problem{Object: "apps/v1 Deployment x/y", Reason: "NotReady", Message: out.Message})
		}
		return out
	}
	for _, test := range []struct {
		name         string
		bundles      int
		state        v1alpha1.State
		text         int
		wantAll      bool
		wantNotShort bool
	}{
		{"few", 5, v1alpha1.StateReady, 10, true, true},
		{"long texts", 20, v1alpha1.StateReady, 20_000, true, false},
		{"many that are ready", 10_000, v1alpha1.StateReady, 100, false, false},
		{"many that failed", 2_000, v1alpha1.StateUpdating, 500, false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			report := v1alpha1.StatusReport{Bundles: []v1alpha1.ReportedBundle{}}
			for i := range test.bundles {
				report.Bundles = append(report.Bundles, bundle(i, test.state, test.text))
			}
			report.Bundles = append(report.Bundles, bundle(99_999, v1alpha1.StateFailed, test.text))
			data, err := encodeReport(report)
			if err != nil {
				t.Fatal(err)
			}
			if len(data) > v1alpha1.MaxReportSize {
				t.Errorf("%d bytes", len(data))
			}
			var got v1alpha1.StatusReport
			if err := json.Unmarshal(data, &got); err != nil {
				t.Fatal(err)
			}
			failed := false
			for _, one := range got.Bundles {
				failed = failed || one.State == v1alpha1.StateFailed
			}
			if !failed {
				t.Error("the bundle that failed is not told")
			}
			if all := len(got.Bundles) == test.bundles+1; all != test.wantAll || got.Shortened == test.wantNotShort {
				t.Errorf("%d bundles are told, shortened: %v", len(got.Bundles), got.Shortened)
			}
			if len(report.Bundles[0].Problems) != v1alpha1.MaxProblems {
				t.Error("the agent's own report was changed")
			}
		})
	}
}

// The report before is removed, also after a restart.
func TestReportsReplaceEachOther(t *testing.T) {
	repo, err := oci.NewMemory().Repository(v1alpha1.StatusRepository("ship-7"))
	if err != nil {
		t.Fatal(err)
	}
	push := func(s *sender, text string) string {
		t.Helper()
		artifact := oci.Artifact{Type: v1alpha1.ArtifactTypeStatus, Layers: []oci.Blob{{MediaType: v1alpha1.MediaTypeDSSE, Data: []byte(text)}}}
		if err := s.push(t.Context(), repo, artifact); err != nil {
			t.Fatal(err)
		}
		return artifact.Descriptor().Digest.String()
	}
	var first sender
	digests := []string{push(&first, "1"), push(&first, "2")}
	var restarted sender
	digests = append(digests, push(&restarted, "3"), push(&restarted, "3"))
	for i, digest := range digests {
		_, err := repo.Resolve(t.Context(), digest)
		if there := err == nil; there != (i >= 2) {
			t.Errorf("report %d is there: %v", i+1, there)
		}
	}
}

// Where no registry takes reports, the newest is on the disk, for somebody to carry it.
func TestReportStaysOnTheDisk(t *testing.T) {
	dir := t.TempDir()
	state, err := OpenState(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = state.Close() }()
	var digests []string
	for i := range 3 {
		artifact := oci.Artifact{Type: v1alpha1.ArtifactTypeStatus, Layers: []oci.Blob{{MediaType: v1alpha1.MediaTypeDSSE, Data: fmt.Append(nil, i)}}}
		if err := state.keepReport(t.Context(), "ship-7", artifact); err != nil {
			t.Fatal(err)
		}
		digests = append(digests, artifact.Descriptor().Digest.String())
	}
	layout, err := oci.OpenLayout(dir + "/" + statusDir)
	if err != nil {
		t.Fatal(err)
	}
	repo, err := layout.Repository(v1alpha1.StatusRepository("ship-7"))
	if err != nil {
		t.Fatal(err)
	}
	desc, err := repo.Resolve(t.Context(), v1alpha1.TagCurrent)
	if err != nil || desc.Digest.String() != digests[2] {
		t.Errorf("current is %s, %v; want %s", desc.Digest, err, digests[2])
	}
	if _, err := repo.Resolve(t.Context(), digests[0]); err == nil {
		t.Error("the first report is still there")
	}
}
