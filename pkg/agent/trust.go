package agent

import (
	"context"
	"time"

	"pinnace.dev/pinnace/pkg/oci"
)

// TrustRoot says which keys may sign what, and follows their rotation.
type TrustRoot interface {
	// Refresh follows the trust root in a registry and returns the version in force, which the [Verifier] goes by from
	// then on. known is the newest version that is remembered. An error means that nothing new may be taken; an
	// [Error] says why, any other that the registry could not be read.
	Refresh(ctx context.Context, registry oci.Registry, known int64, now time.Time) (version int64, err error)
}

// refreshTrust follows the trust root before anything is verified by it, and remembers its version, on disk and in the
// cluster, before anything is accepted by it.
func (a *Agent) refreshTrust(ctx context.Context, registry oci.Registry) error {
	if a.cfg.Trust == nil {
		return nil
	}
	known := a.known()
	now := a.now()
	if known.Latest.After(now) {
		now = known.Latest // a clock that was set back makes nothing fresh again
	}
	version, err := a.cfg.Trust.Refresh(ctx, registry, known.Trust, now)
	if version > known.Trust {
		known.Trust = version
		if err := a.remember(ctx, known); err != nil {
			return err
		}
		a.log.Info("the trust root is in force", "stage", StageTrust, "version", version)
	}
	if err != nil {
		return problem(StageTrust, "trust root", err)
	}
	return nil
}
