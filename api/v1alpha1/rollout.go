package v1alpha1

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Rollout says how a change of bundles spreads over the clusters that run them. Of a bundle's own, its source's and the
// fleet's, the first that is set holds. Bundles under one strategy of the fleet or of a source roll out together.
// Clusters that get a bundle for the first time with their first target take it at once.
type Rollout struct {
	// Canaries are clusters that get a change first. One that fails ends the rollout.
	Canaries []string `json:"canaries,omitempty"`
	// Waves come after the canaries, in order. Clusters that none selects come last.
	Waves []RolloutWave `json:"waves,omitempty"`
	// MaxUnavailable is how many clusters, or which percentage of them such as 10%, may be at work or failed at the same
	// time; 10% when nil. At least one.
	MaxUnavailable *intstr.IntOrString `json:"maxUnavailable,omitempty"`
	// Bake is how long a wave stays as it is, once it has succeeded, before the next begins.
	Bake metav1.Duration `json:"bake,omitempty"`
	// MinSuccess is which percentage of a wave's clusters that were heard from must succeed, such as 95%; 100% when nil.
	MinSuccess *intstr.IntOrString `json:"minSuccess,omitempty"`
	// MaxFailure ends the rollout as soon as so many failed, whatever the wave.
	MaxFailure *RolloutFailure `json:"maxFailure,omitempty"`
	// Deadline is how long a cluster may take from when its agent starts; 30m when zero.
	Deadline metav1.Duration `json:"deadline,omitempty"`
	// SeenWithin is after how long without a report a cluster counts as absent: absent ones neither block nor count,
	// and come last when they return. 1h when zero; at least twice the agents' heartbeat.
	SeenWithin metav1.Duration `json:"seenWithin,omitempty"`
	// OnFailure is abort when empty.
	OnFailure RolloutAct `json:"onFailure,omitempty" jsonschema:"enum=abort,enum=pause"`
	// OnAbort is revert when empty.
	OnAbort OnAbort `json:"onAbort,omitempty" jsonschema:"enum=revert,enum=revertUnfinished,enum=keep"`
	// Approval lets waves begin only after people said so.
	Approval *RolloutApproval `json:"approval,omitempty"`
}

// RolloutWave is one step on the ladder: exactly one of Percent, ClusterSelector and ClusterGroup is set.
type RolloutWave struct {
	// Name appears in status and in approvals; its number when empty.
	Name string `json:"name,omitempty"`
	// Percent of the clusters that no canary list, selector or group takes, in an order by hash; it counts those of
	// percentages before.
	Percent         int                   `json:"percent,omitempty"`
	ClusterSelector *metav1.LabelSelector `json:"clusterSelector,omitempty"`
	ClusterGroup    string                `json:"clusterGroup,omitempty"`
	// Bake replaces the rollout's.
	Bake *metav1.Duration `json:"bake,omitempty"`
}

// RolloutFailure is a limit on failures.
type RolloutFailure struct {
	// Limit is a number of clusters, or a percentage of those that finished.
	Limit intstr.IntOrString `json:"limit"`
	// MinSample is how many must have finished before a percentage counts; 1 when zero.
	MinSample int `json:"minSample,omitempty"`
}

// RolloutApproval says who has to agree, and to what.
type RolloutApproval struct {
	// Before names the waves that wait; every one after the first when empty.
	Before []string `json:"before,omitempty"`
	// Signers are who may approve: threshold of the keys.
	Signers Signers `json:"signers"`
}

// RolloutAct is what failures lead to.
type RolloutAct string

const (
	RolloutAbort RolloutAct = "abort"
	RolloutPause RolloutAct = "pause"
)

// OnAbort says what becomes of clusters that took a change which was aborted. Those that did not start never do.
type OnAbort string

const (
	AbortRevert           OnAbort = "revert"           // all go back to what they had
	AbortRevertUnfinished OnAbort = "revertUnfinished" // those that succeeded keep it
	AbortKeep             OnAbort = "keep"             // all keep what they have
)

// TargetRollout is a change that a target announces: the agent fetches and verifies it, and makes it once the rollout's
// gate is open for this cluster. Until then the target's bundles hold.
type TargetRollout struct {
	// Name is the rollout's; its gate stands in RolloutRepository(Name).
	Name string `json:"name"`
	// Plan numbers the change: a gate of another plan opens nothing.
	Plan int64 `json:"plan"`
	// Wave and Bucket (0 … 9999) are this cluster's place. LateWave is the last, for those that were away when their
	// own place was opened.
	Wave     int `json:"wave"`
	Bucket   int `json:"bucket"`
	LateWave int `json:"lateWave"`
	// Bundles replace those of the same name in the target, or are added. Remove lists those that leave.
	Bundles []TargetBundle `json:"bundles,omitempty"`
	Remove  []string       `json:"remove,omitempty"`
	// AllowPrune permits the change to remove more than half of what runs.
	AllowPrune bool `json:"allowPrune,omitempty"`
	// What the agent itself needs of the strategy.
	Deadline   metav1.Duration `json:"deadline"`
	SeenWithin metav1.Duration `json:"seenWithin"`
	OnAbort    OnAbort         `json:"onAbort"`
}

// MaxBucket is the number of buckets; an openBucket of so many lets a whole wave in.
const MaxBucket = 10_000

// IndexRollout is a cluster's place in a rollout that its target announces.
type IndexRollout struct {
	Name   string `json:"name"`
	Plan   int64  `json:"plan"`
	Wave   int    `json:"wave"`
	Bucket int    `json:"bucket"`
	// Next is the hash of what is announced.
	Next string `json:"next"`
}

// RolloutPlan is what a publish decided about a rollout: the ladder that a gate goes up. It is signed and never changes.
type RolloutPlan struct {
	TypeMeta `json:",inline"`
	Fleet    string      `json:"fleet"`
	Name     string      `json:"name"`
	Plan     int64       `json:"plan"`
	IssuedAt metav1.Time `json:"issuedAt"`
	// Publication that announced the change.
	Publication int64         `json:"publication"`
	Strategy    Rollout       `json:"strategy"`
	Steps       []RolloutStep `json:"steps"`
	// Clusters is how many take part.
	Clusters int `json:"clusters"`
	// Bundles that change.
	Bundles []string `json:"bundles"`
}

// RolloutStep is a step of the ladder: it is done when everything below Wave and Bucket is.
type RolloutStep struct {
	Name   string `json:"name"`
	Wave   int    `json:"wave"`
	Bucket int    `json:"bucket"` // exclusive; MaxBucket is the whole wave
	// Clusters of this step alone.
	Clusters int             `json:"clusters"`
	Bake     metav1.Duration `json:"bake,omitempty"`
	Canary   bool            `json:"canary,omitempty"`
	Approval bool            `json:"approval,omitempty"` // must be approved before it begins
}

// RolloutPhase is how a rollout stands: a closed set.
type RolloutPhase string

const (
	RolloutPending     RolloutPhase = "Pending" // planned, no gate yet
	RolloutProgressing RolloutPhase = "Progressing"
	RolloutBaking      RolloutPhase = "Baking"
	RolloutApproving   RolloutPhase = "AwaitingApproval"
	RolloutPaused      RolloutPhase = "Paused"
	RolloutAborted     RolloutPhase = "Aborted"   // final
	RolloutCompleted   RolloutPhase = "Completed" // final
)

// Final reports whether nothing comes after the phase. A final gate doesn't expire: it is the last word on its plan.
func (p RolloutPhase) Final() bool { return p == RolloutAborted || p == RolloutCompleted }

// RolloutGate opens waves. It is signed, and the whole state of a rollout: one write lets thousands of clusters go on.
type RolloutGate struct {
	TypeMeta `json:",inline"`
	Fleet    string `json:"fleet"`
	Name     string `json:"name"`
	Plan     int64  `json:"plan"`
	// Sequence increases strictly, also from plan to plan: an older gate opens nothing.
	Sequence int64 `json:"sequence"`
	// Parent is the digest of the gate before.
	Parent    string      `json:"parent,omitempty"`
	IssuedAt  metav1.Time `json:"issuedAt"`
	ExpiresAt metav1.Time `json:"expiresAt"`

	Phase RolloutPhase `json:"phase"`
	// A cluster may start when its wave is below OpenWave, or is OpenWave and its bucket below OpenBucket.
	OpenWave   int `json:"openWave"`
	OpenBucket int `json:"openBucket"`
	// Attempt is the sequence at which people resumed: clusters that failed before may try again.
	Attempt int64 `json:"attempt,omitempty"`

	// Step of the plan's ladder that is being worked on; StepSince is when it began, BakingSince when it succeeded, and
	// OpenedAt when the gate was last opened wider.
	Step        int         `json:"step"`
	StepSince   metav1.Time `json:"stepSince,omitzero"`
	BakingSince metav1.Time `json:"bakingSince,omitzero"`
	OpenedAt    metav1.Time `json:"openedAt,omitzero"`
	// Reason and Message say why it stands so.
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
	// Events are the newest, at most MaxGateEvents, oldest first.
	Events []RolloutEvent `json:"events,omitempty"`
}

// MaxGateEvents bounds what a gate remembers.
const MaxGateEvents = 40

// RolloutEvent is something that happened in a rollout.
type RolloutEvent struct {
	At      metav1.Time  `json:"at"`
	Plan    int64        `json:"plan"`
	Phase   RolloutPhase `json:"phase"`
	Message string       `json:"message"`
	By      string       `json:"by,omitempty"`
}

// Open reports whether the gate lets a place in.
func (g *RolloutGate) Open(wave, bucket int) bool {
	return g.Phase == RolloutCompleted || wave < g.OpenWave || wave == g.OpenWave && bucket < g.OpenBucket
}

// RolloutConsent says that a plan's step may begin. It holds nothing but that, so that all who agree sign the same
// bytes; its manifest names the plan as its subject.
type RolloutConsent struct {
	TypeMeta   `json:",inline"`
	Fleet      string `json:"fleet"`
	Name       string `json:"name"`
	Plan       int64  `json:"plan"`
	PlanDigest string `json:"planDigest"`
	Step       string `json:"step"`
}

// RolloutState is how a rollout stands on one cluster: a closed set.
type RolloutState string

const (
	RolloutWaiting  RolloutState = "Waiting"  // fetched and verified; the gate is closed
	RolloutRunning  RolloutState = "Running"  // started, not ready yet
	RolloutDone     RolloutState = "Done"     // ready
	RolloutFailed   RolloutState = "Failed"   // a bundle failed, or the deadline passed
	RolloutReverted RolloutState = "Reverted" // back to what ran before
)

// ReasonHeld is the reason of a rollout that is let in and waits for the cluster's maintenance window.
const ReasonHeld = "WaitingForWindow"

// ReportedRollout is what an agent says of a rollout that its target announces.
type ReportedRollout struct {
	Name  string       `json:"name"`
	Plan  int64        `json:"plan"`
	State RolloutState `json:"state"`
	// Gate is the highest sequence that the agent accepted.
	Gate int64 `json:"gate,omitempty"`
	// Late says that the cluster was away when its place was opened: it waits for the last wave.
	Late bool `json:"late,omitempty"`
	// Fetched says that everything of the change is on the cluster's disk, verified.
	Fetched   bool        `json:"fetched,omitempty"`
	StartedAt metav1.Time `json:"startedAt,omitzero"`
	EndedAt   metav1.Time `json:"endedAt,omitzero"`
	Reason    string      `json:"reason,omitempty"`
	Message   string      `json:"message,omitempty"`
}

// Names of rollouts: of the fleet's strategy, of a source's and of a bundle's.
const RolloutFleet = "fleet"

// RolloutOfSource names the rollout of a source's strategy.
func RolloutOfSource(source string) string { return "source/" + source }

// RolloutOfBundle names the rollout of a bundle's own strategy.
func RolloutOfBundle(bundle string) string { return "bundle/" + bundle }

// RolloutRepository is where a rollout's plans, gates and approvals live, relative to the fleet's prefix.
func RolloutRepository(rollout string) string { return "rollouts/" + rollout }

// Tags of a rollout's repository.
const (
	TagGate = "gate"
	TagPlan = "plan"
)

// PlanTag is the tag of one plan, GateTag of one gate.
func PlanTag(plan int64) string { return fmt.Sprintf("plan-%d", plan) }

// GateTag is the tag of one gate.
func GateTag(sequence int64) string { return fmt.Sprintf("gate-%d", sequence) }

// ConsentTag is the tag of the approval of a plan's step, by the step's number.
func ConsentTag(plan int64, step int) string {
	return fmt.Sprintf("plan-%d-step-%d-approved", plan, step)
}
