package cli

import (
	"fmt"
	"strings"
	"testing"

	"pinnace.dev/pinnace/pkg/publish"
	"pinnace.dev/pinnace/pkg/publish/preview"
)

func TestDiffHeadline(t *testing.T) {
	some := []publish.Difference{{Bundle: "a"}}
	for want, result := range map[string]publish.DiffResult{
		"no difference: 1 cluster is as in publication 3 of fleet f":                         {Fleet: "f", Publication: 3, Clusters: 1},
		"no difference: 2 clusters are as in main of fleet f":                                {Fleet: "f", From: "main", Clusters: 2},
		"nothing is published at r/f yet: all of f is new to 2 clusters":                     {Fleet: "f", Registry: "r/f", Clusters: 2, Changed: 2, Differences: some},
		"1 distinct difference over 2 of 3 clusters, compared with publication 3 of fleet f": {Fleet: "f", Publication: 3, Clusters: 3, Changed: 2, Differences: some},
		"1 distinct difference over 2 of 3 clusters, compared with main of fleet f":          {Fleet: "f", From: "main", Clusters: 3, Changed: 2, Differences: some},
	} {
		if got := diffHeadline(result); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// A comment that is too long is refused by the forge as a whole.
func TestCommentsAreBounded(t *testing.T) {
	difference := func(name string, lines int) publish.Difference {
		return publish.Difference{
			Bundle: name, Action: preview.Changed, Clusters: []string{"east"},
			Objects: []preview.Change{{APIVersion: "v1", Kind: "ConfigMap", Name: name, Action: preview.Changed, Diff: strings.Repeat("+ line\n", lines)}},
		}
	}
	huge := publish.DiffResult{Fleet: "f", Publication: 1, Clusters: 1, Changed: 1, Differences: []publish.Difference{difference("huge", 50_000), difference("small", 1)}}
	got := diffMarkdown(huge)
	if len(got) > maxComment || !strings.Contains(got, "- huge changed on 1 cluster: east (too long") || !strings.Contains(got, "`v1 ConfigMap small`: changed") {
		t.Errorf("got %d characters:\n%.400s", len(got), got)
	}

	many := huge
	many.Differences = nil
	for i := range 3000 {
		many.Differences = append(many.Differences, difference(fmt.Sprintf("bundle-%d", i), 3))
	}
	got = diffMarkdown(many)
	if len(got) > maxComment+100 || !strings.Contains(got, " more differences; `pinnace diff` shows all.") {
		t.Errorf("got %d characters, ending in %q", len(got), got[len(got)-100:])
	}
}

func TestFencesHoldWhatIsInThem(t *testing.T) {
	if got, want := fenced("+ ```\n"), "````diff\n+ ```\n````\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestPaint(t *testing.T) {
	for line, want := range map[string]string{
		"+a": "\x1b[32m+a\x1b[m", "-a": "\x1b[31m-a\x1b[m", "@@ -1 +1 @@": "\x1b[36m@@ -1 +1 @@\x1b[m", " a": " a",
	} {
		if got := paint(line); got != want {
			t.Errorf("paint(%q) = %q, want %q", line, got, want)
		}
	}
}
