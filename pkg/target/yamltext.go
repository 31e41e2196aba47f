package target

import (
	"errors"
	"fmt"
	"maps"
	"strings"

	utiljson "k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/yaml"
)

// yamlText is a value that is written as text: its templates are filled in, and what comes out is read as YAML.
type yamlText struct {
	Text string
	path string // where it stands, for errors
}

// addTemplateValues adds those that stand at a path.
func addTemplateValues(all map[string]yamlText, texts map[string]string, path string) {
	for key, text := range texts {
		all[key] = yamlText{text, path + "." + key}
	}
}

// withTemplateValues puts them in the place of values of the same name. The values are not changed.
func withTemplateValues(values map[string]any, texts map[string]yamlText) map[string]any {
	if len(texts) == 0 {
		return values
	}
	out := make(map[string]any, len(values)+len(texts))
	maps.Copy(out, values)
	for key, text := range texts {
		out[key] = text
	}
	return out
}

// compileYAML parses the templates of a text. One without any is read at once.
func (t *templates) compileYAML(of yamlText) (expander, error) {
	text, path := of.Text, of.path
	out := expander{raw: text, path: path}
	if !strings.Contains(text, leftDelimiter) {
		value, err := readYAML(text)
		if err != nil {
			return out, &templateError{path: path, text: text, err: err}
		}
		out.constant = value
		return out, nil
	}
	parsed, err := t.parseText(text)
	if err != nil {
		return out, &templateError{path: path, text: text, err: err}
	}
	out.text, out.yaml, out.varies = parsed, true, true
	return out, nil
}

// readExpanded reads what a text's templates made of it. What is made of a secret is secret as a whole.
func readExpanded(expanded any) (any, error) {
	switch expanded := expanded.(type) {
	case string:
		return readYAML(expanded)
	case *secretValue:
		text, isText := expanded.value.(string)
		if !isText {
			return expanded, nil
		}
		value, err := readYAML(text)
		if err != nil {
			return nil, errors.New("what it yields is no YAML, and not shown: it holds a secret value")
		}
		out := *expanded
		out.value = value
		return &out, nil
	}
	return expanded, nil
}

func readYAML(text string) (any, error) {
	data, err := yaml.YAMLToJSONStrict([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("it yields %q, which is no YAML: %w", shortened(text), err)
	}
	var value any
	if err := utiljson.Unmarshal(data, &value); err != nil {
		return nil, fmt.Errorf("it yields %q, which is no YAML: %w", shortened(text), err)
	}
	return value, nil
}

// shortened bounds a text for an error.
func shortened(text string) string {
	const most = 200
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return text
}
