package bundler

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"path"
	"reflect"
	"slices"
	"strings"

	utiljson "k8s.io/apimachinery/pkg/util/json"
	yamlstream "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"pinnace.dev/pinnace/pkg/bundler/render"
	"pinnace.dev/pinnace/pkg/sealed"
)

// sopsDir is the folder in a content layer that holds files which SOPS encrypted, as they are: their MAC depends on
// every value and its place.
const sopsDir = "sops"

// secure refuses Secrets that everybody could read who can read the registry, and takes out the objects of files that
// SOPS encrypted: those are shipped as they are. shipped are these files by their names in the layer.
func secure(folder render.Folder, objects render.Objects) (plain render.Objects, shipped map[string][]byte, err error) {
	var findings []error
	shipped = map[string][]byte{}
	for _, object := range objects {
		if object.Object["sops"] == nil {
			for _, key := range sealed.PlainKeys(object.Object) {
				findings = append(findings, fmt.Errorf("%s: %s: everybody who reads the registry could read %s; seal it (pinnace seal --help), encrypt the file with SOPS, or make it a variable that is secret",
					object.From, object, key))
			}
			continue
		}
		name, content, err := sopsFile(folder, object)
		if err != nil {
			findings = append(findings, err)
			continue
		}
		shipped[path.Join(sopsDir, name)] = content
	}
	if err := errors.Join(findings...); err != nil {
		return nil, nil, err
	}
	plain = slices.DeleteFunc(slices.Clone(objects), func(object render.Object) bool {
		name, _ := fileOf(object)
		return shipped[path.Join(sopsDir, name)] != nil
	})
	return plain, shipped, nil
}

// fileOf returns the file that an object was read from, relative to the source's root.
func fileOf(object render.Object) (name, line string) {
	name, line, _ = strings.Cut(object.From, ":")
	return name, line
}

// sopsFile reads the file of an object that SOPS encrypted.
func sopsFile(folder render.Folder, object render.Object) (name string, content []byte, err error) {
	name, _ = fileOf(object)
	content, err = render.Folder{Root: folder.Root, Path: "."}.File(name)
	if err != nil || !sealed.IsSOPS(content) || !holds(content, object) {
		return name, nil, fmt.Errorf("%s: %s: is encrypted by SOPS, and only plain manifests can be shipped as they are: Kustomize, charts and overlays change them; put it into a bundle of its own",
			object.From, object)
	}
	for field, text := range map[string]string{"kind": object.GetKind(), "apiVersion": object.GetAPIVersion(), "metadata.name": object.GetName(), "metadata.namespace": object.GetNamespace()} {
		if strings.HasPrefix(text, "ENC[") {
			return name, nil, fmt.Errorf("%s: %s is encrypted by SOPS, so nobody can tell what the object is; encrypt with --encrypted-regex '^(data|stringData)$'",
				object.From, field)
		}
	}
	return name, content, nil
}

// holds reports whether a file has the object as it is.
func holds(file []byte, object render.Object) bool {
	reader := yamlstream.NewYAMLReader(bufio.NewReader(bytes.NewReader(file)))
	for {
		document, err := reader.Read()
		if err != nil {
			return false
		}
		var content map[string]any
		if data, err := yaml.YAMLToJSON(document); err == nil && utiljson.Unmarshal(data, &content) == nil &&
			reflect.DeepEqual(content, object.Object) {
			return true
		}
	}
}
