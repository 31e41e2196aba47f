package fleetyaml

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	utiljson "k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/yaml"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// values returns helm.values with templates as Pinnace has them, and the files below them. In Fleet the files win, so
// they are read where both are there.
func (c *converter) values(field string, in *helmOptions) (v1alpha1.Values, []string) {
	values := c.rewriteMap(in.Values, field+".values")
	if len(in.ValuesFiles) == 0 {
		return values, nil
	}
	// Files of which nothing is to be rewritten or overridden stay files.
	if len(values) == 0 && !c.mentionsFleet(in.ValuesFiles) {
		return nil, in.ValuesFiles
	}
	return c.fileValues(field, values, in.ValuesFiles), nil
}

// templateValues returns those texts with templates as Pinnace has them.
func (c *converter) templateValues(field string, in *helmOptions) map[string]string {
	if len(in.TemplateValues) == 0 {
		return nil
	}
	if c.in.Helm != nil && c.in.Helm.DisablePreProcess {
		c.warn(field+".templateValues", "has no effect beside disablePreProcess")
		return nil
	}
	out := make(map[string]string, len(in.TemplateValues))
	for _, key := range slices.Sorted(maps.Keys(in.TemplateValues)) {
		out[key] = c.rewriteText(in.TemplateValues[key], field+".templateValues["+key+"]")
	}
	return out
}

// mentionsFleet reports whether a file must be rewritten. What cannot be read is reported where it is used.
func (c *converter) mentionsFleet(files []string) bool {
	return slices.ContainsFunc(files, func(name string) bool {
		content, err := c.folder.File(name)
		return err == nil && (strings.Contains(string(content), leftDelimiter) || strings.Contains(string(content), clusterLabelPrefix))
	})
}

// fileValues merges the files over values.
func (c *converter) fileValues(field string, values v1alpha1.Values, files []string) v1alpha1.Values {
	merged := map[string]any(values)
	for i, name := range files {
		at := place(field+".valuesFiles", i)
		content, err := c.folder.File(name)
		if err != nil {
			c.refuse(at, "%v", err)
			continue
		}
		over := map[string]any{}
		data, err := yaml.YAMLToJSONStrict(content)
		if err == nil {
			err = utiljson.Unmarshal(data, &over)
		}
		if err != nil {
			c.refuse(at, "%s: %v", name, err)
			continue
		}
		merged = v1alpha1.MergeValues(merged, c.rewriteMap(over, at))
	}
	return merged
}

// rewriteMap returns the values with Pinnace's templates.
func (c *converter) rewriteMap(values map[string]any, field string) map[string]any {
	if values == nil {
		return nil
	}
	out := make(map[string]any, len(values))
	for _, key := range slices.Sorted(maps.Keys(values)) {
		at := fmt.Sprintf("%s[%s]", field, key)
		if strings.Contains(key, leftDelimiter) {
			c.refuse(at, "templates in keys are not supported; write a template for the whole mapping as its value")
		}
		if text, ok := values[key].(string); ok {
			if label, ok := strings.CutPrefix(text, clusterLabelPrefix); ok {
				out[key] = fmt.Sprintf("${ get .cluster.labels %q }", label)
				continue
			}
		}
		out[key] = c.rewriteValue(values[key], at)
	}
	return out
}

func (c *converter) rewriteValue(value any, field string) any {
	switch value := value.(type) {
	case string:
		if c.in.Helm != nil && c.in.Helm.DisablePreProcess {
			return escape(value)
		}
		return c.rewriteText(value, field)
	case map[string]any:
		return c.rewriteMap(value, field)
	case []any:
		out := make([]any, len(value))
		for i, item := range value {
			out[i] = c.rewriteValue(item, place(field, i))
		}
		return out
	}
	return value
}
