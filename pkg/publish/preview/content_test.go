package preview

import (
	"testing"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci/archive"
)

func pack(t *testing.T, folder string, files map[string]string) []byte {
	t.Helper()
	contents := map[string][]byte{}
	for name, text := range files {
		contents[name] = []byte(text)
	}
	packed, err := archive.Pack(folder, contents, archive.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return packed
}

func TestObjectsOfManifests(t *testing.T) {
	layer := pack(t, "", map[string]string{"manifests.yaml": "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {x: '${SITE}'}}\n---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: b}}\n"})
	got, err := Objects(v1alpha1.TargetBundle{Method: v1alpha1.MethodApply}, layer)
	if err != nil || len(got) != 2 || got[0].GetName() != "a" || got[1].GetName() != "b" {
		t.Errorf("got %v, %v, want a and b", got, err)
	}
}

var chart = map[string]string{
	"Chart.yaml": "{apiVersion: v2, name: shop, version: 1.0.0}",
	"templates/a.yaml": `
apiVersion: v1
kind: ConfigMap
metadata: {name: "{{ .Release.Name }}", namespace: "{{ .Release.Namespace }}"}
data:
  large: "{{ .Values.large }}"
  random: "{{ randAlphaNum 20 }}"
  needed: "{{ required "needed is not set" .Values.needed }}"
`,
}

func TestObjectsOfAChart(t *testing.T) {
	got, err := Objects(*bundle("1", v1alpha1.Values{"large": 10_000_000, "needed": "x"}), pack(t, "shop", chart))
	if err != nil || len(got) != 1 {
		t.Fatalf("got %v, %v, want one object", got, err)
	}
	data, _ := got[0].Object["data"].(map[string]any)
	if got[0].GetName() != "shop" || got[0].GetNamespace() != "shop" || data["large"] != "10000000" || data["random"] != Random {
		t.Errorf("got %v", got[0].Object)
	}
}

func TestObjectsSayWhatIsWrong(t *testing.T) {
	for name, layer := range map[string][]byte{
		"no archive":    []byte("nothing"),
		"no chart":      pack(t, "", map[string]string{"a.yaml": "", "b.yaml": ""}),
		"value missing": pack(t, "shop", chart),
	} {
		if got, err := Objects(*bundle("1", nil), layer); err == nil {
			t.Errorf("%s: got %v and no error", name, got)
		}
	}
}
