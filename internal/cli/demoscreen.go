package cli

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/term"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/internal/demo"
	"pinnace.dev/pinnace/pkg/publish/gates"
	"pinnace.dev/pinnace/pkg/target/status"
)

// terminalSize is that of the terminal, or of an old one.
func terminalSize(w io.Writer) (width, height int) {
	if file, ok := w.(*os.File); ok {
		if width, height, err := term.GetSize(int(file.Fd())); err == nil && width > 0 && height > 0 {
			return width, height
		}
	}
	return 80, 24
}

// demoLines are what the screen shows: the verdict, rollouts, clusters as far as there is room, and what happened.
func demoLines(snapshot demo.Snapshot, d *demo.Demo, width, height int) []string {
	head := []string{
		bold(fmt.Sprintf("Pinnace demo · %d clusters · registry %s", len(d.Agents), d.Prefix)), "",
		verdictOf(snapshot),
	}
	if snapshot.Work.Stage != "" {
		head = append(head, "  "+workLine(snapshot.Work, time.Now()))
	}
	head = append(head, "")
	for _, rollout := range snapshot.Rollouts {
		head = append(head, ladderLine(rollout))
		if message := rollout.Gate.Message; message != "" {
			head = append(head, "  "+message)
		}
	}
	if len(snapshot.Rollouts) > 0 {
		head = append(head, "")
	}
	var news []string
	const shownNotes = 6
	for _, note := range snapshot.Notes[max(0, len(snapshot.Notes)-shownNotes):] {
		news = append(news, noteLines(note, width)...)
	}
	foot := append(append([]string{""}, news...), "",
		"In a second terminal: pinnace demo break clock, tamper "+d.Agents[0].Name+", offline "+d.Agents[len(d.Agents)-1].Name+", or mend; or",
		"  pinnace status --plain-http --registry "+d.Prefix+" --key "+d.PublicKey,
		"Ctrl-C ends it.")
	room := max(2, height-len(head)-len(foot)-1)
	lines := append(append(head, clusterLines(snapshot.Summary, room)...), foot...)
	for i := range lines {
		lines[i] = cut(lines[i], width)
	}
	return lines[:min(len(lines), height)]
}

// noteLines are a note with its time, in lines that fit.
func noteLines(note demo.Note, width int) []string {
	const indent = "          " // as wide as the time
	lines := []string{note.At.Format("15:04:05") + " "}
	for _, word := range strings.Fields(note.Text) {
		last := len(lines) - 1
		if utf8.RuneCountInString(lines[last])+1+utf8.RuneCountInString(word) > width && len(lines[last]) > len(indent) {
			lines, last = append(lines, indent[1:]), last+1
		}
		lines[last] += " " + word
	}
	return lines
}

// workLine says how far something is that takes a while, and when it will be over.
func workLine(work demo.Work, now time.Time) string {
	line := pace{name: work.Stage, started: work.Started}.line(work.Event, now)
	if work.Stage == demo.StageAgents {
		return line
	}
	return "publishing: " + line
}

// mentionAge is from when on it is said how old the picture is.
const mentionAge = 5 * time.Second

func verdictOf(snapshot demo.Snapshot) string {
	text := snapshot.Summary.Verdict
	switch {
	case text == "":
		return "◎ the fleet is being published"
	case snapshot.Summary.Ready:
		text = "✔ " + text
	default:
		text = "◎ " + text
	}
	if age := time.Since(snapshot.At); age > mentionAge && !snapshot.At.IsZero() {
		text += fmt.Sprintf(", as read %s ago", age.Round(time.Second))
	}
	if snapshot.Converged > 0 {
		how := "everywhere"
		if slices.ContainsFunc(snapshot.Rollouts, func(r gates.Result) bool { return r.Gate.Phase == v1alpha1.RolloutAborted }) {
			how = "aborted, and settled"
		}
		text += fmt.Sprintf("   (publication %d, %s after %s)", snapshot.Summary.Publication, how, snapshot.Converged.Round(100*time.Millisecond))
	}
	return text
}

// ladderLine is a rollout in one line: its steps with how many are done.
func ladderLine(result gates.Result) string {
	var b strings.Builder
	fmt.Fprintf(&b, "rollout %s, plan %d: %s", result.Plan.Name, result.Plan.Plan, result.Gate.Phase)
	for i, step := range result.Plan.Steps {
		count := result.Steps[i]
		if count.Clusters == 0 {
			continue
		}
		mark := " "
		switch {
		case count.Failed > 0:
			mark = "✗"
		case count.Seen() > 0 && count.Done == count.Seen():
			mark = "✔"
		case i == result.Gate.Step:
			mark = "►"
		}
		fmt.Fprintf(&b, "   %s %s %d/%d", mark, step.Name, count.Done, count.Clusters)
	}
	return b.String()
}

// clusterLines are the table of clusters, worst first, as far as there is room.
func clusterLines(summary status.Summary, room int) []string {
	if len(summary.Clusters) == 0 {
		return nil
	}
	v := clustersView(summary)
	left := len(v.rows)
	if more := left - (room - 2); left > room-1 && more > 0 {
		v.rows = v.rows[:max(0, room-2)]
		v.footer = fmt.Sprintf("… and %d more clusters", left-len(v.rows))
	}
	var out bytes.Buffer
	if err := printTable(&out, v, false); err != nil {
		return nil
	}
	return strings.Split(strings.TrimRight(out.String(), "\n"), "\n")
}

func bold(text string) string {
	if os.Getenv("NO_COLOR") != "" {
		return text
	}
	return "\x1b[1m" + text + "\x1b[0m"
}

// cut shortens a line to the terminal's width.
func cut(line string, width int) string {
	if strings.HasPrefix(line, "\x1b") || utf8.RuneCountInString(line) <= width {
		return line
	}
	runes := []rune(line)
	return string(runes[:max(0, width-1)]) + "…"
}
