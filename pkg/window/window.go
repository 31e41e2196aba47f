// Package window says when maintenance windows are open: spans of local time, by cron expression, duration and time
// zone, within which new versions may come. It is pure; the clock is passed in.
//
// A list of windows is open when one of them is; [Open] takes several lists, such as a cluster's and a bundle's, and is
// open when all of them are.
package window

import (
	"errors"
	"fmt"
	"strings"
	"time"
	_ "time/tzdata" // small nodes have no time zones on their disks

	"github.com/robfig/cron/v3"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// MaxDuration stops windows that never close: what is open for longer is none.
const MaxDuration = 31 * 24 * time.Hour

// parser reads the five fields; no @every, which depends on when it was read.
var parser = cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow)

// someDay is where the search for a first start begins.
var someDay = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

// Check finds what is wrong with a window; the error ends with what mends it.
func Check(window v1alpha1.Window) error {
	_, err := compile(window)
	return err
}

// span is a window made ready.
type span struct {
	schedule cron.Schedule
	duration time.Duration
	zone     *time.Location
}

func compile(window v1alpha1.Window) (span, error) {
	if strings.Contains(window.Cron, "TZ=") {
		return span{}, fmt.Errorf("cron %q names a time zone; set timeZone instead", window.Cron)
	}
	schedule, err := parser.Parse(window.Cron)
	if err != nil {
		return span{}, fmt.Errorf("cron %q: %w; write minute, hour, day of month, month and day of week, such as 0 22 * * 1-5", window.Cron, err)
	}
	if schedule.Next(someDay).IsZero() {
		return span{}, fmt.Errorf("cron %q never comes; correct its day and month", window.Cron)
	}
	duration := window.Duration.Duration
	if duration <= 0 || duration > MaxDuration {
		return span{}, fmt.Errorf("duration %s is not between 0 and %s; set one, such as 6h", duration, MaxDuration)
	}
	if window.TimeZone == "Local" {
		return span{}, errors.New(`timeZone "Local" differs from node to node; name one, such as Europe/Berlin`)
	}
	zone, err := time.LoadLocation(window.TimeZone)
	if err != nil {
		return span{}, fmt.Errorf("timeZone %q is not known; name one, such as Europe/Berlin", window.TimeZone)
	}
	return span{schedule, duration, zone}, nil
}

// Open reports whether each list has an open window, and if not, when all of them will next be open; the zero time when
// that isn't within two years. An empty list is always open. A window that Check refuses is never open.
func Open(now time.Time, lists ...[]v1alpha1.Window) (open bool, next time.Time) {
	var compiled [][]span
	for _, list := range lists {
		if len(list) == 0 {
			continue
		}
		var spans []span
		for _, window := range list {
			if one, err := compile(window); err == nil {
				spans = append(spans, one)
			}
		}
		compiled = append(compiled, spans)
	}
	horizon := now.AddDate(2, 0, 0)
	for at := now; !at.After(horizon); {
		later := at
		for _, spans := range compiled {
			if opens, ok := opening(spans, at); !ok {
				return false, time.Time{}
			} else if opens.After(later) {
				later = opens
			}
		}
		if later.Equal(at) {
			return at.Equal(now), at
		}
		at = later
	}
	return false, time.Time{}
}

// opening returns the first time from at on at which one of the spans is open.
func opening(spans []span, at time.Time) (first time.Time, ok bool) {
	for _, one := range spans {
		opens := one.opening(at)
		if !opens.IsZero() && (!ok || opens.Before(first)) {
			first, ok = opens, true
		}
	}
	return first, ok
}

// slack is more than any zone ever shifted its clocks by.
const slack = 3 * time.Hour

// opening returns at when the window is open then, or when it opens next. Starts are found on the clock on the wall, so
// that one that falls into the hour which is left out in spring is not lost; the duration is real time.
func (s span) opening(at time.Time) time.Time {
	wall := onWall(at.Add(-s.duration).In(s.zone)).Add(-slack)
	for {
		if wall = s.schedule.Next(wall); wall.IsZero() {
			return time.Time{}
		}
		start := first(wall, s.zone)
		switch {
		case start.After(at):
			return start
		case at.Before(start.Add(s.duration)):
			return at
		}
	}
}

// first is when the clock in zone shows wall; the first of both times in the hour that comes twice in autumn.
func first(wall time.Time, zone *time.Location) time.Time {
	start := time.Date(wall.Year(), wall.Month(), wall.Day(), wall.Hour(), wall.Minute(), 0, 0, zone)
	for _, shift := range []time.Duration{30 * time.Minute, time.Hour, 2 * time.Hour} {
		if earlier := start.Add(-shift); onWall(earlier).Equal(wall) {
			return earlier
		}
	}
	return start
}

// onWall is what a clock in the time's zone shows, as if it were UTC.
func onWall(t time.Time) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), 0, time.UTC)
}
