package cli

import (
	"fmt"
	"strings"
	"testing"

	"pinnace.dev/pinnace/internal/demo"
	"pinnace.dev/pinnace/pkg/target/status"
)

// A table's line stays a line: the reason comes first, digests and long texts are cut; other forms show all.
func TestStatusTableIsBrief(t *testing.T) {
	long := "verify target registry.example/fleet/targets/ship-7@sha256:" + strings.Repeat("a1b2", 16) + ": " + strings.Repeat("no ", 100)
	summary := status.Summary{
		Counts:   map[status.Verdict]int{status.Refused: 1},
		Clusters: []status.Cluster{{Name: "ship-7", Verdict: status.Refused, Reason: "KeyNotTrusted", Message: long}},
		Problems: []status.Problem{{Verdict: status.Refused, Reason: "KeyNotTrusted", Message: long, Clusters: 1, Examples: []string{"ship-7"}}},
	}
	for _, format := range []string{"table", "wide"} {
		opts := statusOptions{}
		opts.output.format = format
		views, _, _, err := statusViews(summary, opts)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range views {
			row := strings.Join(v.rows[0], " | ")
			if brief := len(row) < 220 && strings.Contains(row, "ship-7@a1b2a1b2a1b2: "); brief != (format == "table") {
				t.Errorf("%s: %s", format, row)
			}
		}
		if row := strings.Join(views[1].rows[0], " | "); !strings.Contains(row, " | KeyNotTrusted: verify ") {
			t.Errorf("%s: the reason is not told first: %s", format, row)
		}
	}
}

// A table that is shown again and again doesn't scroll away, whatever is wrong.
func TestWatchedStatusIsBounded(t *testing.T) {
	summary := status.Summary{Counts: map[status.Verdict]int{status.Updating: 5000}}
	for i := range 5000 {
		summary.Clusters = append(summary.Clusters, status.Cluster{Name: fmt.Sprint("c", i), Verdict: status.Updating})
	}
	for _, watch := range []bool{true, false} {
		opts := statusOptions{watch: watch}
		opts.output.format = "table"
		views, _, _, err := statusViews(summary, opts)
		if err != nil {
			t.Fatal(err)
		}
		if rows := len(views[0].rows); rows < 5000 != watch {
			t.Errorf("watched: %v, %d rows", watch, rows)
		}
	}
}

func TestNotesFitTheTerminal(t *testing.T) {
	note := demo.Note{Text: strings.Repeat("twelve words ", 40)}
	lines := noteLines(note, 80)
	for _, line := range lines {
		if len(line) > 80 {
			t.Errorf("%d columns: %q", len(line), line)
		}
	}
	if got := strings.Fields(strings.Join(lines, " "))[1:]; len(got) != 80 {
		t.Errorf("%d words of 80: %q", len(got), lines)
	}
}
