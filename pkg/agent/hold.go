package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// Annotations of the Lease.
const (
	annotationRun        = "pinnace.dev/run"        // the process that holds it
	annotationChallenge  = "pinnace.dev/challenge"  // who asks whether the holder is alive
	annotationGeneration = "pinnace.dev/generation" // the newest target ever accepted: generation,
	annotationDigest     = "pinnace.dev/digest"     // digest
	annotationLatest     = "pinnace.dev/latest"     // and signed time
	annotationTrust      = "pinnace.dev/trust-root" // newest version of the trust root
)

const (
	// LeaseName is the Lease that names the cluster's agent.
	LeaseName = "pinnace-agent"
	// DefaultNamespace holds the Lease.
	DefaultNamespace = "pinnace-system"
	// DefaultPatience is how long a newcomer waits for the holder's answer.
	DefaultPatience = 20 * time.Second
	// watchPause bounds how fast a broken watch is opened again.
	watchPause = 5 * time.Second
)

// Hold sees to it that one agent works on a cluster, by a Lease that is not renewed: an idle agent writes nothing.
//
// A newcomer that finds another holder writes a challenge into the Lease. The holder watches it and answers by removing
// the challenge, so the newcomer gives up. A holder that is dead or cut off doesn't answer, and the newcomer takes over;
// one that comes back sees so in its watch and stops. The same state folder takes its own Lease back without waiting.
//
// The Lease remembers the newest target too, so that a lost disk permits no rollback. The holder sees to it that a cluster
// that is put back from a backup, or a Lease that somebody removes, remembers it again.
type Hold struct {
	Client    client.WithWatch
	Namespace string // DefaultNamespace when empty
	Identity  string // of the state folder
	Run       string // of the process
	Patience  time.Duration

	mu    sync.Mutex
	known Known // what the Lease must remember, at least
}

// Acquire becomes the holder, and returns the newest target that the cluster remembers.
func (h *Hold) Acquire(ctx context.Context) (Known, error) {
	if err := h.ensureNamespace(ctx); err != nil {
		return Known{}, h.fail(err)
	}
	lease, err := h.get(ctx)
	if apierrors.IsNotFound(err) {
		lease = h.lease()
		if err = h.Client.Create(ctx, lease); err == nil {
			return Known{}, nil
		}
		if apierrors.IsAlreadyExists(err) {
			lease, err = h.get(ctx)
		}
	}
	if err != nil {
		return Known{}, h.fail(err)
	}
	if holder := holderOf(lease); holder != "" && holder != h.Identity {
		if lease, err = h.challenge(ctx, lease); err != nil {
			return Known{}, err
		}
	}
	h.take(lease)
	if err := h.Client.Update(ctx, lease); err != nil {
		return Known{}, h.fail(err) // a conflict means that another newcomer was faster
	}
	known, err := knownOf(lease)
	h.expect(known)
	return known, err
}

// challenge asks the holder for a sign of life and waits; it returns the Lease when none came.
func (h *Hold) challenge(ctx context.Context, lease *coordinationv1.Lease) (*coordinationv1.Lease, error) {
	holder, run := holderOf(lease), lease.Annotations[annotationRun]
	metav1.SetMetaDataAnnotation(&lease.ObjectMeta, annotationChallenge, h.Run)
	if err := h.Client.Update(ctx, lease); err != nil {
		return nil, h.fail(err)
	}
	timeout := time.NewTimer(h.patience())
	defer timeout.Stop()
	poll := time.NewTicker(h.patience() / 10)
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, h.fail(ctx.Err())
		case <-timeout.C:
			return lease, nil
		case <-poll.C:
		}
		current, err := h.get(ctx)
		if err != nil {
			return nil, h.fail(err)
		}
		switch {
		case holderOf(current) == "":
			return current, nil // it left while we waited
		case current.Annotations[annotationChallenge] != h.Run:
			return nil, &Error{
				Stage: StageHold, Subject: h.subject(), Reason: ReasonAnotherAgent,
				Mend: "stop that one: a cluster has one agent",
				Err:  fmt.Errorf("agent %s (run %s) is working on this cluster since %s", holder, run, acquired(current)),
			}
		}
		lease = current
	}
}

// Await returns when nobody holds the Lease, or after the longest time.
func (h *Hold) Await(ctx context.Context, longest time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	for ctx.Err() == nil {
		if h.free(ctx) {
			return
		}
		select { // the watch broke
		case <-ctx.Done():
		case <-time.After(watchPause):
		}
	}
}

// free watches until nobody holds the Lease; false when the watch ends before.
func (h *Hold) free(ctx context.Context) bool {
	events, err := h.open(ctx)
	if err != nil {
		return false
	}
	defer events.Stop()
	for {
		select {
		case event, open := <-events.ResultChan():
			if !open {
				return false
			}
			lease, is := event.Object.(*coordinationv1.Lease)
			if event.Type == watch.Deleted || is && holderOf(lease) == "" {
				return true
			}
		case <-ctx.Done():
			return false
		}
	}
}

// open watches the Lease.
func (h *Hold) open(ctx context.Context) (watch.Interface, error) {
	return h.Client.Watch(ctx, &coordinationv1.LeaseList{}, client.InNamespace(h.namespace()),
		client.MatchingFieldsSelector{Selector: fields.OneTermEqualSelector(metav1.ObjectNameField, LeaseName)})
}

// Keep answers challenges, and returns an error when another agent has taken over. It returns nil when ctx ends.
func (h *Hold) Keep(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := h.watch(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchPause):
		}
		// A watch that opens again tells of what is there, and not that nothing is.
		if _, err := h.get(ctx); apierrors.IsNotFound(err) {
			_ = h.Remember(ctx, h.expected()) // without success, the next watch or target brings it
		}
	}
	return nil
}

// watch follows the Lease until the watch ends; the error means that the Lease is lost.
func (h *Hold) watch(ctx context.Context) error {
	events, err := h.open(ctx)
	if err != nil {
		return nil
	}
	defer events.Stop()
	for {
		var event watch.Event
		open := false
		select {
		case event, open = <-events.ResultChan():
		case <-ctx.Done():
		}
		if !open {
			return nil
		}
		lease, isLease := event.Object.(*coordinationv1.Lease)
		switch {
		case !isLease:
			continue
		case event.Type == watch.Deleted:
			err = h.Remember(ctx, h.expected())
		case holderOf(lease) != h.Identity || lease.Annotations[annotationRun] != h.Run:
			return &Error{
				Stage: StageHold, Subject: h.subject(), Reason: ReasonAnotherAgent,
				Mend: "stop one of the two: a cluster has one agent",
				Err:  fmt.Errorf("agent %s has taken over", holderOf(lease)),
			}
		case h.amend(lease):
			err = h.Client.Update(ctx, lease)
		}
		if err != nil && !apierrors.IsConflict(err) { // a conflict brings another event
			return nil
		}
	}
}

// amend answers a challenge, and writes what the Lease knew before the cluster was put back from a backup.
func (h *Hold) amend(lease *coordinationv1.Lease) (changed bool) {
	if changed = lease.Annotations[annotationChallenge] != ""; changed {
		delete(lease.Annotations, annotationChallenge)
	}
	remembered, err := knownOf(lease)
	if want := newer(remembered, h.expected()); err == nil && !want.equal(remembered) {
		note(lease, want)
		changed = true
	}
	return changed
}

// Remember writes the newest accepted target into the Lease.
func (h *Hold) Remember(ctx context.Context, known Known) error {
	known = h.expect(known)
	err := h.update(ctx, func(lease *coordinationv1.Lease) { note(lease, known) })
	if apierrors.IsNotFound(err) {
		err = h.ensureNamespace(ctx)
		if lease := h.lease(); err == nil {
			note(lease, known)
			err = h.Client.Create(ctx, lease)
		}
	}
	if err != nil {
		return h.fail(err)
	}
	return nil
}

// expect notes what the Lease must remember, and returns it: never less than before.
func (h *Hold) expect(known Known) Known {
	h.mu.Lock()
	defer h.mu.Unlock()
	known.Latest = known.Latest.Truncate(time.Second) // as the Lease has it
	h.known = newer(known, h.known)
	return h.known
}

func (h *Hold) expected() Known { return h.expect(Known{}) }

// note writes into a Lease what it is to remember.
func note(lease *coordinationv1.Lease, known Known) {
	if known.Generation > 0 {
		metav1.SetMetaDataAnnotation(&lease.ObjectMeta, annotationGeneration, strconv.FormatInt(known.Generation, 10))
		metav1.SetMetaDataAnnotation(&lease.ObjectMeta, annotationDigest, known.Digest)
		metav1.SetMetaDataAnnotation(&lease.ObjectMeta, annotationLatest, stamp(known.Latest))
	}
	if known.Trust > 0 {
		metav1.SetMetaDataAnnotation(&lease.ObjectMeta, annotationTrust, strconv.FormatInt(known.Trust, 10))
	}
}

// Release gives the Lease back, so that the next agent need not wait.
func (h *Hold) Release(ctx context.Context) error {
	err := h.update(ctx, func(lease *coordinationv1.Lease) { lease.Spec.HolderIdentity = nil })
	if err != nil {
		return h.fail(err)
	}
	return nil
}

var errNotHolder = errors.New("another agent has taken over")

// update changes the Lease while it is ours.
func (h *Hold) update(ctx context.Context, change func(*coordinationv1.Lease)) error {
	return retry.RetryOnConflict(retry.DefaultRetry, func() error {
		lease, err := h.get(ctx)
		if err != nil {
			return err
		}
		if holderOf(lease) != h.Identity || lease.Annotations[annotationRun] != h.Run {
			return errNotHolder
		}
		change(lease)
		return h.Client.Update(ctx, lease)
	})
}

// lease is a new one, taken.
func (h *Hold) lease() *coordinationv1.Lease {
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: LeaseName, Namespace: h.namespace()}}
	h.take(lease)
	return lease
}

func (h *Hold) take(lease *coordinationv1.Lease) {
	now := metav1.NowMicro()
	if holderOf(lease) != h.Identity {
		transitions := int32(0)
		if lease.Spec.LeaseTransitions != nil {
			transitions = *lease.Spec.LeaseTransitions + 1
		}
		lease.Spec.LeaseTransitions = &transitions
	}
	lease.Spec.HolderIdentity = &h.Identity
	lease.Spec.AcquireTime = &now
	metav1.SetMetaDataAnnotation(&lease.ObjectMeta, annotationRun, h.Run)
	delete(lease.Annotations, annotationChallenge)
	metav1.SetMetaDataLabel(&lease.ObjectMeta, v1alpha1.LabelManagedBy, v1alpha1.FieldManager)
}

func (h *Hold) get(ctx context.Context) (*coordinationv1.Lease, error) {
	lease := &coordinationv1.Lease{}
	err := h.Client.Get(ctx, client.ObjectKey{Namespace: h.namespace(), Name: LeaseName}, lease)
	return lease, err
}

func (h *Hold) ensureNamespace(ctx context.Context) error {
	namespace := &corev1.Namespace{}
	err := h.Client.Get(ctx, client.ObjectKey{Name: h.namespace()}, namespace)
	if !apierrors.IsNotFound(err) {
		if apierrors.IsForbidden(err) {
			return nil // a small role needs no access to Namespaces; the Lease tells
		}
		return err
	}
	namespace.Name = h.namespace()
	err = h.Client.Create(ctx, namespace)
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

func (h *Hold) fail(err error) error {
	mend := "check that the API server answers, and that the agent's role in deploy/ is applied"
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || errors.Is(err, errNotHolder) {
		return &Error{
			Stage: StageHold, Subject: h.subject(), Reason: ReasonAnotherAgent,
			Mend: "stop one of the two: a cluster has one agent", Err: errNotHolder,
		}
	}
	return &Error{Stage: StageHold, Subject: h.subject(), Reason: ReasonUnreachable, Mend: mend, Err: err}
}

func (h *Hold) subject() string { return "Lease " + h.namespace() + "/" + LeaseName }

func (h *Hold) namespace() string {
	if h.Namespace == "" {
		return DefaultNamespace
	}
	return h.Namespace
}

func (h *Hold) patience() time.Duration {
	if h.Patience == 0 {
		return DefaultPatience
	}
	return h.Patience
}

func holderOf(lease *coordinationv1.Lease) string {
	if lease.Spec.HolderIdentity == nil {
		return ""
	}
	return *lease.Spec.HolderIdentity
}

func acquired(lease *coordinationv1.Lease) string {
	if lease.Spec.AcquireTime == nil {
		return "an unknown time"
	}
	return stamp(lease.Spec.AcquireTime.Time)
}

// knownOf reads what the cluster remembers.
func knownOf(lease *coordinationv1.Lease) (Known, error) {
	trust, err := strconv.ParseInt(cmp.Or(lease.Annotations[annotationTrust], "0"), 10, 64)
	if err != nil {
		return Known{}, &Error{
			Stage: StageHold, Subject: "Lease " + lease.Namespace + "/" + lease.Name, Reason: ReasonStateCorrupt,
			Mend: "remove its annotation " + annotationTrust, Err: err,
		}
	}
	text := lease.Annotations[annotationGeneration]
	if text == "" {
		return Known{Trust: trust}, nil
	}
	generation, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return Known{}, &Error{
			Stage: StageHold, Subject: "Lease " + lease.Namespace + "/" + lease.Name, Reason: ReasonStateCorrupt,
			Mend: "remove its annotation " + annotationGeneration, Err: err,
		}
	}
	latest, err := time.Parse(time.RFC3339, lease.Annotations[annotationLatest])
	if err != nil {
		latest = time.Time{} // a floor for clocks only
	}
	return Known{Generation: generation, Digest: lease.Annotations[annotationDigest], Latest: latest, Trust: trust}, nil
}
