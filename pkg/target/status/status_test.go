package status_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
	"pinnace.dev/pinnace/pkg/target/status"
)

func newSigner(t *testing.T) *signing.Signer {
	t.Helper()
	signer, err := signing.NewMemorySigner()
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func report(t *testing.T, registry oci.Registry, signer *signing.Signer, to string, report v1alpha1.StatusReport) {
	t.Helper()
	if report.ReportedAt.IsZero() {
		report.ReportedAt = metav1.Now()
	}
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
		{name: "not heard from for a day", signer: signer, report: v1alpha1.StatusReport{ReportedAt: metav1.NewTime(time.Now().Add(-24 * time.Hour)), Target: now, Bundles: []v1alpha1.ReportedBundle{ready}}, want: status.Unseen},
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

// counting counts what is asked of a registry.
type counting struct {
	oci.Registry
	requests map[string]int
}

func (c *counting) Repository(name string) (oci.Repository, error) {
	repo, err := c.Registry.Repository(name)
	return &countingRepository{repo, c}, err
}

type countingRepository struct {
	oci.Repository
	to *counting
}

func (r *countingRepository) Resolve(ctx context.Context, reference string) (ocispec.Descriptor, error) {
	r.to.requests["HEAD"]++
	return r.Repository.Resolve(ctx, reference)
}

func (r *countingRepository) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	r.to.requests["GET"]++
	return r.Repository.Fetch(ctx, desc)
}

// A second look reads what changed, and nothing else; another key, or a damaged cache, makes it read again.
func TestReaderCache(t *testing.T) {
	signer, other := newSigner(t), newSigner(t)
	memory := oci.NewMemory()
	index := v1alpha1.FleetIndex{Fleet: "acme"}
	const clusters = 20
	for i := range clusters {
		name := fmt.Sprintf("ship-%d", i)
		index.Clusters = append(index.Clusters, v1alpha1.IndexCluster{Name: name, StatusKey: string(signer.PublicKey())})
		report(t, memory, signer, name, v1alpha1.StatusReport{Fleet: "acme", Cluster: name, Agent: "one"})
	}
	path := filepath.Join(t.TempDir(), "cache", "status")
	read := func() ([]status.Report, map[string]int) {
		t.Helper()
		registry := &counting{Registry: memory, requests: map[string]int{}}
		cache := status.OpenCache(path)
		reader := status.Reader{Registry: registry, Cache: cache, Parallel: 1}
		reports, err := reader.Read(t.Context(), index)
		if err := errors.Join(err, cache.Save()); err != nil {
			t.Fatal(err)
		}
		return reports, registry.requests
	}
	if _, requests := read(); requests["HEAD"] != clusters || requests["GET"] != 2*clusters {
		t.Errorf("cold: %v", requests)
	}
	report(t, memory, signer, "ship-3", v1alpha1.StatusReport{Fleet: "acme", Cluster: "ship-3", Agent: "two"})
	reports, requests := read()
	if requests["HEAD"] != clusters || requests["GET"] != 2 {
		t.Errorf("warm, one changed: %v", requests)
	}
	if reports[3].Status.Agent != "two" || reports[4].Status.Agent != "one" {
		t.Errorf("got agents %s and %s", reports[3].Status.Agent, reports[4].Status.Agent)
	}
	index.Clusters[5].StatusKey = string(other.PublicKey())
	if reports, _ := read(); reports[5].Untrusted == "" {
		t.Error("the inventory's key changed, and the cached report is still trusted")
	}
	if err := os.WriteFile(path, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, requests := read(); requests["GET"] < 2*(clusters-1) {
		t.Errorf("with a damaged cache: %v", requests)
	}
}

// The same reason on many clusters is one line, whatever differs in the words.
func TestProblems(t *testing.T) {
	var clusters []status.Cluster
	for i := range 212 {
		name := fmt.Sprintf("ship-%03d", i)
		clusters = append(clusters, status.Cluster{
			Name: name, Verdict: status.Failed, Bundle: "web", Reason: "ImagePullBackOff",
			Message: fmt.Sprintf("web: pod web-%dx4-7f on %s cannot pull registry.example/web@sha256:%064d", i, name, i),
		})
	}
	clusters = append(clusters,
		status.Cluster{Name: "a", Verdict: status.Failed, Bundle: "db", Reason: "TimedOut", Message: "db: not ready"},
		status.Cluster{Name: "b", Verdict: status.Ready}, status.Cluster{Name: "c", Verdict: status.Updating},
	)
	got := status.Summarise(v1alpha1.FleetIndex{}, clusters).Problems
	if len(got) != 2 {
		t.Fatalf("got %d problems: %+v", len(got), got)
	}
	if got[0].Clusters != 212 || got[0].Reason != "ImagePullBackOff" || strings.Join(got[0].Examples, " ") != "ship-000 ship-001 ship-002 ship-003 ship-004" {
		t.Errorf("got %+v", got[0])
	}
}

func TestFilter(t *testing.T) {
	index := v1alpha1.FleetIndex{Clusters: []v1alpha1.IndexCluster{
		{Name: "a", Labels: map[string]string{"ring": "canary"}, Bundles: []string{"web"}}, {Name: "b", Bundles: []string{"db", "web"}},
	}}
	selector, err := labels.Parse("ring=canary")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		filter status.Filter
		want   string
	}{
		{status.Filter{}, "ab"},
		{status.Filter{Cluster: "b"}, "b"},
		{status.Filter{Bundle: "db"}, "b"},
		{status.Filter{Selector: selector}, "a"},
		{status.Filter{Bundle: "db", Selector: selector}, ""},
	} {
		got := ""
		for _, cluster := range test.filter.Select(index).Clusters {
			got += cluster.Name
		}
		if got != test.want {
			t.Errorf("%+v selects %q, want %q", test.filter, got, test.want)
		}
	}
	judged := []status.Cluster{{Name: "a", Verdict: status.Ready}, {Name: "b", Verdict: status.Failed}}
	if got := (status.Filter{States: []status.Verdict{status.Failed}}).Judged(judged); len(got) != 1 || got[0].Name != "b" {
		t.Errorf("got %+v", got)
	}
}
