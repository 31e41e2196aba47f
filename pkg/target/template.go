package target

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"text/template"
	"text/template/parse"

	"github.com/Masterminds/sprig/v3"

	"pinnace.dev/pinnace/api/v1alpha1"
)

const (
	leftDelimiter  = "${"
	rightDelimiter = "}"

	// maxExpansion stops a template that grows without end.
	maxExpansion = 1 << 20
)

// templates expands ${ } in values. Functions that read the environment, the clock, the network or randomness are not
// there, so that the same fleet gives the same target everywhere. A value that is one ${ } keeps the type of what it
// yields: numbers, booleans, lists and maps. It may be used concurrently.
type templates struct{ parsed sync.Map }

// compiled is one parsed string.
type compiled struct {
	text *template.Template
	// value is the same template when it is a single expression; it yields a value, not text.
	value bool
}

// result catches the value of a single expression.
type result struct{ value any }

const captureFunction = "pinnace_value"

func (t *templates) compile(text string) (*compiled, error) {
	if cached, ok := t.parsed.Load(text); ok {
		return cached.(*compiled), nil
	}
	out := &compiled{}
	if expression, ok := singleExpression(text); ok {
		parsed, err := newTemplate().Parse(leftDelimiter + " " + captureFunction + " (" + expression + ") " + rightDelimiter)
		if err == nil {
			out.text, out.value = parsed, true
		}
	}
	if out.text == nil {
		parsed, err := newTemplate().Parse(text)
		if err != nil {
			return nil, err
		}
		out.text = parsed
	}
	if usesDefault(out.text.Root) {
		out.text.Option("missingkey=zero")
	}
	t.parsed.Store(text, out)
	return out, nil
}

func newTemplate() *template.Template {
	funcs := sprig.HermeticTxtFuncMap()
	funcs[captureFunction] = func(any) string { return "" }
	return template.New("value").Delims(leftDelimiter, rightDelimiter).Option("missingkey=error").Funcs(funcs)
}

// singleExpression returns what stands between the delimiters when the whole text is one ${ }.
func singleExpression(text string) (string, bool) {
	inner, ok := strings.CutPrefix(strings.TrimSpace(text), leftDelimiter)
	if !ok {
		return "", false
	}
	inner, ok = strings.CutSuffix(inner, rightDelimiter)
	if !ok || strings.Contains(inner, leftDelimiter) || strings.Contains(inner, rightDelimiter) {
		return "", false
	}
	return strings.TrimSpace(inner), true
}

// usesDefault reports whether the template says itself what holds for a missing key.
func usesDefault(node parse.Node) bool {
	switch node := node.(type) {
	case *parse.ListNode:
		return node != nil && slices.ContainsFunc(node.Nodes, usesDefault)
	case *parse.ActionNode:
		return usesDefault(node.Pipe)
	case *parse.PipeNode:
		return slices.ContainsFunc(node.Cmds, func(c *parse.CommandNode) bool { return usesDefault(c) })
	case *parse.CommandNode:
		return slices.ContainsFunc(node.Args, usesDefault)
	case *parse.IfNode:
		return usesDefault(node.Pipe) || usesDefault(node.List) || usesDefault(node.ElseList)
	case *parse.IdentifierNode:
		return node.Ident == "default" || node.Ident == "dig" || node.Ident == "hasKey"
	}
	return false
}

func (c *compiled) expand(data map[string]any) (any, error) {
	text := &boundedText{}
	if !c.value {
		err := c.text.Execute(text, data)
		if err == nil && strings.Contains(text.String(), "<no value>") {
			err = errors.New("a key has no value")
		}
		return text.String(), err
	}
	// The function is bound per execution: a parsed template is shared by all clusters.
	clone, err := c.text.Clone()
	if err != nil {
		return nil, err
	}
	var got result
	clone.Funcs(template.FuncMap{captureFunction: func(value any) string { got.value = value; return "" }})
	if err := clone.Execute(text, data); err != nil {
		return nil, err
	}
	if got.value == nil {
		return nil, errors.New("a key has no value")
	}
	return got.value, nil
}

type boundedText struct{ strings.Builder }

func (b *boundedText) Write(p []byte) (int, error) {
	if b.Len()+len(p) > maxExpansion {
		return 0, fmt.Errorf("more than %d bytes", maxExpansion)
	}
	return b.Builder.Write(p)
}

// value expands all strings in a JSON-like value. path is where it stands, for errors.
func (t *templates) value(value any, path string, data map[string]any) (any, error) {
	switch value := value.(type) {
	case string:
		if !strings.Contains(value, leftDelimiter) {
			return value, nil
		}
		compiled, err := t.compile(value)
		if err != nil {
			return nil, &templateError{path: path, text: value, err: err}
		}
		out, err := compiled.expand(data)
		if err != nil {
			return nil, &templateError{path: path, text: value, err: err}
		}
		return out, nil
	case map[string]any:
		out := make(map[string]any, len(value))
		for _, key := range slices.Sorted(maps.Keys(value)) {
			item, err := t.value(value[key], path+"."+key, data)
			if err != nil {
				return nil, err
			}
			out[key] = item
		}
		return out, nil
	case []any:
		out := make([]any, len(value))
		for i, item := range value {
			var err error
			if out[i], err = t.value(item, fmt.Sprintf("%s[%d]", path, i), data); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	return value, nil
}

func (t *templates) values(values v1alpha1.Values, path string, data map[string]any) (v1alpha1.Values, error) {
	if len(values) == 0 {
		return nil, nil
	}
	out, err := t.value(map[string]any(values), path, data)
	if err != nil {
		return nil, err
	}
	return out.(map[string]any), nil
}

func (t *templates) strings(variables map[string]string, path string, data map[string]any) (map[string]string, error) {
	if len(variables) == 0 {
		return nil, nil
	}
	out := make(map[string]string, len(variables))
	for _, key := range slices.Sorted(maps.Keys(variables)) {
		value, err := t.value(variables[key], path+"."+key, data)
		if err != nil {
			return nil, err
		}
		out[key] = fmt.Sprint(value)
	}
	return out, nil
}

// templateError places a failed template.
type templateError struct {
	path string
	text string
	err  error
}

func (e *templateError) Error() string {
	message := e.err.Error()
	var exec template.ExecError
	if errors.As(e.err, &exec) {
		message = exec.Err.Error()
	}
	if i := strings.LastIndex(message, ": "); i >= 0 && strings.HasPrefix(message, "template: ") {
		message = message[i+2:]
	}
	return fmt.Sprintf("template %s: %s", e.text, message)
}

func (e *templateError) Unwrap() error { return e.err }

// templateData is what templates see of a cluster.
func templateData(cluster Cluster) map[string]any {
	return map[string]any{"cluster": map[string]any{
		"name":        cluster.Metadata.Name,
		"labels":      stringMap(cluster.Metadata.Labels),
		"annotations": stringMap(cluster.Metadata.Annotations),
		"values":      map[string]any(cluster.Spec.Values),
	}}
}

func stringMap(in map[string]string) map[string]any {
	out := make(map[string]any, len(in))
	for key, value := range in {
		out[key] = value
	}
	return out
}
