package transfer

import (
	"fmt"
	"strings"
	"time"
)

// Window is a span of each day, in local time. It may reach over midnight; its zero value is always open.
type Window struct {
	from, to time.Duration // since midnight
	set      bool
}

// ParseWindow reads "22:00-06:00".
func ParseWindow(text string) (Window, error) {
	if text == "" {
		return Window{}, nil
	}
	first, second, ok := strings.Cut(text, "-")
	from, err := timeOfDay(first)
	if err == nil && ok {
		var to time.Duration
		if to, err = timeOfDay(second); err == nil && from != to {
			return Window{from: from, to: to, set: true}, nil
		}
	}
	return Window{}, fmt.Errorf("window %q: write two different times of the day, such as 22:00-06:00", text)
}

func timeOfDay(text string) (time.Duration, error) {
	at, err := time.Parse("15:04", strings.TrimSpace(text))
	return time.Duration(at.Hour())*time.Hour + time.Duration(at.Minute())*time.Minute, err
}

// Wait is how long until the window is open; zero when it is.
func (w Window) Wait(now time.Time) time.Duration {
	if !w.set {
		return 0
	}
	midnight := time.Date(now.Year(), now.Month(), now.Day(), 0, 0, 0, 0, now.Location())
	since := now.Sub(midnight)
	open := since >= w.from && since < w.to
	if w.from > w.to {
		open = since >= w.from || since < w.to
	}
	if open {
		return 0
	}
	if since < w.from {
		return w.from - since
	}
	return w.from + 24*time.Hour - since
}

func (w Window) String() string {
	if !w.set {
		return "always"
	}
	clock := func(d time.Duration) string { return time.Time{}.Add(d).Format("15:04") }
	return clock(w.from) + "-" + clock(w.to)
}
