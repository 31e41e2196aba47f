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
// verifier and trust are the same; trust is nil otherwise. local is nil where everything is delegated to the root.
func loadPolicy(file, stateDir string, log *slog.Logger) (verifier agent.Verifier, trust agent.TrustRoot, local *signing.Verifier, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, nil, usagef("read the trust policy: %w", err)
	}
	policy, _, err := document.Decode[v1alpha1.TrustPolicy](file, data, v1alpha1.KindTrustPolicy)
	if err != nil {
		return nil, nil, nil, usagef("%w", err)
	}
	if root := policy.Spec.Root; root == nil || !root.Delegate || len(policy.Spec.Rules) > 0 {
		local, err = signing.LoadPolicy(file, signing.Options{
			Warn: func(refusal *signing.Error) {
				log.Warn("taken although the trust policy would refuse it: its mode is warn", "reason", refusal.Reason, "error", refusal)
			},
		})
		if err != nil {
			return nil, nil, nil, usagef("%w", err)
		}
	}
	if policy.Spec.Root == nil {
		return refusing{local, refresher(local, log)}, nil, local, nil
	}
	pinned, err := os.ReadFile(relativeTo(filepath.Dir(file), policy.Spec.Root.File))
	if err != nil {
		return nil, nil, nil, usagef("%s: spec.root.file: %w", file, err)
	}
	rooted, err := trustroot.NewVerifier(pinned, trustroot.Options{
		Delegate: policy.Spec.Root.Delegate, Local: local, Store: trustFile(filepath.Join(stateDir, "trust.json")),
	})
	if err != nil {
		return nil, nil, nil, usagef("%s: spec.root: %w", file, err)
	}
	following := following{refusing{rooted, refresher(local, log)}, rooted}
	return following, following, local, nil
}

// refresher brings a changed policy into force, between two verifications. One that cannot be read changes nothing.
func refresher(local *signing.Verifier, log *slog.Logger) func() {
	if local == nil {
		return nil
	}
	return func() {
		switch changed, err := local.Refresh(); {
		case err != nil:
			log.Error("the trust policy changed and cannot be read; the one before stays in force", "error", err)
		case changed:
			log.Info("the trust policy changed and is in force")
		}
	}
}

// refusing puts refusals into the agent's words.
type refusing struct {
	agent.Verifier
	refresh func()
}

func (r refusing) Verify(ctx context.Context, repo oci.Repository, name string, desc ocispec.Descriptor) (oci.Verified, error) {
	if r.refresh != nil {
		r.refresh()
	}
	verified, err := r.Verifier.Verify(ctx, repo, name, desc)
	return verified, refused(err)
}

func refused(err error) error {
	var refusal *signing.Error
	if errors.As(err, &refusal) {
		return &agent.Error{Stage: agent.StageVerify, Reason: agent.Reason(refusal.Reason), Err: err}
	}
	return err
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
