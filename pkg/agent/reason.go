package agent

import (
	"errors"
	"fmt"
)

// Stage is the step of the sync line in which something happened.
type Stage string

const (
	StageState   Stage = "state"   // the state folder
	StageHold    Stage = "hold"    // one agent per cluster
	StageResolve Stage = "resolve" // which target is current
	StageTrust   Stage = "trust"   // which keys may sign
	StageVerify  Stage = "verify"  // signatures
	StageFetch   Stage = "fetch"   // bytes into the state folder
	StageAccept  Stage = "accept"  // is the target for us, new and fresh
	StageScope   Stage = "scope"   // what a bundle may touch
	StageOpen    Stage = "open"    // what was sealed for this cluster
	StageApply   Stage = "apply"
	StageHealth  Stage = "health"
	StagePrune   Stage = "prune"
	StageReport  Stage = "report"
)

// Reason says why, from a closed set; docs/reasons.md says what mends each.
type Reason string

const (
	ReasonSignatureMissing    Reason = "SignatureMissing"
	ReasonSignatureMismatch   Reason = "SignatureMismatch"
	ReasonKeyNotTrusted       Reason = "KeyNotTrusted"
	ReasonThresholdNotMet     Reason = "ThresholdNotMet"
	ReasonSignatureBroken     Reason = "SignatureBroken"
	ReasonIdentityNotTrusted  Reason = "IdentityNotTrusted"
	ReasonCertificateInvalid  Reason = "CertificateInvalid"
	ReasonTransparencyMissing Reason = "TransparencyMissing"
	ReasonAttestationMissing  Reason = "AttestationMissing"
	ReasonAttestationRefused  Reason = "AttestationRefused"
	ReasonImageNotPinned      Reason = "ImageNotPinned"
	ReasonNoRule              Reason = "NoRule"
	ReasonNotVerified         Reason = "NotVerified"
	ReasonWrongCluster        Reason = "WrongCluster"
	ReasonWrongFleet          Reason = "WrongFleet"
	ReasonRollback            Reason = "Rollback"
	ReasonEquivocation        Reason = "Equivocation"
	ReasonTargetExpired       Reason = "TargetExpired"
	ReasonClockSkew           Reason = "ClockSkew"
	ReasonDigestMismatch      Reason = "DigestMismatch"
	ReasonTooLarge            Reason = "TooLarge"
	ReasonUnsafePath          Reason = "UnsafePath"
	ReasonUnsafeAnswer        Reason = "UnsafeAnswer"
	ReasonOutOfScope          Reason = "OutOfScope"
	ReasonInvalidTarget       Reason = "InvalidTarget"
	ReasonInvalidBundle       Reason = "InvalidBundle"
	ReasonPruneGuard          Reason = "PruneGuard"
	ReasonVariableMissing     Reason = "VariableMissing"
	ReasonNotOpened           Reason = "NotOpened"
	ReasonTrustRootInvalid    Reason = "TrustRootInvalid"
	ReasonTrustRootExpired    Reason = "TrustRootExpired"
	ReasonNotFound            Reason = "NotFound"
	ReasonUnauthorized        Reason = "Unauthorized"
	ReasonUnreachable         Reason = "Unreachable"
	ReasonStateCorrupt        Reason = "StateCorrupt"
	ReasonStateLocked         Reason = "StateLocked"
	ReasonStateUnwritable     Reason = "StateUnwritable"
	ReasonAnotherAgent        Reason = "AnotherAgent"
	ReasonDependencyFailed    Reason = "DependencyFailed"
	ReasonDependencyWaiting   Reason = "DependencyWaiting"
	ReasonWaitingForWindow    Reason = "WaitingForWindow"
	ReasonSuspended           Reason = "Suspended"
	ReasonRolledBack          Reason = "RolledBack"
	ReasonApplyFailed         Reason = "ApplyFailed"
	ReasonPruneFailed         Reason = "PruneFailed"
	ReasonReconciling         Reason = "Reconciling"
	ReasonNotReady            Reason = "NotReady"
	ReasonTimedOut            Reason = "TimedOut"
	ReasonDrifted             Reason = "Drifted"
	ReasonContested           Reason = "Contested"
	ReasonReady               Reason = "Ready"
	ReasonGateRefused         Reason = "GateRefused"
	ReasonGateExpired         Reason = "GateExpired"
	ReasonRolloutFailed       Reason = "RolloutFailed"
	ReasonRolloutAborted      Reason = "RolloutAborted"

	// Those that only events have.
	ReasonApplied        Reason = "Applied"
	ReasonPruned         Reason = "Pruned"
	ReasonDriftCorrected Reason = "DriftCorrected"
	ReasonResumed        Reason = "Resumed"
	ReasonTargetTaken    Reason = "TargetTaken"
)

// Error is a failure or refusal on the sync line. The first one stops everything that comes after it and leaves alone
// what runs.
type Error struct {
	Stage   Stage
	Subject string // the target, bundle, file or object concerned
	Bundle  string // the bundle's name, where one is concerned
	Reason  Reason
	Mend    string // the act that mends it
	Err     error
}

func (e *Error) Error() string {
	text := fmt.Sprintf("%s %s: %v", e.Stage, e.Subject, e.Err)
	if e.Mend != "" {
		text += "; " + e.Mend
	}
	return text
}

func (e *Error) Unwrap() error { return e.Err }

// ReasonOf returns the reason of an error's first [Error], and fallback when there is none.
func ReasonOf(err error, fallback Reason) Reason {
	if typed := (*Error)(nil); errors.As(err, &typed) {
		return typed.Reason
	}
	return fallback
}
