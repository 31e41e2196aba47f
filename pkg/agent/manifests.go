package agent

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"

	"github.com/fluxcd/pkg/envsubst"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	yamlstream "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"pinnace.dev/pinnace/pkg/oci/archive"
)

const (
	// MaxObjects stops bundles that fill the memory of a small node with tiny objects.
	MaxObjects = 50_000
	// AnnotationSubstitute, as annotation or label with the value "disabled", keeps variables out of an object.
	AnnotationSubstitute = "pinnace.dev/substitute"
)

// readManifests reads the objects of a bundle's content layer, in the order of its files.
func readManifests(layer []byte) ([]*unstructured.Unstructured, error) {
	var objects []*unstructured.Unstructured
	err := archive.Walk(bytes.NewReader(layer), archive.Limits{}, func(name string, content []byte) error {
		switch path.Ext(name) {
		case ".yaml", ".yml", ".json":
		default:
			return nil
		}
		found, err := readObjects(content, MaxObjects-len(objects))
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		objects = append(objects, found...)
		return nil
	})
	return objects, err
}

// readObjects reads a stream of YAML documents, at most limit objects.
func readObjects(content []byte, limit int) ([]*unstructured.Unstructured, error) {
	var objects []*unstructured.Unstructured
	reader := yamlstream.NewYAMLReader(bufio.NewReader(bytes.NewReader(content)))
	for number := 1; ; number++ {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", number, err)
		}
		found, err := decodeObjects(document)
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", number, err)
		}
		if objects = append(objects, found...); len(objects) > limit {
			return nil, fmt.Errorf("document %d: %w: more than %d objects", number, archive.ErrTooLarge, MaxObjects)
		}
	}
}

// decodeObjects decodes one document, strictly: none when it is empty, several when it is a list.
func decodeObjects(document []byte) ([]*unstructured.Unstructured, error) {
	var content map[string]any
	if err := yaml.UnmarshalStrict(document, &content); err != nil {
		return nil, err
	}
	if len(content) == 0 {
		return nil, nil
	}
	object := &unstructured.Unstructured{Object: content}
	if !object.IsList() {
		return []*unstructured.Unstructured{object}, checkObject(object)
	}
	list, err := object.ToList()
	if err != nil {
		return nil, err
	}
	objects := make([]*unstructured.Unstructured, 0, len(list.Items))
	for i := range list.Items {
		if err := checkObject(&list.Items[i]); err != nil {
			return nil, fmt.Errorf("item %d: %w", i, err)
		}
		objects = append(objects, &list.Items[i])
	}
	return objects, nil
}

func checkObject(object *unstructured.Unstructured) error {
	switch {
	case object.GetKind() == "":
		return errors.New("kind is missing")
	case object.GetAPIVersion() == "":
		return fmt.Errorf("%s: apiVersion is missing", object.GetKind())
	case object.GetName() == "":
		return fmt.Errorf("%s: metadata.name is missing", object.GetKind())
	}
	return nil
}

// substitute replaces ${NAME} in the objects, with Flux's syntax: defaults, and $${NAME} for a literal one. Objects are
// left alone when there are no variables, and those that opt out by annotation or label always. A name without a value
// and without a default is an error.
func substitute(objects []*unstructured.Unstructured, variables map[string]string) error {
	if len(variables) == 0 {
		return nil
	}
	value := func(name string) (string, bool) {
		value, found := variables[name]
		return value, found
	}
	for _, object := range objects {
		if object.GetAnnotations()[AnnotationSubstitute] == "disabled" || object.GetLabels()[AnnotationSubstitute] == "disabled" {
			continue
		}
		fail := func(err error) error {
			return fmt.Errorf("substitute variables in %s: %w", describe(object), err)
		}
		text, err := yaml.Marshal(object.Object)
		if err != nil {
			return fail(err)
		}
		if !bytes.Contains(text, []byte("$")) {
			continue
		}
		replaced, err := envsubst.Eval(string(text), value)
		if err != nil {
			return fail(err)
		}
		var content map[string]any
		if err := yaml.UnmarshalStrict([]byte(replaced), &content); err != nil {
			return fail(errors.New("the values make it invalid YAML")) // the cause may quote a value
		}
		object.Object = content
		if err := checkObject(object); err != nil {
			return fail(err)
		}
	}
	return nil
}

// describe names an object for people: apps/v1 Deployment shop/web.
func describe(object *unstructured.Unstructured) string {
	name := object.GetName()
	if namespace := object.GetNamespace(); namespace != "" {
		name = namespace + "/" + name
	}
	return fmt.Sprintf("%s %s %s", object.GetAPIVersion(), object.GetKind(), name)
}
