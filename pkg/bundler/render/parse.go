package render

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/yaml"
)

var byteOrderMark = []byte("\xef\xbb\xbf")

// maxListDepth stops lists in lists in lists, which would exhaust the stack.
const maxListDepth = 4

// parse reads a stream of YAML or JSON documents into objects. Strict refuses duplicate keys.
func parse(file string, data []byte, strict bool) ([]Object, error) {
	var objects []Object
	var findings []error
	for _, document := range split(data) {
		object, err := decode(document, strict)
		if err != nil {
			// The text before a document is kept as empty lines, so the parser's own line numbers are right.
			findings = append(findings, fmt.Errorf("%s: %w", file, err))
			continue
		}
		if object == nil {
			continue
		}
		found, err := flatten(object, fmt.Sprintf("%s:%d", file, document.line), 0)
		if err != nil {
			findings = append(findings, err)
			continue
		}
		objects = append(objects, found...)
	}
	return objects, errors.Join(findings...)
}

type text struct {
	// data has as many empty lines before the document as the file has lines.
	data []byte
	// line is where the document's first content stands, counted from 1.
	line int
}

// split cuts at lines that hold --- only, or with a comment. Others that begin with --- hold content too.
func split(data []byte) []text {
	data = bytes.TrimPrefix(data, byteOrderMark)
	var documents []text
	var current bytes.Buffer
	first := 0
	flush := func() {
		if first > 0 {
			documents = append(documents, text{data: bytes.Clone(current.Bytes()), line: first})
		}
		first = 0
	}
	number := 0
	for line := range bytes.Lines(data) {
		number++
		content := bytes.TrimRight(line, "\r\n \t")
		if rest, found := bytes.CutPrefix(content, []byte("---")); found && (len(rest) == 0 || rest[0] == ' ' || rest[0] == '\t') {
			flush()
			current.Reset()
			current.WriteString(strings.Repeat("\n", number-1))
			content = bytes.TrimSpace(rest)
			line = append(bytes.Clone(content), '\n')
		}
		content = bytes.TrimSpace(content)
		if first == 0 && len(content) > 0 && content[0] != '#' && content[0] != '%' && string(content) != "..." {
			first = number
		}
		current.Write(line)
	}
	flush()
	return documents
}

// decode returns nil for an empty document.
func decode(document text, strict bool) (map[string]any, error) {
	// JSON may be indented by tabs, which YAML forbids.
	data := bytes.TrimSpace(document.data)
	if !json.Valid(data) {
		var err error
		if strict {
			data, err = yaml.YAMLToJSONStrict(document.data)
		} else {
			data, err = yaml.YAMLToJSON(document.data)
		}
		if err != nil {
			return nil, oneLine(err)
		}
	}
	var value any
	if err := utiljson.Unmarshal(data, &value); err != nil {
		return nil, fmt.Errorf("line %d: %w", document.line, err)
	}
	switch value := value.(type) {
	case nil:
		return nil, nil
	case map[string]any:
		return value, nil
	}
	return nil, fmt.Errorf("line %d: is no object; a manifest begins with apiVersion and kind", document.line)
}

// flatten checks an object and takes lists apart.
func flatten(content map[string]any, from string, depth int) ([]Object, error) {
	apiVersion, _ := content["apiVersion"].(string)
	kind, _ := content["kind"].(string)
	switch {
	case kind == "":
		return nil, fmt.Errorf("%s: the object has no kind; add one", from)
	case apiVersion == "":
		return nil, fmt.Errorf("%s: the %s has no apiVersion; add one", from, kind)
	}
	if items, isList := content["items"].([]any); isList && strings.HasSuffix(kind, "List") {
		return flattenItems(items, kind, from, depth)
	}
	if _, empty := content["items"]; kind == "List" && (!empty || content["items"] == nil) {
		return nil, nil
	}
	metadata, isMap := content["metadata"].(map[string]any)
	if _, there := content["metadata"]; there && !isMap {
		return nil, fmt.Errorf("%s: the %s's metadata is no mapping", from, kind)
	}
	name, isText := metadata["name"].(string)
	if given := metadata["name"]; given != nil && !isText {
		return nil, fmt.Errorf("%s: the %s's metadata.name is %v, which is no text; quote it, as YAML takes y, n, on, off and digits for something else", from, kind, given)
	}
	if name == "" {
		if _, generated := metadata["generateName"]; generated {
			return nil, fmt.Errorf("%s: the %s has generateName; give it a name, so that it can be found again", from, kind)
		}
		return nil, fmt.Errorf("%s: the %s has no metadata.name", from, kind)
	}
	if namespace, there := metadata["namespace"]; there {
		if _, isString := namespace.(string); !isString && namespace != nil {
			return nil, fmt.Errorf("%s: the %s %q: metadata.namespace is no string; quote it", from, kind, name)
		}
	}
	return []Object{{Unstructured: &unstructured.Unstructured{Object: content}, From: from}}, nil
}

func flattenItems(items []any, kind, from string, depth int) ([]Object, error) {
	if depth == maxListDepth {
		return nil, fmt.Errorf("%s: lists nested deeper than %d levels", from, maxListDepth)
	}
	var objects []Object
	for i, item := range items {
		content, isMap := item.(map[string]any)
		if !isMap {
			return nil, fmt.Errorf("%s: item %d of the %s is no object", from, i, kind)
		}
		found, err := flatten(content, from, depth+1)
		if err != nil {
			return nil, fmt.Errorf("%w (item %d of the %s)", err, i, kind)
		}
		objects = append(objects, found...)
	}
	return objects, nil
}

// oneLine is for errors of parsers that print a list.
func oneLine(err error) error { return errors.New(strings.Join(strings.Fields(err.Error()), " ")) }
