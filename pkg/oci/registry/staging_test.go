package registry_test

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/registry"
)

// request sends one, and returns where the upload goes on. An answer with another status ends the test.
func request(t *testing.T, method, url string, body []byte, status int) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != status {
		text, _ := io.ReadAll(resp.Body)
		t.Fatalf("%s %s: %s, want %d: %s", method, url, resp.Status, status, text)
	}
	next, err := resp.Request.URL.Parse(resp.Header.Get("Location"))
	if err != nil {
		t.Fatal(err)
	}
	return next.String()
}

func finish(t *testing.T, upload string, body, whole []byte) {
	t.Helper()
	separator := "?"
	if strings.Contains(upload, "?") {
		separator = "&"
	}
	request(t, http.MethodPut, upload+separator+"digest="+digest.FromBytes(whole).String(), body, http.StatusCreated)
}

// uploadFiles lists what is on the disk of uploads that aren't whole.
func uploadFiles(t *testing.T, root string) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && strings.Contains(name, "/_uploads/") {
			files = append(files, name)
		}
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return files
}

// An upload in pieces is whole again, whether it stays in memory, grows out of it, or goes on in another process.
func TestUploadsInPieces(t *testing.T) {
	for _, test := range []struct {
		name    string
		piece   int
		pieces  int
		restart bool
		onDisk  bool // before it is whole
	}{
		{name: "small", piece: 100, pieces: 3},
		{name: "of nothing", piece: 0, pieces: 1},
		{name: "grows large", piece: 400 << 10, pieces: 5, onDisk: true},
		{name: "large at once", piece: 3 << 20, pieces: 1, onDisk: true},
		{name: "small, and the registry is started anew", piece: 100, pieces: 3, restart: true, onDisk: true},
		{name: "large, and the registry is started anew", piece: 400 << 10, pieces: 5, restart: true, onDisk: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			root := t.TempDir()
			server, err := registry.Start(registry.Options{Root: root})
			if err != nil {
				t.Fatal(err)
			}
			base := "http://" + server.Addr + "/v2/fleet/a/b/blobs/"
			upload := request(t, http.MethodPost, base+"uploads/", nil, http.StatusAccepted)
			var whole []byte
			for i := range test.pieces {
				piece := bytes.Repeat([]byte{byte('a' + i)}, test.piece)
				upload = request(t, http.MethodPatch, upload, piece, http.StatusAccepted)
				whole = append(whole, piece...)
			}
			if test.restart {
				if err := server.Close(); err != nil {
					t.Fatal(err)
				}
				before := server.Addr
				server = start(t, registry.Options{Root: root})
				upload = strings.ReplaceAll(upload, before, server.Addr)
			} else {
				t.Cleanup(func() { _ = server.Close() })
			}
			if onDisk := len(uploadFiles(t, root)) > 0; onDisk != test.onDisk {
				t.Errorf("on the disk before it is whole: %v, want %v", onDisk, test.onDisk)
			}
			last := []byte("the last piece")
			whole = append(whole, last...)
			finish(t, upload, last, whole)
			repo := repository(t, server.Addr, "a/b", oci.Options{})
			desc := oci.Blob{MediaType: "text/plain", Data: whole}.Descriptor()
			if got, err := oci.ReadAll(t.Context(), repo, desc, int64(len(whole))); err != nil || !bytes.Equal(got, whole) {
				t.Errorf("%d bytes, %v; want the %d that were sent", len(got), err, len(whole))
			}
			if left := uploadFiles(t, root); len(left) > 0 {
				t.Errorf("left on the disk: %v", left)
			}
		})
	}
}

// What was sent wrong is no blob, and can be sent again.
func TestUploadOfAnotherDigest(t *testing.T) {
	server := start(t, registry.Options{Root: t.TempDir()})
	base := "http://" + server.Addr + "/v2/fleet/a/b/blobs/"
	upload := request(t, http.MethodPost, base+"uploads/", nil, http.StatusAccepted)
	wrong := upload + "&digest=" + digest.FromString("something else").String()
	request(t, http.MethodPut, wrong, []byte("content"), http.StatusBadRequest)
	upload = request(t, http.MethodPost, base+"uploads/", nil, http.StatusAccepted)
	finish(t, upload, []byte("content"), []byte("content"))
}

// Who begins uploads without end fills no memory: from some number on they are on the disk, and go on from there.
func TestManyUploads(t *testing.T) {
	root := t.TempDir()
	server := start(t, registry.Options{Root: root})
	base := "http://" + server.Addr + "/v2/fleet/a/b/blobs/"
	const held = 1024 // as many as staging takes
	var last string
	for range held + 1 {
		last = request(t, http.MethodPost, base+"uploads/", nil, http.StatusAccepted)
	}
	if len(uploadFiles(t, root)) == 0 {
		t.Errorf("all of %d uploads are in memory", held+1)
	}
	content := fmt.Append(nil, "content")
	finish(t, last, content, content)
}

// A manifest's link is written once for its tags, and again where it is old: a collection sees by it when it came last.
func TestManifestLinkIsWrittenOnce(t *testing.T) {
	root := t.TempDir()
	server := start(t, registry.Options{Root: root})
	repo := repository(t, server.Addr, "a", oci.Options{})
	if _, err := oci.PushNew(t.Context(), repo, artifact, "one"); err != nil {
		t.Fatal(err)
	}
	manifest := artifact.Manifest()
	link := filepath.Join(root, "docker/registry/v2/repositories/fleet/a/_manifests/revisions/sha256", manifest.Descriptor().Digest.Encoded(), "link")
	stat := func() os.FileInfo {
		t.Helper()
		info, err := os.Stat(link)
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	tag := func(tag string) {
		t.Helper()
		if err := repo.Push(t.Context(), manifest.Descriptor(), manifest.Data, tag); err != nil {
			t.Fatal(err)
		}
	}
	first := stat()
	tag("two")
	if !os.SameFile(first, stat()) {
		t.Error("another tag wrote the link again")
	}
	old := time.Now().Add(-registry.DefaultGrace / 2)
	if err := os.Chtimes(link, old, old); err != nil {
		t.Fatal(err)
	}
	tag("three")
	if !stat().ModTime().After(old) {
		t.Error("an old link was not written again: a collection would take the manifest for forgotten")
	}
	if err := repo.Delete(t.Context(), manifest.Descriptor()); err != nil {
		t.Fatal(err)
	}
	tag("four")
	if desc, err := repo.Resolve(t.Context(), "four"); err != nil || desc.Digest != manifest.Descriptor().Digest {
		t.Errorf("pushed after it was deleted: %s, %v", desc.Digest, err)
	}
}
