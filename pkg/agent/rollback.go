package agent

import (
	"time"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// succeed returns the record of a version that comes after what is recorded: it remembers which version was good, and
// which one failed. Inventory and completeness are the caller's.
func succeed(recorded *Record, next Version) Record {
	record := Record{Bundle: next.Bundle, Generation: next.Generation}
	if recorded == nil {
		return record
	}
	print := fingerprint(&next.Bundle)
	if fingerprint(&recorded.Bundle) == print {
		record.Healthy, record.LastGood, record.Failed = recorded.Healthy, recorded.LastGood, recorded.Failed
		return record
	}
	if record.LastGood = recorded.LastGood; recorded.Healthy {
		record.LastGood = &Version{Bundle: recorded.Bundle, Generation: recorded.Generation}
	}
	if good := record.LastGood; good != nil && fingerprint(&good.Bundle) == print {
		record.Healthy, record.LastGood, record.Failed = true, nil, recorded.Failed // it returns
	}
	return record
}

// lastGood is the digest of the newest version that was ready; empty when there is none.
func (r *Record) lastGood() string {
	switch {
	case r == nil:
		return ""
	case r.Healthy:
		return r.Bundle.Digest
	case r.LastGood != nil:
		return r.LastGood.Bundle.Digest
	}
	return ""
}

// proven notes that all of a version was ready: a failure of the next one returns to it.
func (a *Agent) proven(one *unit) {
	if one.recorded == nil || one.recorded.Healthy || !one.recorded.Complete {
		return
	}
	record := *one.recorded
	record.Healthy, record.LastGood = true, nil
	a.note(one, record)
}

// rollBack decides whether a version that failed is given up for the last good one, and notes so durably. What to
// enforce instead is then decided as for everything that is held back: see [failedBefore].
func (a *Agent) rollBack(one *unit, reason Reason, message string, now time.Time) {
	if !returns(one) {
		return
	}
	record := *one.recorded
	good := record.LastGood
	if good == nil { // the new version could not even be begun
		good = &Version{Bundle: record.Bundle, Generation: record.Generation}
	}
	record.Failed = &Failure{
		Print: one.wantPrint, Digest: one.want.Digest, Generation: one.wantGeneration, To: good.Bundle.Digest,
		Reason: reason, Message: clip(message), At: now.UTC(),
	}
	a.log.Warn("bundle failed and is rolled back", "stage", StageHealth, "bundle", one.name, "digest", record.Failed.Digest,
		"to", record.Failed.To, "reason", reason, "message", message)
	a.note(one, record)
}

// returns reports whether there is something to return to, and whether that is asked for. A version that was ready once
// is not given up for what happens later.
func returns(one *unit) bool {
	if one.offered == nil || one.offered.OnFailure != v1alpha1.OnFailureRollback || one.behind() || one.recorded == nil {
		return false
	}
	if one.recordedPrint != one.wantPrint {
		return one.recorded.Healthy
	}
	return !one.recorded.Healthy && one.recorded.LastGood != nil
}

// note keeps what was learned about a bundle's version. A disk that is full is no reason to forget it now.
func (a *Agent) note(one *unit, record Record) {
	if err := a.cfg.State.SaveRecord(record); err != nil {
		a.log.Error("what was learned about a bundle is not on the disk; a restart forgets it", "stage", StageState, "bundle", one.name, "error", err)
	}
	one.record(&record)
}
