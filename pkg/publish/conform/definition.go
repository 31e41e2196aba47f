package conform

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"

	"pinnace.dev/pinnace/api/document"
)

const kindDefinition = "CustomResourceDefinition"

// definition is one version of a custom resource.
type definition struct {
	structural *structuralschema.Structural
	validator  validation.SchemaValidator
	rules      *cel.Validator // nil: none
}

// define adds every served version of a definition.
func (s *Schemas) define(object *unstructured.Unstructured) error {
	if object.GetAPIVersion() != apiextensionsv1.SchemeGroupVersion.String() {
		return fmt.Errorf("apiVersion %s is not served any more; write it as %s", object.GetAPIVersion(), apiextensionsv1.SchemeGroupVersion)
	}
	var crd apiextensionsv1.CustomResourceDefinition
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &crd); err != nil {
		return err
	}
	for _, version := range crd.Spec.Versions {
		if !version.Served || version.Schema == nil || version.Schema.OpenAPIV3Schema == nil {
			continue
		}
		known, err := newDefinition(version.Schema.OpenAPIV3Schema)
		if err != nil {
			return fmt.Errorf("version %s: %w", version.Name, err)
		}
		gvk := schema.GroupVersionKind{Group: crd.Spec.Group, Version: version.Name, Kind: crd.Spec.Names.Kind}
		if s.definitions[gvk] == nil {
			s.versions[gvk.GroupKind()] = append(s.versions[gvk.GroupKind()], version.Name)
		}
		s.definitions[gvk] = known
	}
	return nil
}

func newDefinition(of *apiextensionsv1.JSONSchemaProps) (*definition, error) {
	var internal apiextensions.JSONSchemaProps
	if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(of, &internal, nil); err != nil {
		return nil, err
	}
	structural, err := structuralschema.NewStructural(&internal)
	if err != nil {
		return nil, fmt.Errorf("schema is not structural: %w", err)
	}
	if wrong := structuralschema.ValidateStructural(nil, structural); len(wrong) > 0 {
		return nil, fmt.Errorf("schema is not structural: %w", wrong.ToAggregate())
	}
	validator, _, err := validation.NewSchemaValidator(&internal)
	if err != nil {
		return nil, err
	}
	return &definition{structural: structural, validator: validator, rules: cel.NewValidator(structural, true, celconfig.PerCallLimit)}, nil
}

func (d *definition) check(object *unstructured.Unstructured) []Finding {
	var findings []Finding
	content := runtime.DeepCopyJSON(object.Object)
	unknown := pruning.PruneWithOptions(content, d.structural, true, structuralschema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true})
	for _, path := range unknown {
		findings = append(findings, unknownAt(path, d.fields))
	}
	wrong := validation.ValidateCustomResource(nil, object.Object, d.validator)
	if d.rules != nil && len(wrong) == 0 { // rules presume types that are right
		broken, _ := d.rules.Validate(context.Background(), nil, d.structural, object.Object, nil, celconfig.RuntimeCELCostBudget)
		wrong = append(wrong, broken...)
	}
	for _, problem := range wrong {
		findings = append(findings, fromField(problem))
	}
	return findings
}

func fromField(problem *field.Error) Finding {
	path := problem.Field
	if path == "<nil>" {
		path = ""
	}
	return Finding{Path: path, Message: problem.ErrorBody()}
}

// fields returns the names that the schema knows at a path.
func (d *definition) fields(path []string) []string {
	at := d.structural
	for _, step := range path {
		name := indexPattern.ReplaceAllString(step, "")
		if property, found := at.Properties[name]; found {
			at = &property
		} else if at.AdditionalProperties != nil && at.AdditionalProperties.Structural != nil {
			at = at.AdditionalProperties.Structural
		} else {
			return nil
		}
		for at.Items != nil {
			at = at.Items
		}
	}
	names := slices.Collect(maps.Keys(at.Properties))
	if len(path) == 0 {
		names = append(names, "apiVersion", "kind", "metadata")
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// unknownAt says that a field is not known, and which one may be meant.
func unknownAt(path string, known func(path []string) []string) Finding {
	steps := strings.Split(path, ".")
	name := steps[len(steps)-1]
	return Finding{Path: path, Message: fmt.Sprintf("unknown field %q%s", name, document.Suggestion(name, known(steps[:len(steps)-1])))}
}
