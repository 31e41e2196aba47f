package cli

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"pinnace.dev/pinnace/pkg/target/status"
)

// What tables leave out so that a line stays a line: -o wide, json and yaml, and pinnace status CLUSTER, show it all.

// manyReady is how many ready clusters a table shows.
const manyReady = 20

// fewReady leaves out most of many clusters that are ready; they come last.
func fewReady(v *view, summary status.Summary) {
	if extra := summary.Counts[status.Ready] - manyReady; extra > manyReady/2 {
		v.rows = v.rows[:len(v.rows)-extra]
		v.footer = fmt.Sprintf("… and %d more that are ready; --all shows them", extra)
	}
}

// fewRows leaves out all but the first rows: a table that is shown again and again fits a terminal.
func fewRows(v *view) {
	if extra := len(v.rows) - manyReady; extra > manyReady/2 {
		v.rows = v.rows[:manyReady]
		v.footer = fmt.Sprintf("… and %d more clusters; --all shows them", extra)
	}
}

// briefMessage bounds a message in a table.
const briefMessage = 100

// briefMessages shortens the column MESSAGE.
func briefMessages(views []view) {
	for i := range views {
		at := slices.IndexFunc(views[i].columns, func(c column) bool { return c.name == "MESSAGE" })
		if at < 0 {
			continue
		}
		for _, row := range views[i].rows {
			row[at] = cut(shortDigests(row[at]), briefMessage)
		}
	}
}

var longDigest = regexp.MustCompile(`sha256:([0-9a-f]{12})[0-9a-f]{52}`)

// shortDigests shortens every digest of a text as [shortDigest] does.
func shortDigests(text string) string { return longDigest.ReplaceAllString(text, "$1") }

// refusal is a cluster's message; that of a refusal tells the reason first.
func refusal(cluster status.Cluster) string {
	if cluster.Verdict != status.Refused || strings.HasPrefix(cluster.Message, cluster.Reason) {
		return cluster.Message
	}
	return cluster.Reason + ": " + cluster.Message
}
