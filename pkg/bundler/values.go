package bundler

import (
	"fmt"
	"path"

	utiljson "k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/yaml"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/sealed"
)

// mergeValuesFiles puts the files' values, each over those before it, under spec.helm.values.
func (f *Found) mergeValuesFiles() error {
	helm := f.Bundle.Spec.Helm
	merged := v1alpha1.Values{}
	for i, name := range helm.ValuesFiles {
		place := fmt.Sprintf("spec.helm.valuesFiles[%d]", i)
		content, err := f.folder().File(name)
		if err != nil {
			return f.Document.Errorf(place, "%v", err)
		}
		if sealed.IsSOPS(content) {
			return f.Document.Errorf(place, "%s: is encrypted by SOPS, and values are merged before the cluster is reached; put them into a Secret that SOPS encrypts, in a bundle that this one depends on, and name it in spec.helm.valuesFrom",
				path.Join(f.Source.Path, name))
		}
		values := v1alpha1.Values{}
		data, err := yaml.YAMLToJSONStrict(content)
		if err == nil {
			err = utiljson.Unmarshal(data, &values)
		}
		if err != nil {
			return f.Document.Errorf(place, "%s: %v", path.Join(f.Source.Path, name), err)
		}
		merged = v1alpha1.MergeValues(merged, values)
	}
	if len(helm.ValuesFiles) > 0 {
		helm.Values = v1alpha1.MergeValues(merged, helm.Values)
		helm.ValuesFiles = nil
	}
	return nil
}
