package render

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/client-go/util/jsonpath"

	"pinnace.dev/pinnace/api/v1alpha1"
)

var containerFields = []string{"containers", "initContainers", "ephemeralContainers"}

// knownRules are for custom resources that many clusters have.
var knownRules = []v1alpha1.ImageRule{
	{APIVersion: "monitoring.coreos.com/*", Kind: "Prometheus", Paths: []string{".spec.image", ".spec.thanos.image"}},
	{APIVersion: "monitoring.coreos.com/*", Kind: "Alertmanager", Paths: []string{".spec.image"}},
	{APIVersion: "monitoring.coreos.com/*", Kind: "ThanosRuler", Paths: []string{".spec.image"}},
	{APIVersion: "postgresql.cnpg.io/*", Kind: "Cluster", Paths: []string{".spec.imageName"}},
}

// Images finds the container images that the objects name, wherever a pod is specified and where the rules say, sorted
// by reference.
func (o Objects) Images(rules []v1alpha1.ImageRule) ([]v1alpha1.Image, error) {
	found := map[string][]string{}
	rules = slices.Concat(knownRules, rules)
	for _, object := range o {
		add := func(reference, place string) {
			from := fmt.Sprintf("%s: %s", object, place)
			if !slices.Contains(found[reference], from) {
				found[reference] = append(found[reference], from)
			}
		}
		walkImages(object.Object, "", add)
		for _, rule := range rules {
			if err := ruledImages(object, rule, add); err != nil {
				return nil, err
			}
		}
	}
	var images []v1alpha1.Image
	for _, reference := range slices.Sorted(maps.Keys(found)) {
		images = append(images, v1alpha1.Image{Reference: reference, From: found[reference]})
	}
	return images, nil
}

func ruledImages(object Object, rule v1alpha1.ImageRule, add func(reference, place string)) error {
	group, anyVersion := strings.CutSuffix(rule.APIVersion, "/*")
	switch {
	case object.GetKind() != rule.Kind,
		anyVersion && object.GroupVersionKind().Group != group,
		!anyVersion && rule.APIVersion != "" && object.GetAPIVersion() != rule.APIVersion:
		return nil
	}
	for _, text := range rule.Paths {
		path, err := ParsePath(text)
		if err != nil {
			return err
		}
		results, err := path.FindResults(object.Object)
		if err != nil {
			return fmt.Errorf("%s: image rule %s %s: %w", object.From, rule.Kind, text, err)
		}
		for _, result := range results {
			for _, value := range result {
				if !value.IsValid() {
					continue // null
				}
				if reference, isString := value.Interface().(string); isString && reference != "" {
					add(reference, strings.TrimPrefix(strings.Trim(text, "{}"), "."))
				}
			}
		}
	}
	return nil
}

// ParsePath reads a JSON path as kubectl does, with or without braces. Text beside the path is refused: it would be taken
// for an image that the object names.
func ParsePath(text string) (*jsonpath.JSONPath, error) {
	path := jsonpath.New("image rule").AllowMissingKeys(true)
	braced := text
	if !strings.HasPrefix(braced, "{") {
		braced = "{" + braced + "}"
	}
	if err := path.Parse(braced); err != nil {
		return nil, fmt.Errorf("image rule: path %q: %w", text, err)
	}
	parsed, err := jsonpath.Parse("image rule", braced)
	if err != nil {
		return nil, fmt.Errorf("image rule: path %q: %w", text, err)
	}
	if literal := literalText(parsed.Root); literal != "" {
		return nil, fmt.Errorf("image rule: path %q: %q is text beside the path; remove it", text, literal)
	}
	return path, nil
}

func literalText(list *jsonpath.ListNode) string {
	for _, node := range list.Nodes {
		switch node := node.(type) {
		case *jsonpath.TextNode:
			if node.Text != "" {
				return node.Text
			}
		case *jsonpath.ListNode:
			if text := literalText(node); text != "" {
				return text
			}
		case *jsonpath.UnionNode:
			for _, one := range node.Nodes {
				if text := literalText(one); text != "" {
					return text
				}
			}
		}
	}
	return ""
}

func walkImages(value any, place string, add func(reference, place string)) {
	switch value := value.(type) {
	case []any:
		for i, item := range value {
			walkImages(item, fmt.Sprintf("%s[%d]", place, i), add)
		}
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(value)) {
			below := key
			if place != "" {
				below = place + "." + key
			}
			items, isList := value[key].([]any)
			if isList && slices.Contains(containerFields, key) {
				for i, item := range items {
					container, _ := item.(map[string]any)
					if reference, _ := container["image"].(string); reference != "" {
						add(reference, fmt.Sprintf("%s[%d]", below, i))
					}
				}
			}
			if isList && key == "volumes" {
				for i, item := range items {
					volume, _ := item.(map[string]any)
					image, _ := volume["image"].(map[string]any)
					if reference, _ := image["reference"].(string); reference != "" {
						add(reference, fmt.Sprintf("%s[%d]", below, i))
					}
				}
			}
			walkImages(value[key], below, add)
		}
	}
}
