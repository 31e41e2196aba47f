package registrytest_test

import (
	"context"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/registry"
	"pinnace.dev/pinnace/pkg/oci/registrytest"
)

// What is certainly new is sent without a question, and a config that is there not at all; where it isn't there after
// all, it is sent.
func TestPushNew(t *testing.T) {
	handler, err := registry.New(registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	proxy := registrytest.NewProxy(handler)
	server := httptest.NewServer(proxy)
	t.Cleanup(func() {
		server.Close()
		_ = handler.Close()
	})
	reg, err := oci.Open(strings.TrimPrefix(server.URL, "http://")+"/fleet", oci.Options{PlainHTTP: true})
	if err != nil {
		t.Fatal(err)
	}
	artifact := func(text string) oci.Artifact {
		return oci.Artifact{Type: "application/vnd.example.v1", Layers: []oci.Blob{{MediaType: "text/plain", Data: []byte(text)}}}
	}
	for _, test := range []struct {
		name, repository, text string
		push                   func(context.Context, oci.Repository, oci.Artifact, ...string) (oci.Blob, error)
		want                   []string
	}{
		{"first", "a", "one", oci.PushNew, []string{"POST", "POST", "PUT"}},
		{"next", "a", "two", oci.PushNext, []string{"POST", "PUT"}},
		{"the config is gone", "b", "one", oci.PushNext, []string{"POST", "PUT", "POST", "POST", "PUT"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			repo, err := reg.Repository(test.repository)
			if err != nil {
				t.Fatal(err)
			}
			proxy.Reset()
			if _, err := test.push(t.Context(), repo, artifact(test.text), "v"); err != nil {
				t.Fatal(err)
			}
			var methods []string
			for _, request := range proxy.Requests(registrytest.Match{}) {
				methods = append(methods, request.Method)
			}
			if diff := cmp.Diff(test.want, methods); diff != "" {
				t.Errorf("requests (-want +got):\n%s", diff)
			}
			if desc, err := repo.Resolve(t.Context(), "v"); err != nil || desc.Digest != artifact(test.text).Descriptor().Digest {
				t.Errorf("the tag points at %s, %v", desc.Digest, err)
			}
			config := oci.Blob{MediaType: "application/vnd.oci.empty.v1+json", Data: []byte("{}")}
			if there, err := repo.Exists(t.Context(), config.Descriptor()); err != nil || !there {
				t.Errorf("the config is there: %v, %v", there, err)
			}
		})
	}
}
