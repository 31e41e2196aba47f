package registry_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/registry"
)

// A blob that is sent with the request that begins its upload is there, whatever its size.
func TestWholeInOneRequest(t *testing.T) {
	for name, root := range map[string]string{"in memory": "", "in a folder": t.TempDir()} {
		t.Run(name, func(t *testing.T) {
			server := start(t, registry.Options{Root: root})
			repo := repository(t, server.Addr, "a/b", oci.Options{})
			for _, size := range []int{0, 2, 10 << 10, 3 << 20} {
				blob := oci.Blob{MediaType: "text/plain", Data: bytes.Repeat([]byte("x"), size)}
				desc := blob.Descriptor()
				at := "http://" + server.Addr + "/v2/fleet/a/b/blobs/"
				got := request(t, http.MethodPost, at+"uploads/?digest="+desc.Digest.String(), blob.Data, http.StatusCreated)
				if want := at + desc.Digest.String(); got != want {
					t.Errorf("%d bytes: it is at %s, want %s", size, got, want)
				}
				if data, err := oci.ReadAll(t.Context(), repo, desc, int64(size)); err != nil || !bytes.Equal(data, blob.Data) {
					t.Errorf("%d bytes: read %d, %v", size, len(data), err)
				}
			}
			if left := uploadFiles(t, root); root != "" && len(left) > 0 {
				t.Errorf("left on the disk: %v", left)
			}
		})
	}
}

// What is refused, or breaks off, is no blob and leaves nothing.
func TestWholeRefused(t *testing.T) {
	root := t.TempDir()
	server, err := registry.Start(registry.Options{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	at := "http://" + server.Addr + "/v2/fleet/a/b/blobs/uploads/"
	large := make([]byte, 3<<20) // more than waits in memory
	for _, content := range [][]byte{[]byte("content"), large} {
		request(t, http.MethodPost, at+"?digest="+digest.FromString("something else").String(), content, http.StatusBadRequest)
		request(t, http.MethodPost, at+"?digest=nonsense", content, http.StatusBadRequest)
	}
	cut, err := net.DialTimeout("tcp", server.Addr, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(cut, "POST /v2/fleet/a/b/blobs/uploads/?digest=%s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n",
		digest.FromBytes(large), server.Addr, len(large)); err != nil {
		t.Fatal(err)
	}
	if _, err := cut.Write(large[:2<<20]); err != nil {
		t.Fatal(err)
	}
	if err := cut.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(cut); err != nil || bytes.Contains(answer, []byte(" 201 ")) {
		t.Errorf("half of a blob: %s, %v", answer, err)
	}
	_ = cut.Close()
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	for _, file := range uploadFiles(t, root) {
		if name := filepath.Base(file); name == "data" || name == "startedat" { // what distribution forgets is empty
			t.Errorf("left on the disk: %s", file)
		}
	}
	if _, err := os.Stat(filepath.Join(root, "docker/registry/v2/blobs")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("there is a blob: %v", err)
	}
}

// Who may not push may not do it in one request either.
func TestWholeWithoutRights(t *testing.T) {
	const user = "ship:$2y$05$Sq5vXNmYWwMBrZAQJwAdIOGcyKoXeaHB4.jdsnNRBmXuCDZ1OMFrm" // some password
	htpasswd := filepath.Join(t.TempDir(), "htpasswd")
	if err := os.WriteFile(htpasswd, []byte(user), 0o600); err != nil {
		t.Fatal(err)
	}
	content := []byte("content")
	query := "/v2/fleet/a/blobs/uploads/?digest=" + digest.FromBytes(content).String()
	for _, test := range []struct {
		name string
		opts registry.Options
		want int
	}{
		{"nobody", registry.Options{Htpasswd: htpasswd}, http.StatusUnauthorized},
		{"nothing is written", registry.Options{ReadOnly: true}, http.StatusMethodNotAllowed},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := start(t, test.opts)
			request(t, http.MethodPost, "http://"+server.Addr+query, content, test.want)
		})
	}
}
