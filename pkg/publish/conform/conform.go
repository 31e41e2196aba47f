// Package conform checks rendered objects against the schemas that an API server would check them against, without one.
//
// [New] knows Kubernetes' own kinds, with the versions in which they came and went, and the kinds that
// CustomResourceDefinitions define. [Schemas.Check] returns everything that is wrong with an object: fields that its kind
// doesn't have, values of the wrong type, API versions that the cluster's version doesn't serve, and for custom resources
// whatever their schema says: required fields, bounds, patterns and CEL rules.
//
// Fields of Kubernetes' own kinds are those of the newest version that this program knows: a field that came later than
// the version that is asked for is not told apart.
package conform

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
	kjson "sigs.k8s.io/json"

	"pinnace.dev/pinnace/api/document"
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
	for gvk := range scheme.Scheme.AllKnownTypes() {
		out.versions[gvk.GroupKind()] = append(out.versions[gvk.GroupKind()], gvk.Version)
	}
	for _, object := range objects {
		if object.GetKind() != kindDefinition {
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

// Knows reports whether there is a schema for the object's kind.
func (s *Schemas) Knows(object *unstructured.Unstructured) bool {
	return len(s.versions[object.GroupVersionKind().GroupKind()]) > 0
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
	if scheme.Scheme.Recognizes(gvk) {
		return s.checkOwn(object)
	}
	if versions := s.versions[gvk.GroupKind()]; len(versions) > 0 {
		return []Finding{{Path: "apiVersion", Message: fmt.Sprintf("%s has no kind %s; it is in %s", object.GetAPIVersion(), gvk.Kind, inVersions(gvk.Group, versions))}}
	}
	return nil
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
	typed, err := scheme.Scheme.New(object.GroupVersionKind())
	if err != nil {
		return []Finding{{Message: err.Error()}}
	}
	findings := s.checkLifecycle(object, typed)
	data, err := object.MarshalJSON()
	if err != nil {
		return append(findings, Finding{Message: err.Error()})
	}
	strict, err := kjson.UnmarshalStrict(data, typed)
	if err != nil {
		findings = append(findings, wrongValue(err))
	}
	for _, problem := range strict {
		findings = append(findings, unknownField(problem, func(path []string) []string { return fieldsOf(typed, path) }))
	}
	return findings
}

// The lifecycle of an API version, as k8s.io/api states it.
type (
	introduced interface{ APILifecycleIntroduced() (major, minor int) }
	removed    interface{ APILifecycleRemoved() (major, minor int) }
	replaced   interface {
		APILifecycleReplacement() schema.GroupVersionKind
	}
)

func (s *Schemas) checkLifecycle(object *unstructured.Unstructured, typed any) []Finding {
	what := object.GetAPIVersion() + " " + object.GetKind()
	if since, is := typed.(introduced); is {
		if _, minor := since.APILifecycleIntroduced(); minor > s.minor {
			return []Finding{{Path: "apiVersion", Message: fmt.Sprintf("%s came with Kubernetes 1.%d; 1.%d doesn't know it", what, minor, s.minor)}}
		}
	}
	until, is := typed.(removed)
	if !is {
		return nil
	}
	if _, minor := until.APILifecycleRemoved(); minor > s.minor {
		return nil
	}
	_, minor := until.APILifecycleRemoved()
	message := fmt.Sprintf("%s was removed from Kubernetes in 1.%d", what, minor)
	if instead, is := typed.(replaced); is {
		gvk := instead.APILifecycleReplacement()
		message += fmt.Sprintf("; use %s %s", gvk.GroupVersion(), gvk.Kind)
	}
	return []Finding{{Path: "apiVersion", Message: message}}
}

var (
	unknownPattern = regexp.MustCompile(`^unknown field "(.*)"$`)
	valuePattern   = regexp.MustCompile(`cannot unmarshal (\S+) into Go struct field \S*?\.(\S+) of type (\S+)`)
)

func unknownField(problem error, known func(path []string) []string) Finding {
	matched := unknownPattern.FindStringSubmatch(problem.Error())
	if matched == nil {
		return Finding{Message: problem.Error()}
	}
	return unknownAt(matched[1], known)
}

// unknownAt says that a field is not known, and which one may be meant.
func unknownAt(path string, known func(path []string) []string) Finding {
	steps := strings.Split(path, ".")
	name := steps[len(steps)-1]
	return Finding{Path: path, Message: fmt.Sprintf("unknown field %q%s", name, document.Suggestion(name, known(steps[:len(steps)-1])))}
}

func wrongValue(err error) Finding {
	matched := valuePattern.FindStringSubmatch(err.Error())
	if matched == nil {
		return Finding{Message: strings.TrimPrefix(err.Error(), "json: ")}
	}
	return Finding{Path: matched[2], Message: fmt.Sprintf("must be %s, got %s", cmp.Or(goTypes[matched[3]], matched[3]), matched[1])}
}

var goTypes = map[string]string{
	"string": "a string", "bool": "true or false", "int32": "a whole number", "int64": "a whole number", "float64": "a number",
}
