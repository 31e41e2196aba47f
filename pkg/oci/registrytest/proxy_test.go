package registrytest_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/registrytest"
)

var artifact = oci.Artifact{
	Type: "application/vnd.example.v1", Layers: []oci.Blob{{MediaType: "text/plain", Data: []byte("hello, world")}},
}

func pushed(t *testing.T) (*registrytest.Server, oci.Repository) {
	t.Helper()
	server := registrytest.New(t)
	repo, err := server.Registry(t).Repository("targets/a")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := oci.Push(t.Context(), repo, artifact, "current"); err != nil {
		t.Fatal(err)
	}
	server.Reset()
	return server, repo
}

func TestRequestsAreRecorded(t *testing.T) {
	server, repo := pushed(t)
	if _, err := repo.Resolve(t.Context(), "current"); err != nil {
		t.Fatal(err)
	}
	if _, err := repo.Tags(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := []registrytest.Request{
		{Method: http.MethodHead, Kind: registrytest.KindManifest, Repository: "fleet/targets/a", Reference: "current"},
		{Method: http.MethodGet, Kind: registrytest.KindTags, Repository: "fleet/targets/a", Reference: "list"},
	}
	if diff := cmp.Diff(want, server.Requests(registrytest.Match{Repository: "fleet/*"}), cmpopts.IgnoreFields(registrytest.Request{}, "At")); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	if got := server.Count(registrytest.Match{Method: http.MethodPut}); got != 0 {
		t.Errorf("PUTs: got %d, want 0", got)
	}
}

func TestFaults(t *testing.T) {
	layer := artifact.Layers[0].Descriptor()
	blob := registrytest.Match{Method: http.MethodGet, Kind: registrytest.KindBlob}
	for _, tt := range []struct {
		name  string
		fault registrytest.Fault
		want  error
	}{
		{"corrupt", registrytest.Fault{Match: blob, Corrupt: true}, oci.ErrDamaged},
		{"cut", registrytest.Fault{Match: blob, Cut: 5}, io.ErrUnexpectedEOF},
		{"garbage", registrytest.Fault{Match: blob, Body: []byte("HELLO, WORLD")}, oci.ErrDamaged},
		{"forbidden", registrytest.Fault{Match: blob, Status: http.StatusForbidden}, oci.ErrUnauthorized},
		{"unauthorised", registrytest.Fault{Match: blob, Status: http.StatusUnauthorized}, oci.ErrUnauthorized},
		{"overloaded once", registrytest.Fault{Match: blob, Status: http.StatusTooManyRequests, Times: 1}, nil},
		{"another request's", registrytest.Fault{Match: registrytest.Match{Method: http.MethodPut}, Drop: true}, nil},
		{"later", registrytest.Fault{Match: blob, Corrupt: true, Skip: 1}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server, repo := pushed(t)
			server.Inject(tt.fault)
			_, err := oci.ReadAll(t.Context(), repo, layer, 1<<20)
			if !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			server.Heal()
			if _, err := oci.ReadAll(t.Context(), repo, layer, 1<<20); err != nil {
				t.Errorf("healed: %v", err)
			}
		})
	}
}

func TestDelayEndsWithItsClient(t *testing.T) {
	server, repo := pushed(t)
	server.Inject(registrytest.Fault{Delay: time.Hour})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := repo.Resolve(ctx, "current"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want %v", err, context.DeadlineExceeded)
	}
}
