package target

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"pinnace.dev/pinnace/api/document"
	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/sealed"
)

// Secret is a value that only the cluster may read, taken out of an assignment. A placeholder stands in its place.
type Secret struct {
	// Path is the JSON pointer to its place in the target's bundle: /values/… or /variables/NAME.
	Path string
	// Value is plain, or Sealed is what was sealed before the publish.
	Value  any
	Sealed []byte
}

// secretValue is what templates see of a secret. Whatever reads it as text becomes a secret itself.
type secretValue struct {
	value  any
	sealed []byte
	// place is where it stands, for errors.
	place origin
	// read is set once its text was used.
	read *bool
}

type origin struct {
	document *document.Document
	path     string
}

// errorf places an error; what stands in a bundle has no document of its own.
func (o origin) errorf(bundle *Bundle, format string, args ...any) error {
	if o.document == nil {
		return bundle.Document.Errorf(o.path, format, args...)
	}
	return o.document.Errorf(o.path, format, args...)
}

// String is called by templates that make a text of it.
func (s *secretValue) String() string {
	*s.read = true
	if s.sealed != nil {
		return sealedInText
	}
	return fmt.Sprint(s.value)
}

// MarshalJSON is called by templates that use toJson or toYaml.
func (s *secretValue) MarshalJSON() ([]byte, error) {
	*s.read = true
	if s.sealed != nil {
		return json.Marshal(sealedInText)
	}
	return json.Marshal(s.value)
}

// sealedInText is what a sealed text leaves in a text around it, which is refused.
const sealedInText = "\x00sealed\x00"

// holdsSecret reports whether there is a secret somewhere in a value that people wrote.
func holdsSecret(value any) bool {
	switch value := value.(type) {
	case string:
		_, is := sealed.Text(value)
		return is
	case map[string]any:
		if _, is := sealed.Mark(value); is {
			return true
		}
		for _, item := range value {
			if holdsSecret(item) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(value, holdsSecret)
	}
	return false
}

// hideSecrets returns a copy of what people wrote, with secrets as templates may see them.
func hideSecrets(value any, at origin, read *bool) any {
	switch value := value.(type) {
	case string:
		if data, is := sealed.Text(value); is {
			return &secretValue{sealed: data, place: at, read: read}
		}
	case map[string]any:
		if inner, is := sealed.Mark(value); is {
			if text, isText := inner.(string); isText {
				if data, is := sealed.Text(text); is {
					return &secretValue{sealed: data, place: at, read: read}
				}
			}
			return &secretValue{value: inner, place: at, read: read}
		}
		out := make(map[string]any, len(value))
		for key, item := range value {
			out[key] = hideSecrets(item, origin{at.document, at.path + "." + key}, read)
		}
		return out
	case []any:
		out := make([]any, len(value))
		for i, item := range value {
			out[i] = hideSecrets(item, origin{at.document, fmt.Sprintf("%s[%d]", at.path, i)}, read)
		}
		return out
	}
	return value
}

// tainted makes a secret of what a template made with a secret's text.
func (v *view) tainted(value any) (any, error) {
	text := fmt.Sprint(value)
	if strings.Contains(text, sealedInText) {
		return nil, errors.New("a value that was sealed before cannot be part of a text; use it alone, or seal the whole text")
	}
	return &secretValue{value: value, read: &v.secretRead, place: origin{&v.cluster.Document, "spec.values"}}, nil
}

// take replaces secrets in a value of a bundle by placeholders, and adds them.
func (a *Assignment) take(value any, pointer string) (any, error) {
	switch value := value.(type) {
	case *secretValue:
		if renders(a.Bundle) && strings.HasPrefix(pointer, "/values") {
			return nil, value.place.errorf(a.Bundle, "bundle %q on cluster %q: %s is secret, but install: apply renders it in plain; use spec.helm.install: release",
				a.Bundle.Metadata.Name, a.Cluster, pointer)
		}
		if value.sealed == nil && a.to.IsZero() {
			return nil, value.place.errorf(a.Bundle, "bundle %q on cluster %q: %s is secret, and the cluster has no spec.recipients to seal it to; make a key with pinnace keys generate --age",
				a.Bundle.Metadata.Name, a.Cluster, pointer)
		}
		a.Secrets = append(a.Secrets, Secret{Path: pointer, Value: value.value, Sealed: value.sealed})
		return sealed.Placeholder(value.value), nil
	case map[string]any:
		out := make(map[string]any, len(value))
		for key, item := range value {
			taken, err := a.take(item, pointer+"/"+escapePointer(key))
			if err != nil {
				return nil, err
			}
			out[key] = taken
		}
		return out, nil
	case []any:
		out := make([]any, len(value))
		for i, item := range value {
			taken, err := a.take(item, pointer+"/"+strconv.Itoa(i))
			if err != nil {
				return nil, err
			}
			out[i] = taken
		}
		return out, nil
	}
	return value, nil
}

func escapePointer(key string) string {
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(key)
}

// setSecrets gives a bundle of a target what is sealed in it. What this publish seals gets its identity only: [Fleet.Seal]
// makes the ciphertext when the target is really issued.
func (f *Fleet) setSecrets(a Assignment, bundle *v1alpha1.TargetBundle) {
	used := "/variables/"
	if bundle.Release != nil {
		used = "/values/"
	}
	var paths []string
	var values []any
	for _, secret := range a.Secrets {
		switch {
		case !strings.HasPrefix(secret.Path, used):
		case secret.Sealed != nil:
			bundle.Sealed = append(bundle.Sealed, v1alpha1.SealedValues{Paths: []string{secret.Path}, Data: secret.Sealed})
		default:
			paths, values = append(paths, secret.Path), append(values, secret.Value)
		}
	}
	if len(paths) > 0 {
		// Without a key the identity stays empty: nobody who only looks can tell whether a secret changed.
		id, _ := sealed.ID(f.SealKey, a.to, bindingOf(a), paths, values)
		bundle.Sealed = append(bundle.Sealed, v1alpha1.SealedValues{Paths: paths, ID: id})
	}
}

func bindingOf(a Assignment) sealed.Binding {
	namespace := a.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	return sealed.Binding{Cluster: a.Cluster, Namespace: namespace, Name: a.Bundle.Metadata.Name}
}

// HasSecrets reports whether there is something to seal in a target.
func HasSecrets(target *v1alpha1.Target) bool {
	return slices.ContainsFunc(target.Bundles, func(bundle v1alpha1.TargetBundle) bool {
		return slices.ContainsFunc(bundle.Sealed, toSeal)
	})
}

func toSeal(values v1alpha1.SealedValues) bool { return len(values.Data) == 0 }

// Seal makes the ciphertexts of an assembled target. What is unchanged keeps the one that the cluster was given before:
// the published targets are the memory, so that any builder with the same key goes on where another stopped.
func (f *Fleet) Seal(plan ClusterPlan, target, before *v1alpha1.Target) error {
	known := map[string][]byte{}
	if before != nil {
		for _, bundle := range before.Bundles {
			for _, values := range bundle.Sealed {
				if values.ID != "" {
					known[bundle.Name+" "+values.ID] = values.Data
				}
			}
		}
	}
	assignments := map[string]Assignment{}
	for _, assignment := range plan.Selected() {
		assignments[assignment.Bundle.Metadata.Name] = assignment
	}
	for b := range target.Bundles {
		bundle := &target.Bundles[b]
		bundle.Sealed = slices.Clone(bundle.Sealed)
		for i := range bundle.Sealed {
			values := &bundle.Sealed[i]
			if !toSeal(*values) {
				continue
			}
			if values.ID == "" {
				return fmt.Errorf("bundle %q on cluster %q has secret values, and there is no key to tell later whether they changed; name a file that stays secret with --seal-key",
					bundle.Name, target.Cluster)
			}
			if values.Data = known[bundle.Name+" "+values.ID]; values.Data != nil {
				continue
			}
			var err error
			if values.Data, err = assignments[bundle.Name].seal(values.Paths); err != nil {
				return fmt.Errorf("bundle %q on cluster %q: %w", bundle.Name, target.Cluster, err)
			}
		}
	}
	return nil
}

// seal encrypts the values at the paths.
func (a Assignment) seal(paths []string) ([]byte, error) {
	byPath := map[string]any{}
	for _, secret := range a.Secrets {
		byPath[secret.Path] = secret.Value
	}
	values := make([]any, len(paths))
	for i, path := range paths {
		values[i] = byPath[path]
	}
	return sealed.Seal(a.to, bindingOf(a), values)
}

// KeepSealed gives a target that was assembled without a key what it had before where it has the same places: who only
// looks cannot tell more.
func KeepSealed(target, before *v1alpha1.Target) {
	known := map[string]v1alpha1.SealedValues{}
	for _, bundle := range before.Bundles {
		for _, values := range bundle.Sealed {
			known[bundle.Name+" "+strings.Join(values.Paths, " ")] = values
		}
	}
	for b := range target.Bundles {
		bundle := &target.Bundles[b]
		bundle.Sealed = slices.Clone(bundle.Sealed)
		for i, values := range bundle.Sealed {
			if same, found := known[bundle.Name+" "+strings.Join(values.Paths, " ")]; found && toSeal(values) && values.ID == "" {
				bundle.Sealed[i] = same
			}
		}
	}
}

// identities returns sealed values without ciphertexts that others of the same identity stand for as well.
func identities(all []v1alpha1.SealedValues) []v1alpha1.SealedValues {
	out := slices.Clone(all)
	for i := range out {
		if out[i].ID != "" {
			out[i].Data = nil
		}
	}
	return out
}

// takeSecrets takes the secrets out of an assignment's values and variables, where there may be any.
func (a *Assignment) takeSecrets(seen *view, variables map[string]any) error {
	var err error
	if a.to, err = seen.recipients(); err != nil {
		return err
	}
	if a.Values != nil {
		taken, err := a.take(map[string]any(a.Values), "/values")
		if err != nil {
			return err
		}
		a.Values = taken.(map[string]any) //nolint:forcetypeassert // a map stays a map
	}
	for name, value := range variables {
		taken, err := a.take(value, "/variables/"+escapePointer(name))
		if err != nil {
			return err
		}
		variables[name] = taken
	}
	slices.SortFunc(a.Secrets, func(x, y Secret) int { return strings.Compare(x.Path, y.Path) })
	return nil
}

// recipients reads the cluster's, once.
func (v *view) recipients() (sealed.Recipients, error) {
	if v.to == nil {
		to, err := sealed.ParseRecipients(v.cluster.Spec.Recipients)
		if err != nil {
			return to, v.cluster.Document.Errorf("spec.recipients", "cluster %q: %v", v.cluster.Metadata.Name, err)
		}
		v.to = &to
	}
	return *v.to, nil
}

// texts turns expanded variables into what manifests take.
func texts(variables map[string]any) map[string]string {
	if len(variables) == 0 {
		return nil
	}
	out := make(map[string]string, len(variables))
	for _, name := range slices.Sorted(maps.Keys(variables)) {
		out[name] = fmt.Sprint(variables[name])
	}
	return out
}
