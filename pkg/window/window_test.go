package window_test

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/window"
)

func of(cron, duration, zone string) v1alpha1.Window {
	parsed, err := time.ParseDuration(duration)
	if err != nil {
		panic(err)
	}
	return v1alpha1.Window{Cron: cron, Duration: metav1.Duration{Duration: parsed}, TimeZone: zone}
}

func TestOpen(t *testing.T) {
	t.Parallel()
	night := of("0 22 * * 1-5", "6h", "Europe/Berlin") // Monday to Friday
	gap := of("30 2 * * *", "1h", "Europe/Berlin")
	weekend := of("0 0 * * 6", "48h", "Europe/Berlin")
	tests := []struct {
		name  string
		now   string
		lists [][]v1alpha1.Window
		want  string // "open", when it opens next, or "never"
	}{
		{"no window", "2026-11-23T12:00:00Z", nil, "open"},
		{"empty lists", "2026-11-23T12:00:00Z", [][]v1alpha1.Window{nil, {}}, "open"},
		{"before", "2026-11-23T20:59:59Z", [][]v1alpha1.Window{{night}}, "2026-11-23T21:00:00Z"},
		{"at its start", "2026-11-23T21:00:00Z", [][]v1alpha1.Window{{night}}, "open"},
		{"past midnight", "2026-11-24T02:59:59Z", [][]v1alpha1.Window{{night}}, "open"},
		{"at its end", "2026-11-24T03:00:00Z", [][]v1alpha1.Window{{night}}, "2026-11-24T21:00:00Z"},
		{"over the weekend", "2026-11-28T12:00:00Z", [][]v1alpha1.Window{{night}}, "2026-11-30T21:00:00Z"},
		{"Friday's reaches into Saturday", "2026-11-28T01:00:00Z", [][]v1alpha1.Window{{night}}, "open"},
		{"either of two", "2026-11-28T12:00:00Z", [][]v1alpha1.Window{{night, weekend}}, "open"},
		{"both of two lists", "2026-11-28T12:00:00Z", [][]v1alpha1.Window{{night}, {weekend}}, "2026-12-04T23:00:00Z"},
		{"both, and open", "2026-11-28T01:00:00Z", [][]v1alpha1.Window{{night}, {weekend}}, "open"},
		{"summer time", "2026-07-06T19:59:00Z", [][]v1alpha1.Window{{night}}, "2026-07-06T20:00:00Z"},
		{"the hour that is left out in spring", "2026-03-29T00:00:00Z", [][]v1alpha1.Window{{gap}}, "2026-03-29T01:30:00Z"},
		{"in the hour that is left out", "2026-03-29T01:45:00Z", [][]v1alpha1.Window{{gap}}, "open"},
		{"the day after it", "2026-03-29T12:00:00Z", [][]v1alpha1.Window{{gap}}, "2026-03-30T00:30:00Z"},
		{"the hour that comes twice in autumn: the first one", "2026-10-25T00:45:00Z", [][]v1alpha1.Window{{gap}}, "open"},
		{"the hour that comes twice in autumn: not again", "2026-10-25T01:45:00Z", [][]v1alpha1.Window{{gap}}, "2026-10-26T01:30:00Z"},
		{"six hours are six hours in autumn", "2026-10-25T02:59:00Z", [][]v1alpha1.Window{{of("0 22 * * *", "6h", "Europe/Berlin")}}, "2026-10-25T21:00:00Z"},
		{"always", "2026-11-23T12:00:00Z", [][]v1alpha1.Window{{of("* * * * *", "1m", "")}}, "open"},
		{"never together", "2026-11-23T12:00:00Z", [][]v1alpha1.Window{{of("0 1 * * *", "1h", "")}, {of("0 3 * * *", "1h", "")}}, "never"},
		{"wrong", "2026-11-23T12:00:00Z", [][]v1alpha1.Window{{of("nonsense", "1h", "")}}, "never"},
		{"a leap day", "2026-11-23T12:00:00Z", [][]v1alpha1.Window{{of("0 0 29 2 *", "1h", "")}}, "2028-02-29T00:00:00Z"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			now, err := time.Parse(time.RFC3339, test.now)
			if err != nil {
				t.Fatal(err)
			}
			open, next := window.Open(now, test.lists...)
			got := next.UTC().Format(time.RFC3339)
			switch {
			case open:
				got = "open"
			case next.IsZero():
				got = "never"
			}
			if got != test.want {
				t.Errorf("Open(%s) = %s, want %s", test.now, got, test.want)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	tests := []struct {
		window v1alpha1.Window
		want   string // part of the error; none when empty
	}{
		{of("0 22 * * 1-5", "6h", "Europe/Berlin"), ""},
		{of("*/15 * * * *", "5m", ""), ""},
		{of("0 22 * *", "6h", ""), "write minute, hour"},
		{of("0 25 * * *", "6h", ""), "cron"},
		{of("@every 1h", "6h", ""), "cron"},
		{of("TZ=UTC 0 22 * * *", "6h", ""), "set timeZone instead"},
		{of("0 0 30 2 *", "6h", ""), "never comes"},
		{of("0 22 * * *", "0s", ""), "duration"},
		{of("0 22 * * *", "-1h", ""), "duration"},
		{of("0 22 * * *", "1000h", ""), "duration"},
		{of("0 22 * * *", "6h", "Berlin"), `"Berlin" is not known`},
		{of("0 22 * * *", "6h", "Local"), "differs from node to node"},
		{of("0 22 * * *", "6h", "../../etc/passwd"), "is not known"},
	}
	for _, test := range tests {
		t.Run(test.window.Cron+" "+test.window.TimeZone, func(t *testing.T) {
			t.Parallel()
			err := window.Check(test.window)
			switch {
			case test.want == "" && err != nil:
				t.Errorf("Check: %v", err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("Check: %v, want %q in it", err, test.want)
			}
		})
	}
}

func FuzzOpen(f *testing.F) {
	f.Add("0 22 * * 1-5", int64(6*time.Hour), "Europe/Berlin", int64(1_700_000_000))
	f.Add("* * * * *", int64(window.MaxDuration), "Australia/Lord_Howe", int64(1_700_000_000))
	f.Fuzz(func(t *testing.T, cron string, duration int64, zone string, at int64) {
		one := v1alpha1.Window{Cron: cron, Duration: metav1.Duration{Duration: time.Duration(duration)}, TimeZone: zone}
		if window.Check(one) != nil {
			return
		}
		now := time.Unix(at%4e9, 0)
		open, next := window.Open(now, []v1alpha1.Window{one})
		if open || next.IsZero() {
			return
		}
		if !next.After(now) {
			t.Fatalf("%+v is closed at %s and opens at %s", one, now, next)
		}
		if open, _ := window.Open(next, []v1alpha1.Window{one}); !open {
			t.Fatalf("%+v is to open at %s and doesn't", one, next)
		}
	})
}
