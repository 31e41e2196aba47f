// Package conform checks rendered objects against the schemas that an API server would check them against, without one.
//
// [New] knows Kubernetes' own kinds, with the versions in which they came and went, and the kinds that
// CustomResourceDefinitions define. [Schemas.Check] returns everything that is wrong with an object: fields that its kind
// doesn't have or that are missing, values of the wrong type, API versions that the cluster's version doesn't serve, and
// for custom resources whatever else their schema says: bounds, patterns and CEL rules. [Schemas.Deprecated] says what
// will go.
//
// Kubernetes' own kinds are checked against their Go types, by reflection, so that nothing but the types is linked.
// Fields are those of the newest version that this program knows: a field that came later than the version that is asked
// for is not told apart.
package conform

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
)

// Versions of Kubernetes whose API versions are known: Newest is that of the types that are compiled in.
const (
	oldest = 16
	Newest = 37
)

// Finding is one thing that is wrong with an object.
type Finding struct {
	// Path is the field's, such as spec.template.spec.containers[0].image; empty for the object as a whole.
	Path    string
	Message string
}

func (f Finding) String() string {
	if f.Path == "" {
		return f.Message
	}
	return f.Path + ": " + f.Message
}

// Schemas are what objects are checked against. Once made it may be used concurrently.
type Schemas struct {
	minor       int // of Kubernetes' version
	definitions map[schema.GroupVersionKind]*definition
	// groups are those that definitions or Kubernetes know, to tell a wrong version from a foreign kind.
	versions map[schema.GroupKind][]string
}

// New returns the schemas of a version of Kubernetes, such as 1.34 or v1.34.2 (the newest that is known when empty), and
// of the CustomResourceDefinitions among the objects.
func New(version string, objects []*unstructured.Unstructured) (*Schemas, error) {
	minor, err := parseMinor(version)
	if err != nil {
		return nil, err
	}
	out := &Schemas{minor: minor, definitions: map[schema.GroupVersionKind]*definition{}, versions: map[schema.GroupKind][]string{}}
	for gvk := range own().AllKnownTypes() {
		out.versions[gvk.GroupKind()] = append(out.versions[gvk.GroupKind()], gvk.Version)
	}
	for _, object := range objects {
		if !Defines(object) {
			continue
		}
		if err := out.define(object); err != nil {
			return nil, fmt.Errorf("%s %s: %w", object.GetKind(), object.GetName(), err)
		}
	}
	for _, versions := range out.versions {
		slices.Sort(versions)
	}
	return out, nil
}

// Defines reports whether an object is a CustomResourceDefinition.
func Defines(object *unstructured.Unstructured) bool { return object.GetKind() == kindDefinition }

// own are Kubernetes' own kinds.
var own = sync.OnceValue(func() *runtime.Scheme {
	kinds := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, apiextensionsv1.AddToScheme} {
		if err := add(kinds); err != nil {
			panic(err) // only for two types of one name
		}
	}
	return kinds
})

var versionPattern = regexp.MustCompile(`^v?1\.(\d{1,3})(\.\d+.*)?$`)

func parseMinor(version string) (int, error) {
	if version == "" {
		return Newest, nil
	}
	matched := versionPattern.FindStringSubmatch(version)
	if matched == nil {
		return 0, fmt.Errorf("%q is no version of Kubernetes; write it as 1.%d", version, Newest)
	}
	minor, err := strconv.Atoi(matched[1])
	if err != nil || minor < oldest || minor > Newest {
		return 0, fmt.Errorf("version 1.%s of Kubernetes is not known; known are 1.%d to 1.%d", matched[1], oldest, Newest)
	}
	return minor, nil
}

// Knows reports whether there is a schema for the object's kind, or it is known that there is none any more.
func (s *Schemas) Knows(object *unstructured.Unstructured) bool {
	gvk := object.GroupVersionKind()
	if since, was := gone[gvk]; was {
		return since.minor <= s.minor
	}
	return len(s.versions[gvk.GroupKind()]) > 0
}

// Check returns what is wrong with an object, sorted by path; nothing when its kind is not known.
func (s *Schemas) Check(object *unstructured.Unstructured) []Finding {
	findings := s.check(object)
	slices.SortStableFunc(findings, func(a, b Finding) int { return strings.Compare(a.Path, b.Path) })
	return findings
}

func (s *Schemas) check(object *unstructured.Unstructured) []Finding {
	gvk := object.GroupVersionKind()
	if known := s.definitions[gvk]; known != nil {
		return known.check(object)
	}
	if own().Recognizes(gvk) {
		return s.checkOwn(object)
	}
	if since, was := gone[gvk]; was {
		if since.minor <= s.minor {
			return []Finding{since.finding(gvk)}
		}
		return nil
	}
	if versions := s.served(gvk.GroupKind()); len(versions) > 0 {
		return []Finding{{Path: "apiVersion", Message: fmt.Sprintf("%s has no kind %s; it is in %s", object.GetAPIVersion(), gvk.Kind, inVersions(gvk.Group, versions))}}
	}
	return nil
}

// served are the versions of a kind that the cluster's version serves; all that are known when it serves none.
func (s *Schemas) served(kind schema.GroupKind) []string {
	all := s.versions[kind]
	served := slices.DeleteFunc(slices.Clone(all), func(version string) bool {
		typed, err := own().New(kind.WithVersion(version))
		return err == nil && len(s.checkLifecycle(kind.WithVersion(version), typed)) > 0
	})
	if len(served) == 0 {
		return all
	}
	return served
}

func inVersions(group string, versions []string) string {
	var all []string
	for _, version := range versions {
		all = append(all, schema.GroupVersion{Group: group, Version: version}.String())
	}
	return strings.Join(all, ", ")
}

// checkOwn checks an object of one of Kubernetes' own kinds as an API server does with strict validation.
func (s *Schemas) checkOwn(object *unstructured.Unstructured) []Finding {
	typed, err := own().New(object.GroupVersionKind())
	if err != nil {
		return []Finding{{Message: err.Error()}}
	}
	return append(s.checkLifecycle(object.GroupVersionKind(), typed), checkTyped(object.Object, typed)...)
}
