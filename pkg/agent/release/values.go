package release

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/agent/apply"
)

// values returns the release's values: those of valuesFrom in order, and the target's over them. Errors name keys,
// never values.
func (r *Releaser) values(ctx context.Context, release Release) (map[string]any, error) {
	values := map[string]any{}
	for _, from := range release.Helm.ValuesFrom {
		more, err := r.valuesFrom(ctx, release, from)
		if err != nil {
			return nil, err
		}
		values = v1alpha1.MergeValues(values, more)
	}
	return v1alpha1.MergeValues(values, release.Values.DeepCopy()), nil
}

func (r *Releaser) valuesFrom(ctx context.Context, release Release, from v1alpha1.ValuesReference) (map[string]any, error) {
	kind, key := "ConfigMap", from.ConfigMapKeyRef
	if from.SecretKeyRef != nil {
		kind, key = "Secret", from.SecretKeyRef
	}
	if key == nil {
		return nil, fmt.Errorf("helm.valuesFrom: set secretKeyRef or configMapKeyRef")
	}
	name := key.Key
	if name == "" {
		name = "values.yaml"
	}
	ref := apply.Ref{APIVersion: "v1", Kind: kind, Namespace: release.Namespace, Name: key.Name}
	object, err := r.applier.Get(ctx, release.AsBundle(), ref)
	if apierrors.IsNotFound(err) && key.Optional {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read values from %s: %w", ref, err)
	}
	text, ok, err := unstructured.NestedString(object.Object, "data", name)
	if err != nil || !ok {
		if key.Optional {
			return nil, nil
		}
		return nil, fmt.Errorf("read values from %s: it has no key %q", ref, name)
	}
	if kind == "Secret" {
		plain, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return nil, fmt.Errorf("read values from %s: key %q is not base64", ref, name)
		}
		text = string(plain)
	}
	var values map[string]any
	if err := yaml.Unmarshal([]byte(text), &values); err != nil {
		return nil, fmt.Errorf("read values from %s: key %q is not a YAML map", ref, name) // the cause may show values
	}
	return values, nil
}

// digest of everything that a release is made from, to know whether it must be made again. It is a label's value.
func digest(release Release, values map[string]any) (string, error) {
	inputs := struct {
		Chart        [sha256.Size]byte
		Values       map[string]any
		Bundle       string
		Prune        v1alpha1.Prune
		DisableHooks bool
		SkipCRDs     bool
		ReplaceCRDs  bool
		Test         bool
	}{
		Chart: sha256.Sum256(release.Chart), Values: values, Bundle: release.Bundle, Prune: release.Options.Prune,
		DisableHooks: release.Helm.DisableHooks, SkipCRDs: release.Helm.SkipCRDs, ReplaceCRDs: release.Helm.ReplaceCRDs,
		Test: release.Helm.Test,
	}
	encoded, err := json.Marshal(inputs)
	if err != nil {
		return "", fmt.Errorf("encode values: %w", err)
	}
	sum := sha256.Sum256(encoded)
	return hex.EncodeToString(sum[:16]), nil
}
