package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"
)

// resultVersion is the apiVersion of what -o json and -o yaml print.
const resultVersion = "cli.pinnace.dev/v1alpha1"

// resultMeta opens every machine-readable result.
type resultMeta struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
}

func newResultMeta(kind string) resultMeta { return resultMeta{APIVersion: resultVersion, Kind: kind} }

// view is a result in all forms that -o knows.
type view struct {
	// data is printed by json and yaml.
	data any
	// columns and rows are printed by table and wide; wide columns by wide only.
	columns []column
	rows    [][]string
	// names is printed by name.
	names []string
	// footer follows the table.
	footer string
}

type column struct {
	name string
	wide bool
}

// columns makes columns of names; one that begins with + is wide.
func columns(names ...string) []column {
	out := make([]column, len(names))
	for i, name := range names {
		wide := strings.HasPrefix(name, "+")
		out[i] = column{name: strings.TrimPrefix(name, "+"), wide: wide}
	}
	return out
}

// output is the -o flag.
type output struct{ format string }

var outputFormats = []string{"table", "wide", "json", "yaml", "name"}

func (o *output) register(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&o.format, "output", "o", "table", "output format: "+strings.Join(outputFormats, ", "))
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(outputFormats, cobra.ShellCompDirectiveNoFileComp))
}

// check refuses an unknown format before any work is done.
func (o *output) check() error {
	for _, format := range outputFormats {
		if o.format == format {
			return nil
		}
	}
	return usagef("--output %q is not known; use one of %s", o.format, strings.Join(outputFormats, ", "))
}

func (o *output) print(w io.Writer, v view) error {
	switch o.format {
	case "json":
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		encoder.SetEscapeHTML(false)
		return encoder.Encode(v.data)
	case "yaml":
		data, err := yaml.Marshal(v.data)
		if err != nil {
			return fmt.Errorf("print result: %w", err)
		}
		_, err = w.Write(data)
		return err
	case "name":
		for _, name := range v.names {
			if _, err := fmt.Fprintln(w, name); err != nil {
				return err
			}
		}
		return nil
	}
	return printTable(w, v, o.format == "wide")
}

// printAll prints several tables one below the other; the first one's data is the result of all.
func (o *output) printAll(w io.Writer, views []view) error {
	for i, v := range views {
		tables := o.format == "table" || o.format == "wide"
		if o.format == "name" && len(v.names) == 0 {
			continue
		}
		if i > 0 && tables {
			if _, err := fmt.Fprintln(w); err != nil {
				return err
			}
		}
		if err := o.print(w, v); err != nil || !tables {
			return err
		}
	}
	return nil
}

func printTable(w io.Writer, v view, wide bool) error {
	table := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	line := func(cells []string) {
		shown := make([]string, 0, len(cells))
		for i, cell := range cells {
			if wide || !v.columns[i].wide {
				shown = append(shown, cell)
			}
		}
		// A cell of foreign text must not break the table or steer the terminal.
		for i, cell := range shown {
			if shown[i] = strings.Map(printable, cell); shown[i] == "" {
				shown[i] = "-"
			}
		}
		_, _ = fmt.Fprintln(table, strings.Join(shown, "\t")) // kept in memory until Flush
	}
	headers := make([]string, len(v.columns))
	for i, column := range v.columns {
		headers[i] = column.name
	}
	if len(v.rows) > 0 {
		line(headers)
	}
	for _, row := range v.rows {
		line(row)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if v.footer != "" {
		_, err := fmt.Fprintln(w, v.footer)
		return err
	}
	return nil
}

func printable(r rune) rune {
	if r < ' ' || r == 0x7f {
		return ' '
	}
	return r
}

// shortDigest is enough of a digest for people.
func shortDigest(digest string) string {
	const shown = 12
	hex := strings.TrimPrefix(digest, "sha256:")
	if len(hex) > shown {
		return hex[:shown]
	}
	return hex
}
