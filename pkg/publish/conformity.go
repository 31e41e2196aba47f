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
	"sync"

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

// conformity checks what renders against schemas, bundle by bundle: those of a version of Kubernetes, and of the
// definitions that are given or come with the bundles. Objects of Kubernetes' own kinds are checked and forgotten at
// once; the others wait for the definitions of all bundles.
type conformity struct {
	version string
	given   []*unstructured.Unstructured
	own     *conform.Schemas

	// Of each variant, in order: which definition of a kind counts must not depend on which bundle is built first.
	defined [][]*unstructured.Unstructured
	waiting [][]*unstructured.Unstructured

	mu       sync.Mutex
	findings []error
	warnings []string
	places   map[string][]document.Document // by bundle
}

func newConformity(version string, given []*unstructured.Unstructured, variants int) (*conformity, error) {
	own, err := conform.New(version, nil)
	return &conformity{
		version: version, given: given, own: own, places: map[string][]document.Document{},
		defined: make([][]*unstructured.Unstructured, variants), waiting: make([][]*unstructured.Unstructured, variants),
	}, err
}

// take checks what the i-th variant renders to, as far as it can be. Other variants may be taken at the same time.
func (c *conformity) take(i int, v *variant) {
	objects := v.objects
	if err := v.substitute(objects); err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.findings = append(c.findings, fmt.Errorf("bundle %q: as %s gets it: %w", v.index.Name, v.cluster, err))
		return
	}
	for _, object := range objects {
		if conform.Defines(object) {
			c.defined[i] = append(c.defined[i], object)
		}
		if c.own.Knows(object) {
			c.check(v, object, c.own)
		} else {
			c.waiting[i] = append(c.waiting[i], object)
		}
	}
}

func (c *conformity) check(v *variant, object *unstructured.Unstructured, schemas *conform.Schemas) {
	found, leaving := schemas.Check(object), schemas.Deprecated(object)
	if len(found) == 0 && leaving.Message == "" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, read := c.places[v.index.Name]; !read {
		c.places[v.index.Name] = v.documents()
	}
	for _, finding := range found {
		c.findings = append(c.findings, v.place(object, finding, c.places[v.index.Name]))
	}
	if leaving.Message != "" {
		c.warnings = append(c.warnings, v.place(object, leaving, c.places[v.index.Name]).Error())
	}
}

// end checks what waits, and returns everything that was found.
func (c *conformity) end(list []*variant) (findings []error, warnings []string, err error) {
	schemas, err := conform.New(c.version, slices.Concat(c.given, slices.Concat(c.defined...)))
	if err != nil {
		return nil, nil, err
	}
	unknown := map[string]int{}
	for i, v := range list {
		for _, object := range c.waiting[i] {
			if !schemas.Knows(object) {
				unknown[object.GetAPIVersion()+" "+object.GetKind()]++
				continue
			}
			c.check(v, object, schemas)
		}
	}
	for kind, n := range unknown {
		c.warnings = append(c.warnings, fmt.Sprintf("no schema of %s is known, so %d of them are not checked; name its definition with --crd", kind, n))
	}
	slices.Sort(c.warnings)
	return c.findings, slices.Compact(c.warnings), nil
}

// substitute puts the variables of the cluster whose inputs were built into objects. Where only the cluster knows some,
// they stay as they stand.
func (v *variant) substitute(objects []*unstructured.Unstructured) error {
	if len(v.bundle.Spec.VariablesFrom) > 0 {
		return nil
	}
	return manifests.Substitute(objects, v.variables)
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
