package archive

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func reg(name, content string) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(content)), Mode: 0o644}, content}
}

type entry struct {
	header  tar.Header
	content string
}

func pack(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var out bytes.Buffer
	compressed := gzip.NewWriter(&out)
	archive := tar.NewWriter(compressed)
	for _, e := range entries {
		if err := archive.WriteHeader(&e.header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(archive, e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(archive.Close(), compressed.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestHostile(t *testing.T) {
	link := func(kind byte, name, to string) entry {
		return entry{header: tar.Header{Typeflag: kind, Name: name, Linkname: to}}
	}
	deep := strings.Repeat("d/", 40) + "f"
	tests := []struct {
		name   string
		packed []byte
		limits Limits
		want   error
		reason string
	}{
		{"parent", pack(t, reg("../evil", "")), Limits{}, ErrUnsafePath, "leaves its folder"},
		{"parent inside", pack(t, reg("a/../../evil", "")), Limits{}, ErrUnsafePath, "leaves its folder"},
		{"parent folder", pack(t, link(tar.TypeDir, "a/../../evil/", "")), Limits{}, ErrUnsafePath, "leaves its folder"},
		{"absolute", pack(t, reg("/etc/passwd", "")), Limits{}, ErrUnsafePath, "absolute"},
		{"absolute after dot", pack(t, reg(".//etc/passwd", "")), Limits{}, ErrUnsafePath, "absolute"},
		{"drive", pack(t, reg("C:evil", "")), Limits{}, ErrUnsafePath, "drive"},
		{"backslash", pack(t, reg(`a\..\evil`, "")), Limits{}, ErrUnsafePath, "backslash"},
		{"control character", pack(t, reg("a\x1b[2J", "")), Limits{}, ErrUnsafePath, "control"},
		{"not utf-8", pack(t, reg("a\xff", "")), Limits{}, ErrUnsafePath, "UTF-8"},
		{"empty segment", pack(t, reg("a//b", "")), Limits{}, ErrUnsafePath, "empty segment"},
		{"symlink", pack(t, link(tar.TypeSymlink, "a", "/etc")), Limits{}, ErrUnsafePath, "symbolic link"},
		{"hard link", pack(t, reg("a", ""), link(tar.TypeLink, "b", "a")), Limits{}, ErrUnsafePath, "hard link"},
		{"device", pack(t, link(tar.TypeChar, "a", "")), Limits{}, ErrUnsafePath, "device"},
		{"fifo", pack(t, link(tar.TypeFifo, "a", "")), Limits{}, ErrUnsafePath, "device"},
		{"unknown type", pack(t, link('Z', "a", "")), Limits{}, ErrUnsafePath, "unknown type"},
		{"duplicate", pack(t, reg("a", ""), reg("a", "")), Limits{}, ErrUnsafePath, "twice"},
		{"duplicate by dot", pack(t, reg("a", ""), reg("./a", "")), Limits{}, ErrUnsafePath, "twice"},
		{"case", pack(t, reg("a/Readme", ""), reg("A/README", "")), Limits{}, ErrUnsafePath, "in case"},
		{"kelvin sign", pack(t, reg("k", ""), reg("\u212a", "")), Limits{}, ErrUnsafePath, "in case"},
		{"unicode form", pack(t, reg("\u00e9", ""), reg("e\u0301", "")), Limits{}, ErrUnsafePath, "in case"},
		{"file below file", pack(t, reg("a", ""), reg("A/b", "")), Limits{}, ErrUnsafePath, "below the file"},
		{"file over folder", pack(t, reg("a/b", ""), reg("A", "")), Limits{}, ErrUnsafePath, "a folder has"},
		{"folder over file", pack(t, reg("a", ""), link(tar.TypeDir, "a/", "")), Limits{}, ErrUnsafePath, "a file has"},
		{"deep", pack(t, reg(deep, "")), Limits{}, ErrTooLarge, "folders deep"},
		{"long", pack(t, reg(strings.Repeat("a", 600), "")), Limits{}, ErrTooLarge, "512 bytes"},
		{"long name", pack(t, reg(strings.Repeat("a", 300), "")), Limits{}, ErrTooLarge, "255 bytes"},
		{"many files", pack(t, reg("a", ""), reg("b", ""), reg("c", "")), Limits{Files: 2}, ErrTooLarge, "2 entries"},
		{"many folders", pack(t, link(tar.TypeDir, "./", ""), link(tar.TypeDir, "./", "")), Limits{Files: 1}, ErrTooLarge, "1 entries"},
		{"content", pack(t, reg("a", "12345"), reg("b", "123456")), Limits{Unpacked: 10}, ErrTooLarge, "10 bytes"},
		{"packed", pack(t, reg("a", "")), Limits{Packed: 20}, ErrTooLarge, "20 bytes"},
		{"trailing bomb", bomb(t), Limits{Unpacked: 1 << 20, Files: 1}, ErrTooLarge, "unpacks to more"},
		{"truncated", pack(t, reg("a", "12345"))[:40], Limits{}, ErrDamaged, "EOF"},
		{"empty", nil, Limits{}, ErrDamaged, "EOF"},
		{"no gzip", []byte("hello, world"), Limits{}, ErrDamaged, "invalid header"},
		{"wrong sum", wrongSum(t), Limits{}, ErrDamaged, "checksum"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := Unpack(bytes.NewReader(test.packed), test.limits)
			if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.reason) {
				t.Errorf("Unpack: got %v, want %v with %q", err, test.want, test.reason)
			}
			dir := t.TempDir()
			if err := Extract(bytes.NewReader(test.packed), test.limits, dir); !errors.Is(err, test.want) {
				t.Errorf("Extract: got %v, want %v", err, test.want)
			}
		})
	}
}

// bomb inflates to 8 MiB behind a tar that ends early.
func bomb(t *testing.T) []byte {
	var out bytes.Buffer
	compressed := gzip.NewWriter(&out)
	if _, err := compressed.Write(make([]byte, 8<<20)); err != nil {
		t.Fatal(err)
	}
	if err := compressed.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func wrongSum(t *testing.T) []byte {
	packed := pack(t, reg("a", "12345"))
	packed[len(packed)-6] ^= 1
	return packed
}

func TestSparse(t *testing.T) {
	header := tar.Header{Typeflag: tar.TypeReg, Name: "a", PAXRecords: map[string]string{"GNU.sparse.realsize": "1"}}
	if _, err := checkHeader(&header, newPaths(Limits{}.withDefaults())); !errors.Is(err, ErrUnsafePath) {
		t.Errorf("got %v, want ErrUnsafePath", err)
	}
}

func TestExtractKeepsWhatIsThere(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "mine"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"link/evil", "mine"} {
		packed := pack(t, reg(name, "evil"))
		if err := Extract(bytes.NewReader(packed), Limits{}, dir); err == nil {
			t.Errorf("%s: written", name)
		}
	}
	if found, err := os.ReadDir(outside); err != nil || len(found) > 0 {
		t.Errorf("written outside: %v %v", found, err)
	}
}

func TestRoundTrip(t *testing.T) {
	files := map[string][]byte{
		"Chart.yaml":                      []byte("name: web\n"),
		"templates/a.yaml":                []byte("a"),
		"templates-extra":                 []byte("sorts between"),
		"ünïcode/日本.yaml":                 {},
		strings.Repeat("long/", 25) + "f": bytes.Repeat([]byte("x"), 200<<10),
	}
	packed, err := Pack("web", files, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := Extract(bytes.NewReader(packed), Limits{}, dir); err != nil {
		t.Fatal(err)
	}
	again, err := PackFS("", os.DirFS(dir), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again, packed) {
		t.Error("packing what was extracted gives other bytes")
	}
	got, err := Unpack(bytes.NewReader(packed), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]byte{}
	for name, content := range files {
		want["web/"+name] = content
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(bytes.Equal)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if err := Walk(bytes.NewReader(packed), Limits{}, func(string, []byte) error { return io.ErrClosedPipe }); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("visit's error got lost: %v", err)
	}
}

func TestPackFSIsDeterministic(t *testing.T) {
	build := func(mask int, zone string, order []string) []byte {
		defer syscall.Umask(syscall.Umask(mask))
		defer func(before *time.Location) { time.Local = before }(time.Local)
		location, err := time.LoadLocation(zone)
		if err != nil {
			t.Fatal(err)
		}
		time.Local = location
		dir := t.TempDir()
		for i, name := range order {
			full := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(full), 0o777); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(full, []byte(name), 0o777); err != nil {
				t.Fatal(err)
			}
			stamp := time.Unix(int64(1_000_000*(i+len(zone))), 0)
			if err := os.Chtimes(full, stamp, stamp); err != nil {
				t.Fatal(err)
			}
		}
		packed, err := PackFS("x", os.DirFS(dir), Limits{})
		if err != nil {
			t.Fatal(err)
		}
		return packed
	}
	one := build(0o022, "UTC", []string{"a", "b/c", "b/d"})
	two := build(0o077, "Asia/Kathmandu", []string{"b/d", "b/c", "a"})
	if !bytes.Equal(one, two) {
		t.Error("another umask, time zone and order give other bytes")
	}
	compressed, err := gzip.NewReader(bytes.NewReader(one))
	if err != nil {
		t.Fatal(err)
	}
	if !compressed.ModTime.IsZero() || compressed.Name != "" {
		t.Errorf("gzip has a name or a time: %+v", compressed.Header)
	}
	for archive := tar.NewReader(compressed); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if header.ModTime.Unix() != 0 || header.Mode != 0o644 || header.Uid != 0 || header.Gid != 0 || header.Uname != "" {
			t.Errorf("header: %+v", header)
		}
	}
}

func TestPackRefuses(t *testing.T) {
	tests := []struct {
		prefix, name string
		limits       Limits
		want         error
	}{
		{"", "../a", Limits{}, ErrUnsafePath},
		{"..", "a", Limits{}, ErrUnsafePath},
		{"x", "../a", Limits{}, ErrUnsafePath},
		{"", "a//b", Limits{}, ErrUnsafePath},
		{"", `a\b`, Limits{}, ErrUnsafePath},
		{"", "a", Limits{Unpacked: 1}, ErrTooLarge},
		{"", "a", Limits{Packed: 1}, ErrTooLarge},
	}
	for _, test := range tests {
		t.Run(fmt.Sprint(test.prefix, test.name), func(t *testing.T) {
			if _, err := Pack(test.prefix, map[string][]byte{test.name: []byte("12")}, test.limits); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
	if _, err := PackFS("", fstest.MapFS{"a": {Data: []byte("12")}}, Limits{Unpacked: 1}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("PackFS: got %v, want ErrTooLarge", err)
	}
	dir := t.TempDir()
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "a")); err != nil {
		t.Fatal(err)
	}
	if _, err := PackFS("", os.DirFS(dir), Limits{}); !errors.Is(err, ErrUnsafePath) {
		t.Errorf("PackFS: got %v, want ErrUnsafePath", err)
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(pack(f, reg("a/b", "hello"), reg("../c", "")))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, packed []byte) {
		files, err := Unpack(bytes.NewReader(packed), Limits{Unpacked: 1 << 20, Files: 100})
		if err != nil {
			if refused := (*Error)(nil); !errors.As(err, &refused) {
				t.Fatalf("untyped error: %v", err)
			}
			return
		}
		again, err := Pack("", files, Limits{})
		if err != nil {
			t.Fatalf("what was accepted cannot be packed: %v", err)
		}
		back, err := Unpack(bytes.NewReader(again), Limits{})
		if err != nil || !cmp.Equal(files, back, cmp.Comparer(bytes.Equal)) {
			t.Fatalf("round trip: %v", err)
		}
	})
}

func ExamplePack() {
	packed, err := Pack("web", map[string][]byte{"b.yaml": []byte("b"), "a.yaml": []byte("a")}, Limits{})
	if err != nil {
		fmt.Println(err)
		return
	}
	_ = Walk(bytes.NewReader(packed), Limits{}, func(name string, content []byte) error {
		fmt.Println(name, string(content))
		return nil
	})
	// Output:
	// web/a.yaml a
	// web/b.yaml b
}
