package agent

import (
	"context"
	"encoding/base64"
	"fmt"
	"maps"
	"regexp"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// LocalRef names a ConfigMap or Secret of this cluster that a bundle takes values or variables from, and as whom it is
// read: with the rights of the bundle, not of the agent.
type LocalRef struct {
	Kind, Namespace, Name string
	ServiceAccount        string // in the same namespace; the agent itself when empty
}

func (r LocalRef) String() string { return fmt.Sprintf("v1 %s %s/%s", r.Kind, r.Namespace, r.Name) }

// LocalSource reads what bundles take from the cluster itself, and tells when it changed. [Locals] is the one for real
// clusters.
type LocalSource interface {
	// Read returns the object; an error that apierrors.IsNotFound knows when there is none.
	Read(ctx context.Context, ref LocalRef) (*unstructured.Unstructured, error)
	// Run watches until ctx ends.
	Run(ctx context.Context)
	// Follow replaces what is watched, by name and metadata only.
	Follow(refs []LocalRef)
	// Changes tells which one is no longer as it was read.
	Changes() <-chan LocalRef
}

// localRefs lists what a bundle reads from the cluster, without doubles.
func localRefs(bundle *v1alpha1.TargetBundle, scope Scope) []LocalRef {
	var refs []LocalRef
	add := func(kind, name string) {
		ref := LocalRef{Kind: kind, Namespace: bundle.Namespace, Name: name, ServiceAccount: scope.ServiceAccount}
		if !slices.Contains(refs, ref) {
			refs = append(refs, ref)
		}
	}
	for _, from := range bundle.VariablesFrom {
		switch {
		case from.SecretRef != nil:
			add("Secret", from.SecretRef.Name)
		case from.ConfigMapRef != nil:
			add("ConfigMap", from.ConfigMapRef.Name)
		}
	}
	if bundle.Release == nil {
		return refs
	}
	for _, from := range bundle.Release.ValuesFrom {
		switch {
		case from.SecretKeyRef != nil:
			add("Secret", from.SecretKeyRef.Name)
		case from.ConfigMapKeyRef != nil:
			add("ConfigMap", from.ConfigMapKeyRef.Name)
		}
	}
	return refs
}

// readLocal puts variables from the cluster below the bundle's own, in the deployment's copy of the bundle, and notes
// every secret that must not show.
func (a *Agent) readLocal(ctx context.Context, deployment *Deployment) error {
	bundle := &deployment.Bundle
	refs := localRefs(bundle, deployment.Scope)
	if len(refs) == 0 {
		return nil
	}
	if a.cfg.Local == nil {
		return &Error{
			Stage: StageApply, Subject: subject(bundle), Reason: ReasonInvalidBundle, Mend: "run an agent that can",
			Err: fmt.Errorf("this agent cannot read %s", refs[0]),
		}
	}
	found := map[LocalRef]map[string]string{}
	for _, ref := range refs {
		data, err := a.localData(ctx, ref)
		if err != nil {
			return fmt.Errorf("read %s: %w", ref, err)
		}
		found[ref] = data
		if ref.Kind == "Secret" {
			for _, value := range data {
				deployment.secrets = append(deployment.secrets, secretTexts(value)...)
			}
		}
	}
	if len(bundle.VariablesFrom) == 0 {
		return nil // values are the deployer's to read
	}
	variables := map[string]string{}
	for i, from := range bundle.VariablesFrom {
		kind, source := "ConfigMap", from.ConfigMapRef
		if from.SecretRef != nil {
			kind, source = "Secret", from.SecretRef
		}
		if source == nil {
			return invalid(bundle, fmt.Errorf("variablesFrom[%d]: set secretRef or configMapRef", i))
		}
		ref := LocalRef{Kind: kind, Namespace: bundle.Namespace, Name: source.Name, ServiceAccount: deployment.Scope.ServiceAccount}
		more, err := variablesOf(*source, found[ref])
		if err != nil {
			return &Error{
				Stage: StageApply, Subject: subject(bundle), Reason: ReasonVariableMissing,
				Mend: "create it on this cluster, or set optional: true", Err: fmt.Errorf("%s %w", ref, err),
			}
		}
		maps.Copy(variables, more)
	}
	maps.Copy(variables, bundle.Variables)
	bundle.Variables = variables
	return nil
}

// localData returns what a ConfigMap or Secret holds, decoded; nil when there is none.
func (a *Agent) localData(ctx context.Context, ref LocalRef) (map[string]string, error) {
	object, err := a.cfg.Local.Read(ctx, ref)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	stored, _, err := unstructured.NestedStringMap(object.Object, "data")
	if err != nil {
		return nil, fmt.Errorf("its data is no map of texts")
	}
	data := make(map[string]string, len(stored))
	for key, value := range stored {
		if ref.Kind == "Secret" {
			plain, err := base64.StdEncoding.DecodeString(value)
			if err != nil {
				return nil, fmt.Errorf("key %q is not base64", key)
			}
			value = string(plain)
		}
		data[key] = value
	}
	return data, nil
}

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// variablesOf takes variables out of what a ConfigMap or Secret holds; data is nil when there is none.
func variablesOf(source v1alpha1.VariablesSource, data map[string]string) (map[string]string, error) {
	if data == nil {
		if source.Optional {
			return nil, nil
		}
		return nil, fmt.Errorf("is not there")
	}
	variables := map[string]string{}
	for key, value := range data {
		if name := source.Prefix + key; (source.Key == "" || source.Key == key) && variableName.MatchString(name) {
			variables[name] = value
		}
	}
	if _, there := variables[source.Prefix+source.Key]; source.Key != "" && !there {
		if _, is := data[source.Key]; is {
			return nil, fmt.Errorf("has key %q, which makes no name for a variable; use letters, digits and _, or set a prefix", source.Key)
		}
		if !source.Optional {
			return nil, fmt.Errorf("has no key %q", source.Key)
		}
	}
	return variables, nil
}

// secretTexts are what must not show of a Secret's value: itself, its lines, and the texts in it where it is YAML, as
// the values of a chart are.
func secretTexts(value string) []string {
	texts := []string{value}
	var parsed map[string]any
	if err := yaml.Unmarshal([]byte(value), &parsed); err == nil {
		texts = appendTexts(texts, parsed)
	}
	return texts
}

// followLocal tells the source what to watch, when that changed.
func (a *Agent) followLocal() {
	if a.cfg.Local == nil {
		return
	}
	readers := map[LocalRef][]string{}
	for name, one := range a.units {
		if one.want == nil || len(one.want.VariablesFrom) == 0 && (one.want.Release == nil || len(one.want.Release.ValuesFrom) == 0) {
			continue
		}
		scope, err := newScope(one.want, a.cfg.Limits)
		if err != nil {
			continue // it is refused
		}
		for _, ref := range localRefs(one.want, scope) {
			readers[ref] = append(readers[ref], name)
		}
	}
	changed := len(readers) != len(a.readers)
	for ref := range readers {
		changed = changed || a.readers[ref] == nil
	}
	if a.readers = readers; changed {
		a.cfg.Local.Follow(slices.Collect(maps.Keys(readers)))
	}
}

// localChanged has what reads a ConfigMap or Secret applied again. It is no new version: windows don't hold it back.
func (a *Agent) localChanged(ref LocalRef) {
	for _, name := range a.readers[ref] {
		one := a.units[name]
		if one == nil || one.want == nil {
			continue
		}
		a.log.Info("what the bundle reads changed; it is applied again", "stage", StageApply, "bundle", name, "object", ref.String())
		one.refusal, one.attempts = nil, 0
		one.retryAt, one.begun = a.now(), a.now()
		one.todo, one.deployed, one.healthy, one.again = true, false, false, one.busy
	}
}

func (a *Agent) localChanges() <-chan LocalRef {
	if a.cfg.Local == nil {
		return nil
	}
	return a.cfg.Local.Changes()
}
