// Package manifests reads the objects in a bundle's content layer and puts a cluster's variables into them: what agents
// apply, and what the builder shows of it before. [Read] and then [Substitute] are all that happens between the two.
package manifests

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	yamlstream "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"pinnace.dev/pinnace/pkg/oci/archive"
	"pinnace.dev/pinnace/pkg/sealed"
)

// MaxObjects stops bundles that fill the memory of a small node with tiny objects.
const MaxObjects = 50_000

// documentEnd stands between two documents.
var documentEnd = []byte("\n---")

// Read returns the objects of a bundle's content layer, in the order of its files. What SOPS encrypted stays so.
func Read(layer []byte) ([]*unstructured.Unstructured, error) {
	return ReadSealed(layer, nil)
}

// Decode returns the objects of a stream of YAML documents, lists opened.
func Decode(content []byte) ([]*unstructured.Unstructured, error) {
	return readObjects(content, MaxObjects)
}

// ReadSealed is [Read] with files that SOPS encrypted given to decrypt first.
func ReadSealed(layer []byte, decrypt func(file []byte) ([]byte, error)) ([]*unstructured.Unstructured, error) {
	var objects []*unstructured.Unstructured
	err := archive.Walk(bytes.NewReader(layer), archive.Limits{}, func(name string, content []byte) error {
		switch path.Ext(name) {
		case ".yaml", ".yml", ".json":
		default:
			return nil
		}
		if decrypt != nil && sealed.IsSOPS(content) {
			var err error
			if content, err = decrypt(content); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
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
	// Counted before anything is decoded: that takes a small node minutes.
	if bytes.Count(content, documentEnd) > limit {
		return nil, fmt.Errorf("%w: more than %d documents", archive.ErrTooLarge, MaxObjects)
	}
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

// Describe names an object for people: apps/v1 Deployment shop/web.
func Describe(object *unstructured.Unstructured) string {
	name := object.GetName()
	if namespace := object.GetNamespace(); namespace != "" {
		name = namespace + "/" + name
	}
	return fmt.Sprintf("%s %s %s", object.GetAPIVersion(), object.GetKind(), name)
}
