package registry_test

import (
	"bytes"
	"io"
	"net/http"
	"runtime"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/registry"
)

// A blob is answered alike, whether it is small enough to be read whole or not, from a folder and from memory.
func TestBlobs(t *testing.T) {
	for place, root := range map[string]string{"memory": "", "folder": t.TempDir()} {
		server := start(t, registry.Options{Root: root})
		repo := repository(t, server.Addr, "blobs", oci.Options{})
		for _, size := range []int{5, 1 << 20, 1<<20 + 1} {
			blob := oci.Blob{MediaType: "text/plain", Data: bytes.Repeat([]byte{'b'}, size)}
			if err := repo.Push(t.Context(), blob.Descriptor(), blob.Data); err != nil {
				t.Fatal(err)
			}
			digest := blob.Descriptor().Digest.String()
			always := http.Header{
				"Etag": {strconv.Quote(digest)}, "Docker-Content-Digest": {digest}, "Cache-Control": {"max-age=31536000"},
			}
			for _, ask := range []struct {
				name, method string
				header       http.Header
				status       int
				length, body int
			}{
				{"all of it", http.MethodGet, nil, http.StatusOK, size, size},
				{"whether it is there", http.MethodHead, nil, http.StatusOK, size, 0},
				{"the rest of it", http.MethodGet, http.Header{"Range": {"bytes=3-"}}, http.StatusPartialContent, size - 3, size - 3},
				{"a range beyond it", http.MethodGet, http.Header{"Range": {"bytes=9999999-"}}, http.StatusRequestedRangeNotSatisfiable, -1, -1},
				{"whether it changed", http.MethodGet, http.Header{"If-None-Match": always["Etag"]}, http.StatusNotModified, -1, 0},
			} {
				request, err := http.NewRequestWithContext(t.Context(), ask.method, "http://"+server.Addr+"/v2/fleet/blobs/blobs/"+digest, nil)
				if err != nil {
					t.Fatal(err)
				}
				request.Header = ask.header
				response, err := http.DefaultClient.Do(request)
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(response.Body)
				_ = response.Body.Close()
				subject := place + ", " + strconv.Itoa(size) + " bytes, " + ask.name
				if err != nil || response.StatusCode != ask.status {
					t.Errorf("%s: got %s, %v, want %d", subject, response.Status, err, ask.status)
				}
				if ask.length >= 0 && (response.ContentLength != int64(ask.length) || len(body) != ask.body) {
					t.Errorf("%s: got %d bytes of %d, want %d of %d", subject, len(body), response.ContentLength, ask.body, ask.length)
				}
				if ask.body < 0 {
					continue
				}
				got := http.Header{}
				for name := range always {
					got[name] = response.Header[name]
				}
				if diff := cmp.Diff(always, got); diff != "" {
					t.Errorf("%s: headers (-want +got):\n%s", subject, diff)
				}
			}
		}
	}
}

// Thousands of agents ask for small blobs: an answer takes about as much memory as it is long.
func TestSmallBlobsTakeLittleMemory(t *testing.T) {
	for place, root := range map[string]string{"memory": "", "folder": t.TempDir()} {
		server := start(t, registry.Options{Root: root})
		repo := repository(t, server.Addr, "blobs", oci.Options{})
		blob := oci.Blob{MediaType: "text/plain", Data: bytes.Repeat([]byte{'b'}, 4<<10)}
		if err := repo.Push(t.Context(), blob.Descriptor(), blob.Data); err != nil {
			t.Fatal(err)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		const times = 20
		for range times {
			if _, err := oci.ReadAll(t.Context(), repo, blob.Descriptor(), 1<<20); err != nil {
				t.Fatal(err)
			}
		}
		runtime.ReadMemStats(&after)
		if got := (after.TotalAlloc - before.TotalAlloc) / times; got > 1<<20 {
			t.Errorf("%s: one answer of %d bytes allocated %d, want less than 1 MiB", place, len(blob.Data), got)
		}
	}
}
