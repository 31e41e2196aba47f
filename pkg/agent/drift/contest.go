package drift

import (
	"slices"
	"time"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// An object that was repaired Repairs times within Window is contested: somebody undoes each repair. It is left alone
// for a pause that doubles each time, from Window to longest.
const (
	Repairs = 5
	Window  = 10 * time.Minute
	longest = 6 * time.Hour
)

// Contest remembers the repairs of one object. Its zero value is an object that was never repaired.
type Contest struct {
	repairs []time.Time // the last ones, oldest first
	pause   time.Duration
	until   time.Time
}

// Repaired notes a repair. Once contested, an object gets one repair after each pause, until one lasts for as long as
// the pause was.
func (c *Contest) Repaired(now time.Time) {
	c.repairs = slices.DeleteFunc(c.repairs, func(at time.Time) bool { return now.Sub(at) >= Window || at.After(now) })
	c.repairs = append(c.repairs, now)
	if now.Sub(c.until) > c.pause {
		c.pause = 0
	}
	if c.pause == 0 && len(c.repairs) < Repairs {
		return
	}
	c.pause = min(max(2*c.pause, Window), longest)
	c.until = now.Add(c.pause)
	c.repairs = nil
}

// Until is when the object may be repaired again; zero when it is not contested.
func (c *Contest) Until(now time.Time) time.Time {
	if now.Before(c.until) {
		return c.until
	}
	return time.Time{}
}

// Act is what is to be done about a verdict: a closed set.
type Act string

// Acts.
const (
	Leave   Act = "leave"   // nothing
	Report  Act = "report"  // say that it drifted
	Repair  Act = "repair"  // apply again
	Concede Act = "concede" // say that it is contested; try again at the time given
)

// Decide is pure: what is to be done, and when to try again if it is conceded.
func Decide(verdict Verdict, mode v1alpha1.DriftMode, contest *Contest, now time.Time) (Act, time.Time) {
	switch {
	case verdict.Kind == Foreign:
		return Report, time.Time{}
	case !verdict.Drifted() || mode == v1alpha1.DriftOff:
		return Leave, time.Time{}
	case mode == v1alpha1.DriftWarn:
		return Report, time.Time{}
	}
	if until := contest.Until(now); !until.IsZero() {
		return Concede, until
	}
	return Repair, time.Time{}
}
