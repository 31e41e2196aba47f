package fleetyaml

import (
	"regexp"
	"strings"
)

const (
	leftDelimiter  = "${"
	rightDelimiter = '}'

	// clusterLabelPrefix begins a value that Fleet replaces by the label whose name follows, by nothing when the
	// cluster doesn't have it.
	clusterLabelPrefix = "global.fleet.clusterLabels."
)

// variables are what Fleet's templates see, and our names for it.
var variables = map[string]string{
	"ClusterName":        "cluster.name",
	"ClusterLabels":      "cluster.labels",
	"ClusterAnnotations": "cluster.annotations",
	"ClusterValues":      "cluster.values",
}

// variable is a field of the dot or of $, not of something else.
var variable = regexp.MustCompile(`(^|[^\w.)\]])\.(Cluster\w+)`)

// escape makes text come out of a template as it is.
func escape(text string) string {
	return strings.ReplaceAll(text, leftDelimiter, leftDelimiter+`"`+leftDelimiter+`"}`)
}

// rewriteText names in Fleet's templates what Pinnace calls otherwise. Literals stay as they are.
func (c *converter) rewriteText(text, field string) string {
	var out strings.Builder
	for {
		before, after, found := strings.Cut(text, leftDelimiter)
		out.WriteString(before)
		if !found {
			return out.String()
		}
		out.WriteString(leftDelimiter)
		end := c.rewriteAction(&out, after, field)
		text = after[end:]
	}
}

// rewriteAction writes the code up to the right delimiter and returns where it ends.
func (c *converter) rewriteAction(out *strings.Builder, code, field string) int {
	start := 0
	flush := func(end int) {
		out.WriteString(variable.ReplaceAllStringFunc(code[start:end], func(found string) string {
			name := found[strings.LastIndex(found, ".")+1:]
			if ours, ok := variables[name]; ok {
				return strings.TrimSuffix(found, name) + ours
			}
			c.refuse(field, "templates see no .%s; there are .ClusterName, .ClusterLabels, .ClusterAnnotations and .ClusterValues", name)
			return found
		}))
		start = end
	}
	for i := 0; i < len(code); i++ {
		switch code[i] {
		case rightDelimiter:
			flush(i)
			return i
		case '"', '\'', '`':
			flush(i)
			i = literalEnd(code, i)
			out.WriteString(code[start:min(i+1, len(code))])
			start = min(i+1, len(code))
		}
	}
	flush(len(code))
	return len(code)
}

// literalEnd returns the index of the closing quote of the literal that begins at i; the length when there is none.
func literalEnd(code string, i int) int {
	quote := code[i]
	for i++; i < len(code); i++ {
		switch {
		case code[i] == '\\' && quote != '`':
			i++
		case code[i] == quote:
			return i
		}
	}
	return len(code)
}
