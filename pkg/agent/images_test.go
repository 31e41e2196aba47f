package agent_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pinnace.dev/pinnace/pkg/agent"
	"pinnace.dev/pinnace/pkg/oci"
)

// images trusts all images but those that hold a word.
type images struct {
	mu    sync.Mutex
	evil  string
	down  bool
	asked []string
}

func (i *images) ImageRules() bool { return true }

func (i *images) VerifyImage(_ context.Context, reference string) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.asked = append(i.asked, reference)
	switch {
	case i.down:
		return fmt.Errorf("dial: %w", oci.ErrUnreachable)
	case strings.Contains(reference, i.evil):
		return &agent.Error{Stage: agent.StageVerify, Reason: agent.ReasonKeyNotTrusted, Err: fmt.Errorf("%s: a stranger signed it", reference)}
	}
	return nil
}

const pods = `apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  template:
    spec:
      initContainers: [{name: init, image: ghcr.io/acme/init}]
      containers: [{name: web, image: "ghcr.io/acme/${APP}"}]
      volumes: [{name: models, image: {reference: ghcr.io/acme/models}}]
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly}
spec: {jobTemplate: {spec: {template: {spec: {containers: [{name: a, image: ghcr.io/acme/init}]}}}}}
`

// Images are verified as they will run, before anything of their bundle is applied; what was applied is enforced again
// without asking.
func TestImagesAreVerifiedBeforeTheyRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	good := w.bundleOf("web", releaseKey().signer, map[string][]byte{"manifests/all.yaml": []byte(pods)})
	good.Variables = map[string]string{"APP": "shop"}
	bad := w.bundleOf("evil", releaseKey().signer, map[string][]byte{"manifests/all.yaml": []byte(pods)})
	bad.Variables = map[string]string{"APP": "evil"}
	w.publish(target(1, bad, good))
	verifier := &images{evil: "evil"}
	with := func(config *agent.Config) { config.Images = verifier }
	result := w.sync(with)
	if diff := cmp.Diff([]string{"evil=Refused", "web=Ready"}, states(result.Report)); diff != "" {
		t.Errorf("states (-want +got):\n%s", diff)
	}
	if got := result.Report.Bundles[0]; got.Reason != string(agent.ReasonKeyNotTrusted) || !strings.Contains(got.Message, "ghcr.io/acme/evil") {
		t.Errorf("refused with %s: %s", got.Reason, got.Message)
	}
	if calls := w.deployer.took(); slices.Contains(calls, "deploy evil") || !slices.Contains(calls, "deploy web") {
		t.Errorf("deployed %v", calls)
	}
	slices.Sort(verifier.asked)
	want := []string{"ghcr.io/acme/evil", "ghcr.io/acme/init", "ghcr.io/acme/models", "ghcr.io/acme/shop"}
	if diff := cmp.Diff(want, slices.DeleteFunc(slices.Compact(verifier.asked), func(s string) bool { return s == "" })); diff != "" {
		t.Errorf("verified (-want +got):\n%s", diff)
	}

	// A restart without any network.
	verifier.down, verifier.asked = true, nil
	w.registry.set(fmt.Errorf("dial: %w", oci.ErrUnreachable))
	result = w.sync(with)
	if calls := w.deployer.took(); !slices.Contains(calls, "deploy web") {
		t.Errorf("not enforced again without a network: %v, %v", calls, states(result.Report))
	}
}
