package cli

import (
	"fmt"
	"strings"

	"pinnace.dev/pinnace/pkg/publish"
	"pinnace.dev/pinnace/pkg/publish/preview"
)

// diffText is a difference for people, coloured where they sit at a terminal.
func diffText(result publish.DiffResult, colour bool) string {
	var b strings.Builder
	b.WriteString(diffHeadline(result) + "\n")
	for _, line := range diffClusters(result) {
		b.WriteString(line + "\n")
	}
	for i, difference := range result.Differences {
		fmt.Fprintf(&b, "\n%d. %s\n", i+1, diffTitle(difference))
		for _, fact := range diffFacts(difference) {
			b.WriteString("   " + fact + "\n")
		}
		if difference.Options != "" {
			b.WriteString("   in the target:\n" + indent(difference.Options, colour))
		}
		for _, object := range difference.Objects {
			fmt.Fprintf(&b, "   %s: %s\n", object, object.Action)
			b.WriteString(indent(object.Diff, colour))
		}
	}
	return b.String()
}

// Bounds of a comment on GitHub, which holds 65,536 characters: for everything, and for differences with their objects.
const (
	maxComment     = 64_000
	maxDifferences = 56_000
)

// diffMarkdown is a difference as a comment for a pull request. What doesn't fit into one is named only, or counted.
func diffMarkdown(result publish.DiffResult) string {
	var b strings.Builder
	fmt.Fprintf(&b, "### %s\n\n", escapeMarkdown(diffHeadline(result)))
	for _, line := range diffClusters(result) {
		fmt.Fprintf(&b, "- %s\n", escapeMarkdown(line))
	}
	for i, difference := range result.Differences {
		part := differenceMarkdown(difference)
		if b.Len()+len(part) > maxDifferences {
			part = fmt.Sprintf("\n- %s (too long for a comment; `pinnace diff` shows it)\n", escapeMarkdown(diffTitle(difference)))
		}
		if b.Len()+len(part) > maxComment {
			fmt.Fprintf(&b, "\n%s; `pinnace diff` shows all.\n", count(len(result.Differences)-i, "more difference"))
			break
		}
		b.WriteString(part)
	}
	return b.String()
}

func differenceMarkdown(difference publish.Difference) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n<details><summary>%s</summary>\n\n", escapeMarkdown(diffTitle(difference)))
	for _, fact := range diffFacts(difference) {
		fmt.Fprintf(&b, "- %s\n", escapeMarkdown(fact))
	}
	if difference.Options != "" {
		b.WriteString("\nIn the target:\n\n" + fenced(difference.Options))
	}
	for _, object := range difference.Objects {
		fmt.Fprintf(&b, "\n`%s`: %s\n\n", strings.ReplaceAll(object.String(), "`", "'"), object.Action)
		if object.Diff != "" {
			b.WriteString(fenced(object.Diff))
		}
	}
	b.WriteString("\n</details>\n")
	return b.String()
}

// fenced is a block of code whose fence is longer than any in the text.
func fenced(text string) string {
	fence := "```"
	for strings.Contains(text, fence) {
		fence += "`"
	}
	return fence + "diff\n" + strings.TrimSuffix(text, "\n") + "\n" + fence + "\n"
}

var markdownEscapes = strings.NewReplacer("<", "&lt;", ">", "&gt;", "&", "&amp;", "*", `\*`, "_", `\_`, "`", "\\`", "[", `\[`, "@", "@\u200b")

func escapeMarkdown(text string) string { return markdownEscapes.Replace(text) }

func diffHeadline(result publish.DiffResult) string {
	before := fmt.Sprintf("publication %d of fleet %s", result.Publication, result.Fleet)
	if result.From != "" {
		before = fmt.Sprintf("%s of fleet %s", result.From, result.Fleet)
	}
	switch {
	case !result.Differs():
		return fmt.Sprintf("no difference: %s as in %s", clustersAre(result.Clusters), before)
	case result.From == "" && result.Publication == 0:
		return fmt.Sprintf("nothing is published at %s yet: all of %s is new to %s", result.Registry, result.Fleet, count(result.Clusters, "cluster"))
	}
	return fmt.Sprintf("%s over %d of %s, compared with %s",
		count(len(result.Differences), "distinct difference"), result.Changed, count(result.Clusters, "cluster"), before)
}

func clustersAre(n int) string {
	if n == 1 {
		return "1 cluster is"
	}
	return fmt.Sprintf("%d clusters are", n)
}

// diffClusters speaks of clusters as a whole.
func diffClusters(result publish.DiffResult) []string {
	var lines []string
	if len(result.Joined) > 0 && (result.Publication > 0 || result.From != "") {
		lines = append(lines, "new: "+someOf(result.Joined))
	}
	if len(result.Left) > 0 {
		lines = append(lines, "no longer in the fleet, and keep what they run: "+someOf(result.Left))
	}
	if len(result.Refused) > 0 {
		lines = append(lines, "lose more than half of their bundles, which pinnace publish refuses without --allow-prune: "+someOf(result.Refused))
	}
	for _, interval := range result.Intervals {
		lines = append(lines, fmt.Sprintf("agents poll every %s instead of %s: %s", interval.After, interval.Before, someOf(interval.Clusters)))
	}
	return lines
}

func diffTitle(d publish.Difference) string {
	return fmt.Sprintf("%s %s on %s: %s", d.Bundle, d.Action, count(len(d.Clusters), "cluster"), someOf(d.Clusters))
}

func diffFacts(d publish.Difference) []string {
	var facts []string
	switch {
	case d.Action == preview.Removed:
		facts = append(facts, "its objects are deleted from the cluster, where the bundle's rules of pruning allow it")
	case d.Action == preview.Changed && d.Before != d.After:
		facts = append(facts, fmt.Sprintf("artifact %s becomes %s", shortDigest(d.Before), shortDigest(d.After)))
	}
	if d.Varied {
		facts = append(facts, fmt.Sprintf("values differ by cluster; shown as %s gets them", d.Clusters[0]))
	}
	if d.Note != "" {
		facts = append(facts, oneLine(d.Note))
	}
	return facts
}

// someOf names the first few.
func someOf(names []string) string {
	const shown = 5
	if len(names) <= shown+1 {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:shown], ", "), len(names)-shown)
}

// indent sets a unified difference below its title.
func indent(text string, colour bool) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if colour {
			line = paint(line)
		}
		b.WriteString("   " + line + "\n")
	}
	return b.String()
}

// paint colours a line as git diff does.
func paint(line string) string {
	const red, green, cyan, plain = "\x1b[31m", "\x1b[32m", "\x1b[36m", "\x1b[m"
	switch {
	case strings.HasPrefix(line, "-"):
		return red + line + plain
	case strings.HasPrefix(line, "+"):
		return green + line + plain
	case strings.HasPrefix(line, "@@"):
		return cyan + line + plain
	}
	return line
}
