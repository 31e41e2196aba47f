package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
)

const (
	rolloutsFile = "rollouts.json"
	// contactEvery is how often the time of the last contact is written down.
	contactEvery = 30 * time.Minute
)

// gateFile is rollouts.json.
type gateFile struct {
	// Contact is when the registry last answered, roughly: who was away longer than a rollout allows is late.
	Contact  time.Time             `json:"contact,omitzero"`
	Rollouts map[string]gateMemory `json:"rollouts,omitempty"`
}

func (s *State) gates() (gateFile, error) {
	var file gateFile
	err := s.read(filepath.Join(s.dir, rolloutsFile), &file, "remove the file: what is under way waits for its gate again")
	return file, err
}

func (s *State) saveGates(file gateFile) error {
	return s.writeJSON(filepath.Join(s.dir, rolloutsFile), file)
}

// gateState is what the loop knows of rollouts.
type gateState struct {
	file    gateFile
	contact time.Time // more exact than the file's
	due     bool      // gates are to be looked at
	busy    bool
	// fetched are the plans whose content is on the disk, by rollout; troubles why gates or content are not.
	fetched  map[string]int64
	troubles map[string]string
	taken    string // which are taken, as it was last offered
	deadline time.Time
}

// openGates takes up what the disk remembers.
func (a *Agent) openGates() error {
	file, err := a.cfg.State.gates()
	if err != nil {
		return err
	}
	if file.Rollouts == nil {
		file.Rollouts = map[string]gateMemory{}
	}
	a.gates = gateState{file: file, contact: file.Contact, fetched: map[string]int64{}, troubles: map[string]string{}}
	return nil
}

// gateNews is what a look at one rollout found.
type gateNews struct {
	name    string
	plan    int64
	gate    *v1alpha1.RolloutGate // nil when it is the known one, or absent
	digest  string
	fetched bool
	err     error // why the gate or the content could not be had
}

// startGates looks at the gates of what the target announces, and fetches ahead.
func (a *Agent) startGates(ctx context.Context) {
	a.gates.due = false
	now := a.now()
	var open []v1alpha1.TargetRollout
	known := map[string]string{}
	for _, rollout := range a.target.Rollouts {
		memory := a.gates.file.Rollouts[rollout.Name]
		gate := memory.of(rollout.Plan)
		if gate != nil && gate.Phase.Final() && a.gates.fetched[rollout.Name] == rollout.Plan {
			continue // nothing more will be said
		}
		known[rollout.Name] = memory.Digest
		open = append(open, rollout)
	}
	if len(open) == 0 {
		a.gatesDone(nil, now)
		return
	}
	fetched := map[string]int64{}
	maps.Copy(fetched, a.gates.fetched)
	a.gates.busy = true
	a.work(ctx, func(ctx context.Context) func() {
		news := a.lookAtGates(ctx, open, known, fetched)
		return func() {
			a.gates.busy = false
			a.gatesDone(news, a.now())
		}
	})
}

// lookAtGates asks the first registry that answers.
func (a *Agent) lookAtGates(ctx context.Context, rollouts []v1alpha1.TargetRollout, known map[string]string, fetched map[string]int64) []gateNews {
	news := make([]gateNews, len(rollouts))
	for i := range rollouts {
		rollout := &rollouts[i]
		for _, registry := range a.cfg.Registries {
			attempt, cancel := context.WithTimeout(ctx, registryPatience)
			news[i] = a.lookAtGate(attempt, registry, rollout, known[rollout.Name], fetched[rollout.Name] == rollout.Plan)
			cancel()
			if news[i].err == nil || !errors.Is(news[i].err, oci.ErrUnreachable) || ctx.Err() != nil {
				break
			}
		}
	}
	return news
}

func (a *Agent) lookAtGate(ctx context.Context, registry oci.Registry, rollout *v1alpha1.TargetRollout, known string, fetched bool) gateNews {
	news := gateNews{name: rollout.Name, plan: rollout.Plan, fetched: fetched}
	if !fetched {
		for i := range rollout.Bundles {
			if _, err := a.content.fetch(ctx, registry, &rollout.Bundles[i]); err != nil {
				news.err = err
				return news // no gate lets in what is not here
			}
		}
		news.fetched = true
	}
	name := v1alpha1.RolloutRepository(rollout.Name)
	repo, err := registry.Repository(name)
	if err != nil {
		news.err = problem(StageResolve, "rollout "+rollout.Name, err)
		return news
	}
	desc, err := repo.Resolve(ctx, v1alpha1.TagGate)
	switch {
	case errors.Is(err, oci.ErrNotFound):
		return news // nobody opened it yet
	case err != nil:
		news.err = problem(StageResolve, fmt.Sprintf("gate %s:%s", repo, v1alpha1.TagGate), err)
		return news
	case desc.Digest.String() == known:
		return news
	}
	subject := fmt.Sprintf("gate %s@%s", repo, desc.Digest)
	verified, err := a.cfg.Verifier.Verify(ctx, repo, name, desc)
	if err != nil {
		news.err = problem(StageVerify, subject, err)
		return news
	}
	gate, err := oci.FetchGate(ctx, repo, verified)
	if err != nil {
		news.err = problem(StageFetch, subject, err)
		return news
	}
	gate.Events = nil // for people
	news.gate, news.digest = &gate, desc.Digest.String()
	return news
}

// gatesDone takes in what was found.
func (a *Agent) gatesDone(news []gateNews, now time.Time) {
	last := a.gates.contact
	for _, one := range news {
		rollout := a.announcement(one.name, one.plan)
		if rollout == nil {
			continue // the target changed meanwhile
		}
		if one.fetched && a.gates.fetched[one.name] != one.plan {
			a.gates.fetched[one.name] = one.plan
			a.report.touch(now.Add(reportDebounce))
		}
		err := one.err
		if one.gate != nil {
			if refusal := a.acceptGate(one, rollout, last, now); refusal != nil {
				err = refusal
			}
		}
		a.gateTrouble(one.name, err, now)
	}
	if a.gates.contact = now; now.Sub(a.gates.file.Contact) > contactEvery {
		a.gates.file.Contact = now
		a.saveGates()
	}
	a.turnGates(now)
}

// acceptGate remembers a newer gate. Who was away when it opened comes last.
func (a *Agent) acceptGate(news gateNews, rollout *v1alpha1.TargetRollout, contact, now time.Time) *Error {
	memory := a.gates.file.Rollouts[news.name]
	if refusal := acceptGate(news.gate, news.digest, news.name, a.cfg.Fleet, &memory, now); refusal != nil {
		return refusal
	}
	before := memory.of(rollout.Plan)
	closed := before == nil || !before.Open(rollout.Wave, rollout.Bucket)
	away := !contact.IsZero() && now.Sub(contact) > rollout.SeenWithin.Duration
	if away && closed && news.gate.Plan == rollout.Plan && news.gate.Open(rollout.Wave, rollout.Bucket) && !news.gate.Phase.Final() && !memory.taken() {
		memory = memory.turn(rollout, progress{}, now) // of this plan
		memory.Late = true
	}
	memory.Gate, memory.Digest = news.gate, news.digest
	a.gates.file.Rollouts[news.name] = memory
	a.saveGates()
	a.report.touch(now.Add(reportDebounce))
	a.log.Debug("a gate was accepted", "stage", StageAccept, "rollout", news.name, "sequence", news.gate.Sequence, "phase", news.gate.Phase)
	return nil
}

// gateTrouble notes why a gate or what it lets in could not be had; the same trouble is told once.
func (a *Agent) gateTrouble(name string, err error, now time.Time) {
	text := ""
	if err != nil {
		text = oneLine(err).Error()
	}
	if a.gates.troubles[name] == text {
		return
	}
	a.gates.troubles[name] = text
	a.report.touch(now.Add(reportDebounce))
	if err != nil {
		a.metrics.refused(ReasonOf(err, ReasonUnreachable))
		a.log.Warn("a rollout starts nothing new here; what runs keeps running", "stage", stageOf(err), "rollout", name,
			"reason", ReasonOf(err, ReasonUnreachable), "error", err)
	}
}

func (a *Agent) announcement(name string, plan int64) *v1alpha1.TargetRollout {
	if a.target == nil {
		return nil
	}
	at := slices.IndexFunc(a.target.Rollouts, func(r v1alpha1.TargetRollout) bool { return r.Name == name && r.Plan == plan })
	if at < 0 {
		return nil
	}
	return &a.target.Rollouts[at]
}

// turnGates decides which announced changes hold, and offers the bundles accordingly. What is decided is on the disk
// before anything of it is done.
func (a *Agent) turnGates(now time.Time) {
	if a.target == nil {
		return
	}
	if len(a.target.Rollouts) == 0 && a.gates.taken == "" {
		return
	}
	clock := now
	if latest := a.known().Latest; latest.After(clock) {
		clock = latest // a clock that was set back opens nothing
	}
	changed := false
	saved := maps.Clone(a.gates.file.Rollouts)
	a.gates.deadline = time.Time{}
	for i := range a.target.Rollouts {
		rollout := &a.target.Rollouts[i]
		before := a.gates.file.Rollouts[rollout.Name]
		after := before.turn(rollout, far(a.units, rollout), clock)
		if after.taken() && !before.taken() {
			after = a.mayTake(before, after, rollout)
		}
		if after.State == v1alpha1.RolloutRunning && after.Reason != ReasonWaitingForWindow {
			a.gates.deadline = earlier(a.gates.deadline, after.StartedAt.Add(rollout.Deadline.Duration+time.Second))
		}
		if reflect.DeepEqual(before, after) {
			continue
		}
		changed = true
		a.gates.file.Rollouts[rollout.Name] = after
		if before.Reason != after.Reason || before.Message != after.Message {
			a.report.touch(now.Add(reportDebounce))
		}
		if before.State != after.State || before.Plan != after.Plan {
			a.report.touch(now.Add(reportDebounce))
			a.log.Info("rollout "+string(after.State), "stage", StageAccept, "rollout", rollout.Name, "plan", rollout.Plan, "message", after.Message)
		}
	}
	if changed && !a.saveGates() {
		a.gates.file.Rollouts = saved // decided again, with the next look
	}
	a.offer()
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

// mayTake keeps a change from starting that is not on the disk yet, or that would remove too much.
func (a *Agent) mayTake(before, after gateMemory, rollout *v1alpha1.TargetRollout) gateMemory {
	stay := func(reason Reason, message string) gateMemory {
		after.State, after.StartedAt, after.Reason, after.Message = v1alpha1.RolloutWaiting, before.StartedAt, reason, message
		return after
	}
	if a.gates.fetched[rollout.Name] != rollout.Plan && len(rollout.Bundles) > 0 {
		return stay(ReasonUnreachable, "is let in, and not on the disk yet")
	}
	next := v1alpha1.Target{Generation: a.target.Generation, Bundles: take(a.target.Bundles, rollout), AllowPrune: rollout.AllowPrune}
	if refusal := guardPrune(&next, a.running()); refusal != nil {
		return stay(refusal.Reason, oneLine(refusal).Error())
	}
	return after
}

// offer offers the bundles that hold: the target's, with every change that is taken.
func (a *Agent) offer() {
	var taken []string
	target := *a.target
	for i := range target.Rollouts {
		memory := a.gates.file.Rollouts[target.Rollouts[i].Name]
		if memory.Plan != target.Rollouts[i].Plan || !memory.taken() {
			continue
		}
		taken = append(taken, fmt.Sprintf("%s/%d/%d", target.Rollouts[i].Name, memory.Plan, memory.Attempt))
		target.Bundles = take(target.Bundles, &target.Rollouts[i])
	}
	key := a.manifest.Digest.String() + " " + strings.Join(taken, " ")
	if key == a.gates.taken {
		return
	}
	a.gates.taken = key
	plan(a.units, &target)
	a.objects.touch(a.now().Add(objectsDebounce))
}

// saveGates writes down what is known of rollouts, and forgets those that the target doesn't announce and that no gate
// was seen of.
func (a *Agent) saveGates() bool {
	if err := a.cfg.State.saveGates(a.gates.file); err != nil {
		a.log.Error("rollouts wait: what is decided about them cannot be written down", "stage", StageState, "error", err)
		return false
	}
	return true
}

// reportedRollouts says how each announced change stands.
func (a *Agent) reportedRollouts() []v1alpha1.ReportedRollout {
	if a.target == nil {
		return nil
	}
	var reports []v1alpha1.ReportedRollout
	for i := range a.target.Rollouts {
		rollout := &a.target.Rollouts[i]
		memory := a.gates.file.Rollouts[rollout.Name]
		report := v1alpha1.ReportedRollout{
			Name: rollout.Name, Plan: rollout.Plan, State: v1alpha1.RolloutWaiting,
			Fetched: a.gates.fetched[rollout.Name] == rollout.Plan || len(rollout.Bundles) == 0,
		}
		if memory.Gate != nil {
			report.Gate = memory.Gate.Sequence
		}
		if memory.Plan == rollout.Plan {
			report.State, report.Late, report.Reason, report.Message = memory.State, memory.Late, string(memory.Reason), memory.Message
			if !memory.StartedAt.IsZero() {
				report.StartedAt = second(memory.StartedAt)
			}
			if !memory.EndedAt.IsZero() {
				report.EndedAt = second(memory.EndedAt)
			}
			if memory.Reason == ReasonWaitingForWindow {
				report.State = v1alpha1.RolloutWaiting // it did not start
			}
		}
		if trouble := a.gates.troubles[rollout.Name]; trouble != "" && report.State == v1alpha1.RolloutWaiting {
			report.Reason, report.Message = string(ReasonGateRefused), trouble
		}
		reports = append(reports, report)
	}
	return reports
}
