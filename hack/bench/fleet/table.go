package main

import (
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"

	"pinnace.dev/pinnace/hack/bench/figures"
)

// table gathers the figures with what each of them says, for people.
type table struct{ rows [][3]string }

// report prints a figure's line, and keeps it for the table.
func (t *table) report(name string, value float64, unit, what string) {
	figures.Report(name, value, unit)
	t.rows = append(t.rows, [3]string{name, strconv.FormatFloat(value, 'g', 4, 64) + " " + unit, what})
}

func (t *table) print(w io.Writer) error {
	out := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	_, _ = fmt.Fprintln(out) // Flush tells
	for _, row := range t.rows {
		_, _ = fmt.Fprintf(out, "%s\t%s\t%s\n", row[0], row[1], row[2])
	}
	return out.Flush()
}
