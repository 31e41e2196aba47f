package publish

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"pinnace.dev/pinnace/api/document"
	"pinnace.dev/pinnace/pkg/manifests"
	"pinnace.dev/pinnace/pkg/publish/conform"
)

// readDefinitions reads CustomResourceDefinitions from files, and from all YAML files below folders.
func readDefinitions(names []string) ([]*unstructured.Unstructured, error) {
	var all []*unstructured.Unstructured
	for _, name := range names {
		err := filepath.WalkDir(name, func(file string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || file != name && !slices.Contains([]string{".yaml", ".yml", ".json"}, path.Ext(file)) {
				return err
			}
			data, err := os.ReadFile(file) //nolint:gosec // the user's own files
			if err != nil {
				return err
			}
			objects, err := manifests.Decode(data)
			if err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
			all = append(all, objects...)
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("definitions: %w", err)
		}
	}
	return all, nil
}

// checkObjects checks what was rendered against schemas: those of a version of Kubernetes, and of the definitions that
// are given or come with the bundles.
func checkObjects(list []*variant, version string, definitions []*unstructured.Unstructured) (findings []error, warnings []string, err error) {
	for _, v := range list {
		definitions = append(definitions, v.objects...)
	}
	schemas, err := conform.New(version, definitions)
	if err != nil {
		return nil, nil, err
	}
	places := map[string][]document.Document{}
	unknown := map[string]int{}
	for _, v := range list {
		objects, err := v.substituted()
		if err != nil {
			findings = append(findings, fmt.Errorf("bundle %q: as %s gets it: %w", v.index.Name, v.cluster, err))
			continue
		}
		for _, object := range objects {
			if !schemas.Knows(object) {
				unknown[object.GetAPIVersion()+" "+object.GetKind()]++
				continue
			}
			found, leaving := schemas.Check(object), schemas.Deprecated(object)
			if _, read := places[v.index.Name]; !read && (len(found) > 0 || leaving.Message != "") {
				places[v.index.Name] = v.documents()
			}
			for _, finding := range found {
				findings = append(findings, v.place(object, finding, places[v.index.Name]))
			}
			if leaving.Message != "" {
				warnings = append(warnings, v.place(object, leaving, places[v.index.Name]).Error())
			}
		}
	}
	for kind, n := range unknown {
		warnings = append(warnings, fmt.Sprintf("no schema of %s is known, so %d of them are not checked; name its definition with --crd", kind, n))
	}
	slices.Sort(warnings)
	return findings, slices.Compact(warnings), nil
}

// substituted returns the objects with the variables of the cluster whose inputs were built. Where only the cluster
// knows some, they are as they stand.
func (v *variant) substituted() ([]*unstructured.Unstructured, error) {
	objects := make([]*unstructured.Unstructured, len(v.objects))
	for i := range v.objects {
		objects[i] = v.objects[i].DeepCopy()
	}
	if len(v.bundle.Spec.VariablesFrom) > 0 {
		return objects, nil
	}
	return objects, manifests.Substitute(objects, v.variables)
}

// documents are those in the bundle's folder, for places in errors. What cannot be read has no place.
func (v *variant) documents() []document.Document {
	var all []document.Document
	_ = filepath.WalkDir(v.found.Dir, func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !slices.Contains([]string{".yaml", ".yml"}, path.Ext(file)) {
			return nil //nolint:nilerr // as said
		}
		data, err := os.ReadFile(file) //nolint:gosec // a checkout, whose links were checked
		if err != nil {
			return nil //nolint:nilerr // as said
		}
		name, err := filepath.Rel(v.found.Dir, file)
		if err != nil {
			return nil //nolint:nilerr // as said
		}
		documents, err := document.Read(path.Join(v.found.Source.Path, filepath.ToSlash(name)), data)
		if err == nil {
			all = append(all, documents...)
		}
		return nil
	})
	return all
}

// place says where a finding stands: in the file that declares the object, or else by the object only.
func (v *variant) place(object *unstructured.Unstructured, finding conform.Finding, documents []document.Document) error {
	what := fmt.Sprintf("bundle %q: %s", v.index.Name, manifests.Describe(object))
	for _, doc := range documents {
		if doc.Kind == object.GetKind() && doc.APIVersion == object.GetAPIVersion() && (doc.Name == object.GetName() || strings.Contains(doc.Name, "${")) {
			return doc.Errorf(finding.Path, "%s: %s", what, finding)
		}
	}
	return errors.New(what + ": " + finding.String())
}
