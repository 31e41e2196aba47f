package registrytest_test

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/registrytest"
)

// leavesAside answers as registries do that want a second request for the content of a blob.
func leavesAside(w http.ResponseWriter, r *http.Request, honest http.Handler) {
	begin := r.Clone(r.Context())
	begin.URL = &url.URL{Path: r.URL.Path}
	begin.Body, begin.ContentLength = http.NoBody, 0
	honest.ServeHTTP(w, begin)
}

// A small blob is sent with one request, and with two where the registry wants that: which is asked once.
func TestPushWhole(t *testing.T) {
	small, large := []byte("small"), make([]byte, 1<<20)
	for _, test := range []struct {
		name  string
		fault registrytest.Fault // of uploads that begin
		blobs [][]byte
		want  []string
		class error
	}{
		{name: "one request", blobs: [][]byte{small, {}}, want: []string{"POST", "POST"}},
		{name: "large", blobs: [][]byte{large}, want: []string{"POST", "PUT"}},
		{
			name: "the content is left aside", fault: registrytest.Fault{Lie: leavesAside},
			blobs: [][]byte{small, []byte("next")}, want: []string{"POST", "PUT", "POST", "PUT"},
		},
		{
			name: "the content is refused", fault: registrytest.Fault{Status: http.StatusRequestEntityTooLarge, Times: 1},
			blobs: [][]byte{small, []byte("next")}, want: []string{"POST", "POST", "PUT", "POST", "PUT"},
		},
		{
			name: "pushing is refused", fault: registrytest.Fault{Status: http.StatusForbidden, Times: 1},
			blobs: [][]byte{small}, want: []string{"POST"}, class: oci.ErrUnauthorized,
		},
		{
			name: "nobody says where it goes on", fault: registrytest.Fault{Status: http.StatusAccepted},
			blobs: [][]byte{small}, want: []string{"POST"}, class: oci.ErrDamaged,
		},
		{
			name: "it goes on elsewhere", blobs: [][]byte{small}, want: []string{"POST"}, class: oci.ErrUnauthorized,
			fault: registrytest.Fault{Lie: func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
				w.Header().Set("Location", "http://127.0.0.1:1/v2/a/blobs/uploads/1")
				w.WriteHeader(http.StatusAccepted)
			}},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			reg := registrytest.New(t)
			if test.fault.Status != 0 || test.fault.Lie != nil {
				test.fault.Match = registrytest.Match{Method: http.MethodPost}
				reg.Inject(test.fault)
			}
			repo, err := reg.Registry(t).Repository("a")
			if err != nil {
				t.Fatal(err)
			}
			for _, data := range test.blobs {
				blob := oci.Blob{MediaType: "text/plain", Data: data}
				err := repo.Push(t.Context(), blob.Descriptor(), data)
				if !errors.Is(err, test.class) {
					t.Errorf("push: %v, want %v", err, test.class)
				}
				if there, err := repo.Exists(t.Context(), blob.Descriptor()); err != nil || there != (test.class == nil) {
					t.Errorf("it is there: %v, %v", there, err)
				}
			}
			var methods []string
			for _, request := range reg.Requests(registrytest.Match{Kind: registrytest.KindUpload}) {
				methods = append(methods, request.Method)
			}
			if diff := cmp.Diff(test.want, methods); diff != "" {
				t.Errorf("requests (-want +got):\n%s", diff)
			}
		})
	}
}

// What a registry says of its refusal is handed on.
func TestPushWholeSaysWhy(t *testing.T) {
	reg := registrytest.New(t)
	reg.Inject(registrytest.Fault{Match: registrytest.Match{Method: http.MethodPost}, Lie: leavesAside})
	reg.Inject(registrytest.Fault{
		Match: registrytest.Match{Method: http.MethodPut}, Status: http.StatusRequestEntityTooLarge,
		Body: []byte(`{"errors": [{"code": "SIZE_INVALID", "message": "the project's quota is used up"}]}`),
	})
	repo, err := reg.Registry(t).Repository("a")
	if err != nil {
		t.Fatal(err)
	}
	blob := oci.Blob{MediaType: "text/plain", Data: []byte("content")}
	if err := repo.Push(t.Context(), blob.Descriptor(), blob.Data); err == nil || !strings.Contains(err.Error(), "the project's quota is used up") {
		t.Errorf("push: %v", err)
	}
}
