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

	"pinnace.dev/pinnace/pkg/sealed"
)

const (
	leftDelimiter  = "${"
	rightDelimiter = "}"

	// maxExpansion stops a template that grows without end.
	maxExpansion = 1 << 20
)

// compiled is one parsed string. It may be used concurrently.
type compiled struct {
	text *template.Template
	// value is true for a single expression, which yields a value, not text.
	value bool
}

const (
	// captureFunction is called with what templates see and the value of a single expression.
	captureFunction = "pinnace_value"
	// capturedKey is where it leaves the value. No template can name it.
	capturedKey = "\x00captured"
)

func capture(data map[string]any, value any) string {
	data[capturedKey] = value
	return ""
}

// templates parses each text once. It may be used concurrently.
type templates struct {
	parsed sync.Map
	texts  sync.Map // of parseText
}

// parse parses a string with ${ } in it. Functions that read the environment, the clock, the network or randomness are
// not there, so that the same fleet gives the same target everywhere. A string that is one ${ } keeps the type of what
// it yields: numbers, booleans, lists and maps.
func (t *templates) parse(text string) (*compiled, error) {
	if known, ok := t.parsed.Load(text); ok {
		return known.(*compiled), nil
	}
	out := &compiled{}
	if expression, ok := singleExpression(text); ok {
		call := leftDelimiter + " " + captureFunction + " $ (" + expression + ") " + rightDelimiter
		if parsed, err := newTemplate().Parse(call); err == nil {
			out.text, out.value = parsed, true
		}
	}
	if out.text == nil {
		return t.parseText(text)
	}
	if usesDefault(out.text.Root) {
		out.text.Option("missingkey=zero")
	}
	t.parsed.Store(text, out)
	return out, nil
}

// parseText parses a string that yields text, also when it is one ${ }.
func (t *templates) parseText(text string) (*compiled, error) {
	if known, ok := t.texts.Load(text); ok {
		return known.(*compiled), nil
	}
	parsed, err := newTemplate().Parse(text)
	if err != nil {
		return nil, err
	}
	if usesDefault(parsed.Root) {
		parsed.Option("missingkey=zero")
	}
	out := &compiled{text: parsed}
	t.texts.Store(text, out)
	return out, nil
}

func newTemplate() *template.Template {
	funcs := functions()
	funcs[captureFunction] = capture
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

// expand executes the template.
func (c *compiled) expand(data map[string]any) (any, error) {
	text := &boundedText{}
	// A template may yield everything that it sees: that must not hold the value itself, nor change with the next one.
	root := maps.Clone(data)
	if err := c.text.Execute(text, root); err != nil {
		return nil, err
	}
	value := root[capturedKey]
	delete(root, capturedKey)
	switch {
	case c.value && value != nil:
		return value, nil
	case c.value, strings.Contains(text.String(), "<no value>"):
		return nil, errors.New("a key has no value")
	}
	return text.String(), nil
}

type boundedText struct{ strings.Builder }

func (b *boundedText) Write(p []byte) (int, error) {
	if b.Len()+len(p) > maxExpansion {
		return 0, fmt.Errorf("more than %d bytes", maxExpansion)
	}
	return b.Builder.Write(p)
}

// expander is a JSON-like value with its templates parsed. What holds none is shared by all clusters.
type expander struct {
	constant any
	text     *compiled
	yaml     bool   // what text yields is read as YAML
	raw      string // of text
	path     string // where text stands, for errors
	fields   map[string]expander
	items    []expander
	varies   bool // there is a template in it
	secret   bool // there is a secret in it, or it is one when marked is set
	marked   *expander
}

// compile parses the templates in a value. path is where it stands.
func (t *templates) compile(value any, path string) (expander, error) {
	out := expander{constant: value, path: path}
	if inner, is := sealed.Mark(value); is {
		marked, err := t.compile(inner, path)
		out.marked, out.secret, out.varies = &marked, true, true
		return out, err
	}
	switch value := value.(type) {
	case yamlText:
		return t.compileYAML(value)
	case string:
		if _, is := sealed.Text(value); is {
			out.marked, out.secret, out.varies = &expander{constant: value, path: path}, true, true
			return out, nil
		}
		if !strings.Contains(value, leftDelimiter) {
			return out, nil
		}
		text, err := t.parse(value)
		if err != nil {
			return out, &templateError{path: path, text: value, err: err}
		}
		out.text, out.raw, out.varies = text, value, true
	case map[string]any:
		out.fields = make(map[string]expander, len(value))
		for _, key := range slices.Sorted(maps.Keys(value)) {
			field, err := t.compile(value[key], path+"."+key)
			if err != nil {
				return out, err
			}
			out.fields[key], out.varies, out.secret = field, out.varies || field.varies, out.secret || field.secret
		}
	case []any:
		for i, item := range value {
			item, err := t.compile(item, fmt.Sprintf("%s[%d]", path, i))
			if err != nil {
				return out, err
			}
			out.items, out.varies, out.secret = append(out.items, item), out.varies || item.varies, out.secret || item.secret
		}
	}
	return out, nil
}

// expand returns the value for one cluster. It must not be changed: parts of it may be shared.
func (e *expander) expand(seen *view) (any, error) {
	switch {
	case !e.varies:
		return e.constant, nil
	case e.marked != nil:
		return e.expandSecret(seen)
	case e.text != nil:
		out, err := seen.expand(e.text)
		if err == nil && e.yaml {
			out, err = readExpanded(out)
		}
		if err != nil {
			return nil, &templateError{path: e.path, text: e.raw, err: err}
		}
		return out, nil
	case e.fields != nil:
		out := make(map[string]any, len(e.fields))
		for key, field := range e.fields {
			value, err := field.expand(seen)
			if err != nil {
				return nil, err
			}
			out[key] = value
		}
		return out, nil
	}
	out := make([]any, len(e.items))
	for i := range e.items {
		var err error
		if out[i], err = e.items[i].expand(seen); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// expandSecret returns a value that was marked as secret.
func (e *expander) expandSecret(seen *view) (any, error) {
	value, err := e.marked.expand(seen)
	if err != nil {
		return nil, err
	}
	if _, already := value.(*secretValue); already {
		return value, nil
	}
	out := &secretValue{value: value, read: &seen.secretRead, place: origin{nil, e.path}}
	if text, isText := value.(string); isText {
		if data, is := sealed.Text(text); is {
			out.sealed = data
		}
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
