package render

import (
	"fmt"
	"maps"
	"slices"

	"pinnace.dev/pinnace/api/v1alpha1"
)

var containerFields = []string{"containers", "initContainers", "ephemeralContainers"}

// Images finds the container images that the objects name, wherever a pod is specified, sorted by reference.
func (o Objects) Images() []v1alpha1.Image {
	found := map[string][]string{}
	for _, object := range o {
		walkImages(object.Object, "", func(reference, place string) {
			found[reference] = append(found[reference], fmt.Sprintf("%s: %s", object, place))
		})
	}
	var images []v1alpha1.Image
	for _, reference := range slices.Sorted(maps.Keys(found)) {
		images = append(images, v1alpha1.Image{Reference: reference, From: found[reference]})
	}
	return images
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
