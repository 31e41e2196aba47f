package chartref_test

import (
	"net/url"
	"strings"
	"testing"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/bundler/chartref"
)

func TestParse(t *testing.T) {
	tests := []struct {
		name string
		helm v1alpha1.Helm
		want string // what it is recorded under; none for a chart in the source
		err  string
	}{
		{"a folder", v1alpha1.Helm{Chart: "./chart"}, "", ""},
		{"the bundle itself", v1alpha1.Helm{}, "", ""},
		{"classic", v1alpha1.Helm{Repository: "https://charts.example/stable/", Chart: "web", Version: ">=1 <2"}, "https://charts.example/stable/web@>=1 <2", ""},
		{"registry", v1alpha1.Helm{Repository: "oci://ghcr.io/acme/charts", Chart: "web"}, "oci://ghcr.io/acme/charts/web", ""},
		{"the same in one", v1alpha1.Helm{Chart: "oci://ghcr.io/acme/charts/web", Version: "1.0.0"}, "oci://ghcr.io/acme/charts/web@1.0.0", ""},
		{"packed", v1alpha1.Helm{Chart: "https://example.com/web-1.0.0.tgz"}, "https://example.com/web-1.0.0.tgz", ""},
		{"packed with a version", v1alpha1.Helm{Chart: "https://example.com/web-1.0.0.tgz", Version: "1.0.0"}, "", "names one version"},
		{"no name", v1alpha1.Helm{Repository: "https://charts.example"}, "", "is no name of a chart"},
		{"a path as name", v1alpha1.Helm{Repository: "https://charts.example", Chart: "../web"}, "", "is no name of a chart"},
		{"another scheme", v1alpha1.Helm{Repository: "s3://charts", Chart: "web"}, "", "neither https:// nor oci://"},
		{"no host", v1alpha1.Helm{Repository: "https:///charts", Chart: "web"}, "", "names no host"},
		{"credentials", v1alpha1.Helm{Chart: "https://me:secret@example.com/web.tgz"}, "", "holds credentials"},
		{"no range", v1alpha1.Helm{Repository: "https://charts.example", Chart: "web", Version: "newest"}, "", "neither a version nor a range"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			ref, remote, err := chartref.Parse(test.helm)
			switch {
			case test.err != "":
				if err == nil || !strings.Contains(err.Error(), test.err) || strings.Contains(err.Error(), "secret") {
					t.Errorf("got %v, want %s", err, test.err)
				}
			case err != nil:
				t.Error(err)
			case remote != (test.want != "") || remote && ref.String() != test.want:
				t.Errorf("got %q, want %q", ref, test.want)
			}
		})
	}
}

func TestHighest(t *testing.T) {
	versions := []string{"1.2.0", "v1.10.0", "2.0.0", "1.11.0-rc.1", "latest", "1.10.0+build"}
	for within, want := range map[string]int{"": 2, "^1": 1, "1.2.0": 0, "1.11.0-rc.1": 3, ">=1.11.0-0 <2": 3, ">=3": -1, "1.10.0+build": 5} {
		got, err := chartref.Reference{Version: within}.Highest(versions)
		if err != nil || got != want {
			t.Errorf("%q: got %d, %v, want %d", within, got, err, want)
		}
	}
}

// What is accepted is reached by https, http or OCI, at a host, without credentials.
func FuzzParse(f *testing.F) {
	f.Add("https://charts.example", "web", ">=1")
	f.Add("oci://ghcr.io/acme", "web", "")
	f.Add("", "oci://ghcr.io/acme/web", "1.0.0")
	f.Add("", "https://u:p@h/x.tgz", "")
	f.Add("https://h/%2e%2e/%00", "..", "*")
	f.Fuzz(func(t *testing.T, repository, name, version string) {
		ref, remote, err := chartref.Parse(v1alpha1.Helm{Repository: repository, Chart: name, Version: version})
		if err != nil || !remote {
			return
		}
		location := ref.Repository
		if location == "" {
			location = ref.Name
		}
		parsed, err := url.Parse(location)
		if err != nil || parsed.Host == "" || parsed.User != nil {
			t.Errorf("%q, %q: got %+v, %v", repository, name, ref, err)
		}
	})
}
