package registry_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/registry"
)

// converse writes bytes and reads the answer's status; 0 is none. The server must close the connection by itself.
func converse(t *testing.T, addr, request string, more io.Reader) (status int) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	answered := make(chan int, 1)
	go func() {
		defer close(answered)
		reader := bufio.NewReader(conn)
		response, err := http.ReadResponse(reader, nil)
		if err == nil {
			answered <- response.StatusCode
			_, err = io.Copy(io.Discard, reader)
			_ = response.Body.Close()
		}
		if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
			t.Error("the registry keeps the connection open")
		}
	}()
	if _, err := io.WriteString(conn, request); err == nil && more != nil {
		_, _ = io.Copy(conn, more) // it may hang up in the middle
	}
	return <-answered
}

type forever struct{ chunk string }

func (f forever) Read(p []byte) (int, error) { return copy(p, f.chunk), nil }

// What hostile clients send to a registry that listens: each is refused or given up, and honest ones are served.
func TestAbuse(t *testing.T) {
	t.Parallel()
	server := start(t, registry.Options{Stall: 200 * time.Millisecond})
	repo := repository(t, server.Addr, "bundles/web", oci.Options{})
	if _, _, err := oci.Push(t.Context(), repo, artifact, "v1"); err != nil {
		t.Fatal(err)
	}
	put := "PUT /v2/fleet/bundles/web/manifests/v1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/vnd.oci.image.manifest.v1+json\r\n"
	refused := []int{400, 404, 405, 411, 413, 416, 500}
	for _, tt := range []struct {
		name, request string
		more          io.Reader
		want          []int
	}{
		{"headers that never end", "GET /v2/ HTTP/1.1\r\nHost: a\r\n", forever{"X-A: " + strings.Repeat("a", 1000) + "\r\n"}, []int{431, 0}},
		{"half a header, and silence", "GET /v2/ HTTP/1.1\r\nHo", nil, []int{400, 0}},
		{"no HTTP", "\x00\x01\x02\r\n\r\n", nil, []int{400}},
		{"a manifest that never comes", put + "Content-Length: 100\r\n\r\n{", nil, append(refused, 499, 0)},
		{"a manifest that never ends", put + "Transfer-Encoding: chunked\r\n\r\n", forever{"10\r\n" + strings.Repeat(" ", 16) + "\r\n"}, append(refused, 499, 0)},
		{"a manifest of 8 MiB", put + fmt.Sprintf("Content-Length: %d\r\n\r\n", 8<<20), strings.NewReader(strings.Repeat(" ", 8<<20)), append(refused, 499, 0)},
		{"a manifest that is none", put + "Content-Length: 4\r\n\r\nnull", nil, refused},
		{"a manifest that nests", put + fmt.Sprintf("Content-Length: %d\r\n\r\n", 1<<20), strings.NewReader(strings.Repeat("[", 1<<20)), append(refused, 499, 0)},
		{"a name that climbs", "PUT /v2/../../etc/blobs/uploads/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", nil, append(refused, 301, 307)},
		{"an upload that nobody began", "PATCH /v2/fleet/bundles/web/blobs/uploads/00000000-0000-0000-0000-000000000000 HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx", nil, refused},
		{"a range beyond the end", "GET /v2/fleet/bundles/web/blobs/" + digest.FromString("hello").String() + " HTTP/1.1\r\nHost: a\r\nConnection: close\r\nRange: bytes=99999999999-\r\n\r\n", nil, []int{416}},
		{"a page of a billion", "GET /v2/fleet/bundles/web/tags/list?n=1000000000 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", nil, []int{200, 400}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := converse(t, server.Addr, tt.request, tt.more); !slices.Contains(tt.want, got) {
				t.Errorf("status %d, want one of %v", got, tt.want)
			}
		})
	}
	desc, data, err := oci.FetchTagged(t.Context(), repo, "v1")
	if err != nil || desc.Digest != artifact.Descriptor().Digest || len(data) == 0 {
		t.Errorf("afterwards: %s (%v)", desc.Digest, err)
	}
}

// A body that comes slowly, but comes, is taken, whatever it takes in all.
func TestSlowUpload(t *testing.T) {
	t.Parallel()
	const stall = 300 * time.Millisecond
	server := start(t, registry.Options{Stall: stall})
	repo := repository(t, server.Addr, "bundles/web", oci.Options{})
	if _, _, err := oci.Push(t.Context(), repo, artifact, "v1"); err != nil {
		t.Fatal(err)
	}
	_, manifest, err := oci.FetchTagged(t.Context(), repo, "v1")
	if err != nil {
		t.Fatal(err)
	}
	body, sender := io.Pipe()
	go func() {
		tick := time.NewTicker(stall / 3)
		defer tick.Stop()
		for part := range slices.Chunk(manifest, len(manifest)/6+1) {
			<-tick.C
			if _, err := sender.Write(part); err != nil {
				return
			}
		}
		_ = sender.Close()
	}()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+server.Addr+"/v2/fleet/bundles/web/manifests/v2", body)
	if err != nil {
		t.Fatal(err)
	}
	request.ContentLength = int64(len(manifest))
	request.Header.Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusCreated {
		t.Errorf("status %d, want 201", response.StatusCode)
	}
}

// Many clients write and read at once, also the same content and the same tag: nothing is lost or mixed.
func TestCrowd(t *testing.T) {
	t.Parallel()
	server := start(t, registry.Options{})
	crowd, ctx := errgroup.WithContext(t.Context())
	for i := range 32 {
		crowd.Go(func() error {
			repo := repository(t, server.Addr, fmt.Sprintf("bundles/b%d", i%4), oci.Options{})
			one := artifact
			one.Layers = []oci.Blob{{MediaType: "text/plain", Data: bytes.Repeat([]byte{byte(i % 8)}, 10_000)}}
			desc, _, err := oci.Push(ctx, repo, one, fmt.Sprint("v", i), "latest")
			if err != nil {
				return err
			}
			return readBack(ctx, repo, fmt.Sprint("v", i), desc.Digest, one.Layers[0])
		})
	}
	if err := crowd.Wait(); err != nil {
		t.Error(err)
	}
}

func readBack(ctx context.Context, repo oci.Repository, tag string, want digest.Digest, layer oci.Blob) error {
	desc, _, err := oci.FetchTagged(ctx, repo, tag)
	if err != nil {
		return err
	}
	data, err := oci.ReadAll(ctx, repo, layer.Descriptor(), 1<<20)
	if err == nil && (desc.Digest != want || !bytes.Equal(data, layer.Data)) {
		err = fmt.Errorf("%s:%s is %s, want %s", repo, tag, desc.Digest, want)
	}
	return err
}
