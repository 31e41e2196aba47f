package agent

import (
	"context"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/agent/drift"
)

// goodFile remembers the newest target of which every bundle was ready.
const goodFile = "lastgood.json"

// driftReportDebounce gathers drift events: what is repaired needs no hurry.
const driftReportDebounce = time.Minute

// maxNodes stops counting where a cluster has, or pretends to have, so many nodes that listing them fills the memory.
const maxNodes = 5000

// nodeFacts counts the cluster's nodes and their architectures, by their labels alone. An agent that may not list nodes
// reports none.
func nodeFacts(ctx context.Context, reader client.Reader) Facts {
	nodes := &metav1.PartialObjectMetadataList{}
	nodes.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("NodeList"))
	if err := reader.List(ctx, nodes, client.Limit(maxNodes)); err != nil {
		return Facts{}
	}
	facts := Facts{Nodes: len(nodes.Items)}
	for i := range nodes.Items {
		if arch := nodes.Items[i].Labels[corev1.LabelArchStable]; arch != "" && !slices.Contains(facts.Architectures, arch) {
			facts.Architectures = append(facts.Architectures, arch)
		}
	}
	slices.Sort(facts.Architectures)
	return facts
}

// noteGood remembers the target in force once every bundle of it is ready, with every change that is taken.
func (a *Agent) noteGood() {
	if a.target == nil || a.lastGood != nil && a.lastGood.Digest == a.manifest.Digest.String() {
		return
	}
	for _, one := range a.units {
		if one.offered == nil || !one.satisfied() {
			return
		}
	}
	good := v1alpha1.ReportedTarget{Digest: a.manifest.Digest.String(), Generation: a.target.Generation}
	a.lastGood = &good
	if err := a.cfg.State.writeJSON(filepath.Join(a.cfg.State.dir, goodFile), good); err != nil {
		a.log.Warn("the last good target is not written down", "stage", StageState, "error", err)
	}
}

// openGood reads the newest good target.
func (a *Agent) openGood() error {
	var good v1alpha1.ReportedTarget
	err := a.cfg.State.read(filepath.Join(a.cfg.State.dir, goodFile), &good, "remove the file: it is only reported")
	if a.lastGood = nil; good.Digest != "" {
		a.lastGood = &good
	}
	return err
}

// noteDrift keeps what was found or repaired, for the next reports.
func (a *Agent) noteDrift(bundle string, result repairResult, now time.Time) {
	if !result.verdict.Drifted() && result.err == nil {
		return
	}
	event := v1alpha1.DriftEvent{At: second(now), Bundle: bundle, Object: result.ref.String(), Message: result.verdict.String()}
	switch {
	case result.err != nil:
		event.Action, event.Message = "failed", oneLine(result.err).Error()
	case result.act == drift.Repair:
		event.Action = "repaired"
	case result.act == drift.Concede:
		event.Action = "contested"
	default:
		event.Action = "reported"
	}
	if same := func(e v1alpha1.DriftEvent) bool {
		return e.Object == event.Object && e.Action == event.Action && e.Message == event.Message
	}; event.Action != "repaired" && slices.ContainsFunc(a.driftNotes, same) {
		return // it is known, and goes on
	}
	a.driftNotes = append(slices.Clone(a.driftNotes), event)
	a.driftNotes = a.driftNotes[max(0, len(a.driftNotes)-v1alpha1.MaxDriftEvents):]
	a.report.touch(now.Add(driftReportDebounce))
}

// dropBlob removes a blob of a layout in the state folder.
func (s *State) dropBlob(layout string, d digest.Digest) {
	s.dropFile(filepath.Join(s.dir, layout, "blobs", d.Algorithm().String(), d.Encoded()))
}
