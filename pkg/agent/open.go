package agent

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/manifests"
	"pinnace.dev/pinnace/pkg/sealed"
)

// What is opened here lives in memory only: records, status and logs hold the bundle as the target names it, sealed.

// identities reads the cluster's keys.
func (a *Agent) identities() (sealed.Identities, error) {
	if a.cfg.Identities == nil {
		return sealed.Identities{}, nil // opening says that there is none
	}
	return a.cfg.Identities()
}

// openValues puts sealed values and variables in their places, in the deployment's own copy of the bundle.
func (a *Agent) openValues(deployment *Deployment) error {
	bundle := &deployment.Bundle
	if len(bundle.Sealed) == 0 {
		return nil
	}
	with, err := a.identities()
	if err != nil {
		return notOpened(bundle, err)
	}
	bundle.Variables = maps.Clone(bundle.Variables)
	if bundle.Release != nil {
		release := *bundle.Release
		release.Values = release.Values.DeepCopy()
		bundle.Release = &release
	}
	binding := sealed.Binding{Cluster: a.cfg.Cluster, Namespace: bundle.Namespace, Name: bundle.Name}
	for _, one := range bundle.Sealed {
		values, err := sealed.Open(with, binding, one.Data)
		if err == nil && len(values) != len(one.Paths) {
			err = fmt.Errorf("%w: %d values for %d places", sealed.ErrDamaged, len(values), len(one.Paths))
		}
		if err != nil {
			return notOpened(bundle, fmt.Errorf("%s: %w", few(one.Paths), err))
		}
		for i, path := range one.Paths {
			if err := put(bundle, path, values[i]); err != nil {
				return notOpened(bundle, err)
			}
			deployment.secrets = appendTexts(deployment.secrets, values[i])
		}
	}
	return nil
}

// openObjects reads the layer's objects, with what SOPS encrypted and what was sealed in Secrets opened.
func (a *Agent) openObjects(deployment *Deployment, layer []byte) error {
	bundle := &deployment.Bundle
	var keysErr error
	objects, err := manifests.ReadSealed(layer, func(file []byte) ([]byte, error) {
		with, err := a.identities()
		if err != nil {
			keysErr = err
			return nil, err
		}
		plain, secrets, err := sealed.OpenSOPS(with, file)
		deployment.secrets = append(deployment.secrets, secrets...)
		return plain, err
	})
	switch {
	case keysErr != nil, errors.Is(err, sealed.ErrNoIdentity), errors.Is(err, sealed.ErrDamaged):
		return notOpened(bundle, err)
	case err != nil:
		return invalid(bundle, hide(err, deployment.secrets))
	}
	deployment.Objects = objects
	for _, object := range objects {
		if !sealed.HasSealed(object.Object) {
			continue
		}
		with, err := a.identities()
		if err != nil {
			return notOpened(bundle, err)
		}
		secrets, err := sealed.OpenSecret(with, a.cfg.Cluster, bundle.Namespace, object.Object)
		if err != nil {
			return notOpened(bundle, err)
		}
		deployment.secrets = append(deployment.secrets, secrets...)
	}
	return nil
}

func notOpened(bundle *v1alpha1.TargetBundle, err error) error {
	return &Error{
		Stage: StageOpen, Subject: subject(bundle), Reason: ReasonNotOpened, Err: oneLine(err),
		Mend: "name the key that it was sealed to in spec.identities of this agent's configuration, or set the cluster's spec.recipients and publish again",
	}
}

// put sets what a JSON pointer names: /variables/NAME, or /values/… of the release. Only what has a placeholder can be
// set, so that a target says all of its bundle in plain but the values themselves.
func put(bundle *v1alpha1.TargetBundle, pointer string, value any) error {
	steps := strings.Split(pointer, "/")
	for i, step := range steps {
		steps[i] = strings.NewReplacer("~1", "/", "~0", "~").Replace(step)
	}
	if len(steps) < 3 || steps[0] != "" {
		return fmt.Errorf("%q is no place for a sealed value", pointer)
	}
	absent := fmt.Errorf("there is no %s for a sealed value", pointer)
	steps, last := steps[1:len(steps)-1], steps[len(steps)-1]
	if steps[0] == "variables" && len(steps) == 1 {
		if _, there := bundle.Variables[last]; !there {
			return absent
		}
		bundle.Variables[last] = fmt.Sprint(value)
		return nil
	}
	if steps[0] != "values" || bundle.Release == nil {
		return absent
	}
	var at any = map[string]any(bundle.Release.Values)
	for _, step := range steps[1:] {
		at = child(at, step)
	}
	switch at := at.(type) {
	case map[string]any:
		if _, there := at[last]; there {
			at[last] = value
			return nil
		}
	case []any:
		if i, err := strconv.Atoi(last); err == nil && i >= 0 && i < len(at) {
			at[i] = value
			return nil
		}
	}
	return absent
}

func child(of any, step string) any {
	switch of := of.(type) {
	case map[string]any:
		return of[step]
	case []any:
		if i, err := strconv.Atoi(step); err == nil && i >= 0 && i < len(of) {
			return of[i]
		}
	}
	return nil
}

// appendTexts adds the texts in a value.
func appendTexts(texts []string, value any) []string {
	switch value := value.(type) {
	case string:
		return append(texts, value)
	case map[string]any:
		for _, item := range value {
			texts = appendTexts(texts, item)
		}
	case []any:
		for _, item := range value {
			texts = appendTexts(texts, item)
		}
	}
	return texts
}

// minHidden is how long a secret must be to be looked for: shorter ones are in every text.
const minHidden = 4

// hide keeps secrets out of an error's text: an API server quotes the value that it refuses.
func hide(err error, secrets []string) error {
	if err == nil || len(secrets) == 0 {
		return err
	}
	text := hideText(err.Error(), secrets)
	if text == err.Error() {
		return err
	}
	return hiddenError{error: err, text: text}
}

// hideProblems keeps secrets out of what objects say of themselves: a container may end with its password on its lips.
func hideProblems(problems []v1alpha1.Problem, secrets []string) []v1alpha1.Problem {
	if len(secrets) == 0 {
		return problems
	}
	hidden := slices.Clone(problems)
	for i := range hidden {
		hidden[i].Message = hideText(hidden[i].Message, secrets)
	}
	return hidden
}

func hideText(text string, secrets []string) string {
	// The longest first: a secret may hold another.
	longest := slices.SortedFunc(slices.Values(secrets), func(a, b string) int { return len(b) - len(a) })
	for _, secret := range longest {
		if len(secret) >= minHidden {
			text = strings.ReplaceAll(text, secret, "***")
			if quoted := strconv.Quote(secret); len(quoted) > len(secret)+2 {
				text = strings.ReplaceAll(text, quoted[1:len(quoted)-1], "***")
			}
		}
	}
	return text
}

// conceal notes what nothing may show from here on. Of a version that could not be brought some may run, and the one
// before runs yet.
func (u *unit) conceal(done outcome) {
	secrets := done.secrets
	if done.err != nil {
		secrets = slices.Concat(u.secrets, secrets)
		slices.Sort(secrets)
		secrets = slices.Compact(secrets)
	}
	u.secrets = secrets
}

// hiddenError is an error with secrets taken out of its text.
type hiddenError struct {
	error
	text string
}

func (e hiddenError) Error() string { return e.text }

func (e hiddenError) Unwrap() error { return e.error }
