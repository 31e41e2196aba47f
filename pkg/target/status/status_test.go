package status_test

import (
	"encoding/json"
	"testing"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
	"pinnace.dev/pinnace/pkg/target/status"
)

func newSigner(t *testing.T) *signing.Signer {
	t.Helper()
	private, _, err := signing.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := signing.LoadSigner(private, nil)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func report(t *testing.T, registry oci.Registry, signer *signing.Signer, to string, report v1alpha1.StatusReport) {
	t.Helper()
	report.TypeMeta = v1alpha1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.KindStatusReport}
	payload, err := json.Marshal(report)
	if err != nil {
		t.Fatal(err)
	}
	envelope, err := signer.SignEnvelope(t.Context(), v1alpha1.MediaTypeStatus, payload)
	if err != nil {
		t.Fatal(err)
	}
	repo, err := registry.Repository(v1alpha1.StatusRepository(to))
	if err != nil {
		t.Fatal(err)
	}
	artifact := oci.Artifact{Type: v1alpha1.ArtifactTypeStatus, Layers: []oci.Blob{{MediaType: v1alpha1.MediaTypeDSSE, Data: envelope}}}
	if _, _, err := oci.Push(t.Context(), repo, artifact, v1alpha1.TagCurrent); err != nil {
		t.Fatal(err)
	}
}

func TestRead(t *testing.T) {
	signer, stranger := newSigner(t), newSigner(t)
	ready := v1alpha1.ReportedBundle{Name: "web", State: v1alpha1.StateReady}
	of := func(state v1alpha1.State) v1alpha1.ReportedBundle {
		return v1alpha1.ReportedBundle{Name: "db", State: state, Reason: "Because", Message: "it is so"}
	}
	now := v1alpha1.ReportedTarget{Digest: "sha256:now", Generation: 3}
	before := v1alpha1.ReportedTarget{Digest: "sha256:before", Generation: 2}
	for _, test := range []struct {
		name   string
		signer *signing.Signer // nil: no report
		noKey  bool
		report v1alpha1.StatusReport
		want   status.Verdict
	}{
		{name: "no report", want: status.Unseen},
		{name: "all ready", signer: signer, report: v1alpha1.StatusReport{Target: now, Bundles: []v1alpha1.ReportedBundle{ready}}, want: status.Ready},
		{name: "ready, but of the target before", signer: signer, report: v1alpha1.StatusReport{Target: before, Bundles: []v1alpha1.ReportedBundle{ready}}, want: status.Updating},
		{name: "one failed", signer: signer, report: v1alpha1.StatusReport{Target: now, Bundles: []v1alpha1.ReportedBundle{of(v1alpha1.StateFailed), ready}}, want: status.Failed},
		{name: "one waits", signer: signer, report: v1alpha1.StatusReport{Target: now, Bundles: []v1alpha1.ReportedBundle{of(v1alpha1.StateWaiting), ready}}, want: status.Updating},
		{name: "a state of the future", signer: signer, report: v1alpha1.StatusReport{Target: now, Bundles: []v1alpha1.ReportedBundle{of("Sideways")}}, want: status.Failed},
		{name: "refused the newest target", signer: signer, report: v1alpha1.StatusReport{Target: before, Problem: &v1alpha1.Problem{Reason: "KeyNotTrusted"}, Bundles: []v1alpha1.ReportedBundle{ready}}, want: status.Refused},
		{name: "signed by a stranger", signer: stranger, report: v1alpha1.StatusReport{Target: now, Bundles: []v1alpha1.ReportedBundle{ready}}, want: status.Untrusted},
		{name: "no key in the inventory", signer: signer, noKey: true, report: v1alpha1.StatusReport{Target: now, Bundles: []v1alpha1.ReportedBundle{ready}}, want: status.Untrusted},
		{name: "genuine, but of another cluster", signer: signer, report: v1alpha1.StatusReport{Cluster: "other", Target: now, Bundles: []v1alpha1.ReportedBundle{ready}}, want: status.Untrusted},
	} {
		t.Run(test.name, func(t *testing.T) {
			registry := oci.NewMemory()
			published := v1alpha1.IndexCluster{Name: "ship-7", Digest: "sha256:now", Generation: 3, Bundles: []string{"db", "web"}, StatusKey: string(signer.PublicKey())}
			if test.noKey {
				published.StatusKey = ""
			}
			if test.signer != nil {
				test.report.Fleet = "acme"
				if test.report.Cluster == "" {
					test.report.Cluster = "ship-7"
				}
				report(t, registry, test.signer, "ship-7", test.report)
			}
			got, err := status.Read(t.Context(), registry, v1alpha1.FleetIndex{Fleet: "acme", Clusters: []v1alpha1.IndexCluster{published}})
			if err != nil {
				t.Fatal(err)
			}
			if verdict := got.Clusters[0].Verdict; verdict != test.want {
				t.Errorf("got %s (%s), want %s", verdict, got.Clusters[0].Message, test.want)
			}
			if cluster := got.Clusters[0]; cluster.Verdict == status.Ready && cluster.Message != "" {
				t.Errorf("ready, with the message %q", cluster.Message)
			}
			if got.Ready != (test.want == status.Ready) {
				t.Errorf("the fleet is ready: %v", got.Ready)
			}
			if got.Clusters[0].Verdict == status.Untrusted && len(got.Clusters[0].Bundles) > 0 {
				t.Error("an untrusted report counts for something")
			}
		})
	}
}

func TestSummariseSortsTheWorstFirst(t *testing.T) {
	got := status.Summarise(v1alpha1.FleetIndex{}, []status.Cluster{
		{Name: "b", Verdict: status.Ready}, {Name: "a", Verdict: status.Ready}, {Name: "z", Verdict: status.Failed}, {Name: "y", Verdict: status.Unseen},
	})
	var names string
	for _, cluster := range got.Clusters {
		names += cluster.Name
	}
	if names != "zyab" || got.Verdict != "2 of 4 clusters ready, 1 failed, 1 unseen" {
		t.Errorf("got order %s and verdict %q", names, got.Verdict)
	}
}
