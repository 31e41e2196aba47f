package agentcli

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/api/document"
	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/agent"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
	"pinnace.dev/pinnace/pkg/oci/signing/trustroot"
)

// loadPolicy reads the trust policy. With a root of trust, what was followed of it is kept in the state folder, and
// both results are the same verifier; trust is nil otherwise.
func loadPolicy(file, stateDir string, log *slog.Logger) (verifier agent.Verifier, trust agent.TrustRoot, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, usagef("read the trust policy: %w", err)
	}
	policy, _, err := document.Decode[v1alpha1.TrustPolicy](file, data, v1alpha1.KindTrustPolicy)
	if err != nil {
		return nil, nil, usagef("%w", err)
	}
	var local *signing.Verifier
	if root := policy.Spec.Root; root == nil || !root.Delegate || len(policy.Spec.Rules) > 0 {
		local, err = signing.NewVerifier(policy, signing.Options{
			Dir: filepath.Dir(file),
			Warn: func(refusal *signing.Error) {
				log.Warn("taken although the trust policy would refuse it: its mode is warn", "reason", refusal.Reason, "error", refusal)
			},
		})
		if err != nil {
			return nil, nil, usagef("%s: %w", file, err)
		}
	}
	if policy.Spec.Root == nil {
		return refusing{local}, nil, nil
	}
	pinned, err := os.ReadFile(relativeTo(filepath.Dir(file), policy.Spec.Root.File))
	if err != nil {
		return nil, nil, usagef("%s: spec.root.file: %w", file, err)
	}
	rooted, err := trustroot.NewVerifier(pinned, trustroot.Options{
		Delegate: policy.Spec.Root.Delegate, Local: local, Store: trustFile(filepath.Join(stateDir, "trust.json")),
	})
	if err != nil {
		return nil, nil, usagef("%s: spec.root: %w", file, err)
	}
	following := following{refusing{rooted}, rooted}
	return following, following, nil
}

// refusing puts refusals into the agent's words.
type refusing struct{ agent.Verifier }

func (r refusing) Verify(ctx context.Context, repo oci.Repository, name string, desc ocispec.Descriptor) (oci.Verified, error) {
	verified, err := r.Verifier.Verify(ctx, repo, name, desc)
	var refusal *signing.Error
	if errors.As(err, &refusal) {
		return verified, &agent.Error{Stage: agent.StageVerify, Reason: agent.Reason(refusal.Reason), Err: err}
	}
	return verified, err
}

// following puts what is wrong with a trust root into the agent's words.
type following struct {
	refusing
	root *trustroot.Verifier
}

func (f following) Refresh(ctx context.Context, registry oci.Registry, known int64, now time.Time) (int64, error) {
	version, err := f.root.Refresh(ctx, registry, known, now)
	for _, class := range []struct {
		err    error
		reason agent.Reason
		mend   string
	}{
		{trustroot.ErrExpired, agent.ReasonTrustRootExpired, ""},
		{trustroot.ErrRollback, agent.ReasonRollback, "repair the registry or mirror that lost versions of the trust root"},
		{trustroot.ErrIncomplete, agent.ReasonTrustRootInvalid, ""},
		{trustroot.ErrInvalid, agent.ReasonTrustRootInvalid, "find out who pushed it; push the right one with pinnace trust publish"},
	} {
		if errors.Is(err, class.err) {
			return version, &agent.Error{Stage: agent.StageTrust, Subject: "trust root of " + registry.String(), Reason: class.reason, Mend: class.mend, Err: err}
		}
	}
	return version, err
}

// trustFile keeps the newest version of the trust root in the state folder.
type trustFile string

func (f trustFile) Load() ([]byte, error) {
	data, err := os.ReadFile(string(f))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return bytes.TrimSpace(data), err
}

func (f trustFile) Save(data []byte) error {
	return renameio.WriteFile(string(f), data, 0o600)
}
