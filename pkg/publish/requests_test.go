package publish

import (
	"net/http"
	"net/url"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pinnace.dev/pinnace/pkg/oci/registrytest"
)

// maxQuiet is how many requests a publish costs that changes nothing, whatever the size of the fleet.
const maxQuiet = 10

// What a publish asks for each cluster is most of what it takes: it is counted, on a registry that takes a blob with one
// request, and on one that wants two.
func TestRequestsForEachTarget(t *testing.T) {
	inTwo := func(w http.ResponseWriter, r *http.Request, honest http.Handler) {
		r.URL = &url.URL{Path: r.URL.Path}
		honest.ServeHTTP(w, r)
	}
	for _, test := range []struct {
		name       string
		lie        func(w http.ResponseWriter, r *http.Request, honest http.Handler)
		first      []string
		afterwards []string
	}{
		{
			name: "blobs with one request",
			first: []string{
				"HEAD manifest",                                                                            // is there one of another time?
				"POST upload", "POST upload", "PUT manifest", "POST upload", "POST upload", "PUT manifest", // it, and its signature
				"PUT manifest", // current
			},
			afterwards: []string{
				"POST upload", "PUT manifest", "POST upload", "POST upload", "PUT manifest", "PUT manifest",
			},
		},
		{
			name: "blobs with two requests", lie: inTwo,
			first: []string{
				"HEAD manifest",
				"POST upload", "PUT upload", "POST upload", "PUT upload", "PUT manifest",
				"POST upload", "PUT upload", "POST upload", "PUT upload", "PUT manifest",
				"PUT manifest",
			},
			afterwards: []string{
				"POST upload", "PUT upload", "PUT manifest",
				"POST upload", "PUT upload", "POST upload", "PUT upload", "PUT manifest", "PUT manifest",
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := registrytest.New(t)
			if test.lie != nil {
				server.Inject(registrytest.Fault{Match: registrytest.Match{Method: http.MethodPost}, Lie: test.lie})
			}
			dir := write(t, t.TempDir(), nil)
			opts := options(t, dir, releaseSigner(t))
			expect := func(what string, want []string) {
				t.Helper()
				server.Reset()
				mustRun(t, server.Registry(t), opts)
				for _, cluster := range []string{"east", "west"} {
					var got []string
					for _, r := range server.Requests(registrytest.Match{Repository: "fleet/targets/" + cluster}) {
						got = append(got, r.Method+" "+string(r.Kind))
					}
					if diff := cmp.Diff(want, got); diff != "" {
						t.Errorf("%s: %s (-want +got):\n%s", what, cluster, diff)
					}
				}
			}
			expect("first publish", test.first)
			expect("nothing changed", nil)
			if n := server.Count(registrytest.Match{}); n > maxQuiet {
				t.Errorf("nothing changed: %d requests, want at most %d", n, maxQuiet)
			}
			write(t, dir, map[string]string{"bundles/a/cm.yaml": configMap("a", "2")})
			expect("a bundle changed", test.afterwards)
		})
	}
}
