package bundler_test

import (
	"strings"
	"testing"
)

func TestCheckShared(t *testing.T) {
	files := func(value string) map[string]string {
		return map[string]string{
			"web/Chart.yaml": "apiVersion: v2\nname: web\nversion: 1.0.0\n", "web/templates/a.yaml": deployment,
			"web/pinnace.yaml": "apiVersion: pinnace.dev/v1alpha1\nkind: Bundle\nmetadata: {name: web}\nspec:\n  helm:\n    values:\n      db:\n        password: " + value + "\n",
		}
	}
	found, err := discover(t, files("{secret: true, value: hunter2}"), "web")
	if err != nil {
		t.Fatal(err)
	}
	err = found[0].CheckShared()
	wantError(t, err, "web/pinnace.yaml:8", "the value is secret")
	if strings.Contains(err.Error(), "hunter2") {
		t.Errorf("the error shows the secret: %v", err)
	}
	if found, err = discover(t, files("plain"), "web"); err != nil {
		t.Fatal(err)
	}
	if err := found[0].CheckShared(); err != nil {
		t.Errorf("a plain value: %v", err)
	}
}
