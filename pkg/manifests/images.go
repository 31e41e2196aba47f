package manifests

import (
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// containers are the fields of a pod that list what runs.
var containers = []string{"containers", "initContainers", "ephemeralContainers"}

// Images returns the container images that the objects name, wherever a pod is specified, sorted and each once.
func Images(objects []*unstructured.Unstructured) []string {
	var found []string
	for _, object := range objects {
		walkImages(object.Object, &found)
	}
	slices.Sort(found)
	return slices.Compact(found)
}

func walkImages(value any, found *[]string) {
	switch value := value.(type) {
	case []any:
		for _, item := range value {
			walkImages(item, found)
		}
	case map[string]any:
		for key, below := range value {
			items, isList := below.([]any)
			for _, item := range items {
				entry, _ := item.(map[string]any)
				switch {
				case isList && slices.Contains(containers, key):
					add(entry["image"], found)
				case isList && key == "volumes":
					volume, _ := entry["image"].(map[string]any)
					add(volume["reference"], found)
				}
			}
			walkImages(below, found)
		}
	}
}

func add(reference any, found *[]string) {
	if text, _ := reference.(string); text != "" {
		*found = append(*found, text)
	}
}
