package render

import (
	"reflect"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// FuzzImagePath: an image rule's path is refused or used on any object; it neither fails otherwise nor changes the object.
func FuzzImagePath(f *testing.F) {
	for _, seed := range []string{
		".spec.image", "{.spec.images[*].name}", "{range .spec.images[*]}{.name}{end}", "..image", ".spec.images[?(@.name=='a')].name",
		".spec['image']", ".spec.images[-1:]", ".spec.images[0:9:0]", "{", "{end}", "{range}", "[?(", ".spec.images[99999999999999999999]", "{.a}{'", "", "image: {.spec.image}", "{'a'}",
		"{range .spec.images[2]}{}{end}", "{range..images[2]}{}",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := ParsePath(text); err != nil {
			return
		}
		object := Object{Unstructured: &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "example.com/v1", "kind": "Thing",
			"spec": map[string]any{"image": "a:1", "images": []any{map[string]any{"name": "b:2"}, "c:3", nil, int64(4), true}},
		}}}
		before := object.DeepCopy()
		known := map[string]bool{"a:1": true, "b:2": true, "c:3": true, "example.com/v1": true, "Thing": true}
		_ = ruledImages(object, v1alpha1.ImageRule{Kind: "Thing", Paths: []string{text}}, func(reference, _ string) {
			if !known[reference] {
				t.Errorf("%q finds %q, which the object doesn't hold", text, reference)
			}
		})
		if !reflect.DeepEqual(before.Object, object.Object) {
			t.Errorf("%q changed the object", text)
		}
	})
}

func TestParsePath(t *testing.T) {
	for _, text := range []string{".spec.image", "{.spec.image}", "{range .spec.images[*]}{.name}{end}", ".spec.images[?(@.name=='a')].name", ".spec['image','name']"} {
		if _, err := ParsePath(text); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	for text, want := range map[string]string{
		"image: {.spec.image}": "unrecognized character", "{.spec.image} ": `" " is text beside the path`, "{'nginx:1'}": `"nginx:1" is text beside the path`, "{.a": "unclosed",
		".a}x": `"x}" is text beside the path`, "{range .a[*]}{.b}, {end}": `", " is text beside the path`,
	} {
		if _, err := ParsePath(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
}
