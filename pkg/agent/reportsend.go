package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
)

// statusDir keeps the report, as an OCI layout, where no registry takes it.
const statusDir = "status"

// Facts are what a report says of the cluster itself.
type Facts struct {
	Nodes         int
	Architectures []string // sorted
}

// sender pushes reports. One goroutine at a time uses it.
type sender struct {
	// last is what was pushed before, by registry: it is removed where that is allowed.
	last map[string]ocispec.Descriptor
	keep map[string]bool // registries that don't allow it
}

// send signs a report and pushes it to the first registry that answers. One that takes no reports leaves it on the disk,
// for somebody to carry it.
func (a *Agent) send(ctx context.Context, report v1alpha1.StatusReport) error {
	payload, err := encodeReport(report)
	if err != nil {
		return err
	}
	envelope, err := a.cfg.Signer.SignEnvelope(ctx, v1alpha1.MediaTypeStatus, payload)
	if err != nil {
		return fmt.Errorf("sign status report: %w", err)
	}
	artifact := oci.Artifact{
		Type:   v1alpha1.ArtifactTypeStatus,
		Layers: []oci.Blob{{MediaType: v1alpha1.MediaTypeDSSE, Data: envelope}},
	}
	var problems error
	for _, registry := range a.cfg.Registries {
		repo, err := registry.Repository(v1alpha1.StatusRepository(a.cfg.Cluster))
		if err != nil {
			return problem(StageReport, "status", err)
		}
		attempt, cancel := context.WithTimeout(ctx, registryPatience)
		err = a.sender.push(attempt, repo, artifact)
		cancel()
		if err == nil {
			a.cfg.State.dropReport()
			return nil
		}
		problems = errors.Join(problems, problem(StageReport, "status "+repo.String(), err))
		if !errors.Is(err, oci.ErrUnreachable) && !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			break
		}
	}
	if err := a.cfg.State.keepReport(ctx, a.cfg.Cluster, artifact); err != nil {
		problems = errors.Join(problems, err)
	}
	return problems
}

// push stores a report and removes the one before: nobody asks for it any more.
func (s *sender) push(ctx context.Context, repo oci.Repository, artifact oci.Artifact) error {
	if s.last == nil {
		s.last, s.keep = map[string]ocispec.Descriptor{}, map[string]bool{}
	}
	before, known := s.last[repo.String()]
	if !known {
		// After a restart the registry knows.
		if desc, err := repo.Resolve(ctx, v1alpha1.TagCurrent); err == nil {
			before = desc
		}
	}
	desc, _, err := oci.Push(ctx, repo, artifact, v1alpha1.TagCurrent)
	if err != nil {
		return err
	}
	s.last[repo.String()] = desc
	if before.Digest == "" || before.Digest == desc.Digest || s.keep[repo.String()] {
		return nil
	}
	if err := repo.Delete(ctx, before); err != nil && !errors.Is(err, oci.ErrNotFound) {
		s.keep[repo.String()] = true // it is asked once; what stays is the registry's to collect
	}
	return nil
}

// keepReport writes a report that no registry takes into the state folder, in place of the one before.
func (s *State) keepReport(ctx context.Context, cluster string, artifact oci.Artifact) error {
	if s.memory != nil {
		return nil
	}
	layout, err := oci.OpenLayout(filepath.Join(s.dir, statusDir))
	if err != nil {
		return err
	}
	repo, err := layout.Repository(v1alpha1.StatusRepository(cluster))
	if err != nil {
		return err
	}
	before, beforeErr := repo.Resolve(ctx, v1alpha1.TagCurrent)
	desc, _, err := oci.Push(ctx, repo, artifact, v1alpha1.TagCurrent)
	if err != nil || beforeErr != nil || before.Digest == desc.Digest {
		return err
	}
	// A layout removes no blobs by itself, and reports come for years.
	if manifest, _, err := oci.ReadManifest(ctx, repo, before); err == nil {
		for _, layer := range manifest.Layers {
			s.dropBlob(statusDir, layer.Digest)
		}
	}
	return repo.Delete(ctx, before)
}

// dropReport removes a report that was kept, once a registry took a newer one: nobody shall carry it any more.
func (s *State) dropReport() {
	if s.memory == nil {
		_ = os.RemoveAll(filepath.Join(s.dir, statusDir)) // who reads it sees when it was made
	}
}

// reportText bounds each text of a report that is too large.
const reportText = 200

// encodeReport keeps a report below [v1alpha1.MaxReportSize], whatever its bundles: texts are cut first, then bundles
// that are ready are left out, then problems, then the least bad bundles.
func encodeReport(report v1alpha1.StatusReport) ([]byte, error) {
	shorten := []func(*v1alpha1.StatusReport){
		func(*v1alpha1.StatusReport) {},
		cutTexts,
		func(r *v1alpha1.StatusReport) {
			r.Bundles = slices.DeleteFunc(r.Bundles, func(b v1alpha1.ReportedBundle) bool { return b.State == v1alpha1.StateReady })
		},
		func(r *v1alpha1.StatusReport) {
			for i := range r.Bundles {
				r.Bundles[i].Problems = nil
			}
			r.Drift = nil
		},
		func(r *v1alpha1.StatusReport) {
			slices.SortStableFunc(r.Bundles, func(x, y v1alpha1.ReportedBundle) int {
				return slices.Index(worstFirst, x.State) - slices.Index(worstFirst, y.State)
			})
			const fits = v1alpha1.MaxReportSize / 1024
			r.Bundles = r.Bundles[:min(len(r.Bundles), fits)]
		},
	}
	report.Bundles, report.Drift = slices.Clone(report.Bundles), slices.Clone(report.Drift)
	for i, step := range shorten {
		step(&report)
		report.Shortened = i > 0
		payload, err := json.Marshal(report)
		if err != nil {
			return nil, fmt.Errorf("encode status report: %w", err)
		}
		if len(payload) <= v1alpha1.MaxReportSize {
			return payload, nil
		}
	}
	return nil, fmt.Errorf("the status report is larger than %d bytes", v1alpha1.MaxReportSize)
}

// worstFirst is the order in which bundles are worth telling.
var worstFirst = []v1alpha1.State{
	v1alpha1.StateRefused, v1alpha1.StateFailed, v1alpha1.StateContested, v1alpha1.StateDrifted,
	v1alpha1.StateWaiting, v1alpha1.StateUpdating, v1alpha1.StateReady,
}

func cutTexts(report *v1alpha1.StatusReport) {
	for i := range report.Bundles {
		bundle := &report.Bundles[i]
		bundle.Message = cutText(bundle.Message)
		bundle.Problems = slices.Clone(bundle.Problems)
		for j := range bundle.Problems {
			bundle.Problems[j].Message = cutText(bundle.Problems[j].Message)
			bundle.Problems[j].Object = cutText(bundle.Problems[j].Object)
		}
	}
	for i := range report.Drift {
		report.Drift[i].Message = cutText(report.Drift[i].Message)
	}
	for i := range report.Rollouts {
		report.Rollouts[i].Message = cutText(report.Rollouts[i].Message)
	}
}

func cutText(text string) string {
	runes := []rune(text)
	if len(runes) <= reportText {
		return text
	}
	return string(runes[:reportText-1]) + "…"
}
