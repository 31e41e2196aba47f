package hostile

import (
	"archive/tar"
	"bytes"
	"compress/gzip"

	"pinnace.dev/pinnace/pkg/agent"
)

// packed publishes a target whose web is a well-signed bundle with that archive.
func packed(headers ...tar.Header) func(*World) {
	return func(w *World) {
		var out bytes.Buffer
		compressed := gzip.NewWriter(&out)
		writer := tar.NewWriter(compressed)
		for _, header := range headers {
			content := []byte(configMap("web", evil))
			if header.Typeflag != tar.TypeReg {
				content = nil
			}
			header.Size, header.Mode = int64(len(content)), 0o644
			if err := writer.WriteHeader(&header); err != nil {
				panic(err)
			}
			must(writer.Write(content))
		}
		if err := writer.Close(); err != nil {
			panic(err)
		}
		if err := compressed.Close(); err != nil {
			panic(err)
		}
		w.publishLayer(out.Bytes())
	}
}

func (w *World) publishLayer(layer []byte) {
	w.publish(w.next(w.bundleLayer("web", by(w.keys.bundle), layer, nil)))
}

func file(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg} }

func archiveAttacks() []Attack {
	unsafe := reasons(agent.ReasonUnsafePath)
	return []Attack{
		{Name: "archive with ../", Bundle: true, Want: unsafe, Prepare: packed(file("../../evil.yaml"))},
		{Name: "archive with an absolute path", Bundle: true, Want: unsafe, Prepare: packed(file("/etc/evil.yaml"))},
		{Name: "archive with a backslash", Bundle: true, Want: unsafe, Prepare: packed(file(`..\evil.yaml`))},
		{Name: "archive with a symbolic link", Bundle: true, Want: unsafe, Prepare: packed(tar.Header{Name: "a.yaml", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"})},
		{Name: "archive with a hard link", Bundle: true, Want: unsafe, Prepare: packed(file("b.yaml"), tar.Header{Name: "a.yaml", Typeflag: tar.TypeLink, Linkname: "b.yaml"})},
		{Name: "archive with a device", Bundle: true, Want: unsafe, Prepare: packed(tar.Header{Name: "a.yaml", Typeflag: tar.TypeChar, Devmajor: 1})},
		{Name: "archive with a pipe", Bundle: true, Want: unsafe, Prepare: packed(tar.Header{Name: "a.yaml", Typeflag: tar.TypeFifo})},
		{Name: "archive with a path twice", Bundle: true, Want: unsafe, Prepare: packed(file("a.yaml"), file("a.yaml"))},
		{Name: "archive with paths that differ in case", Bundle: true, Want: unsafe, Prepare: packed(file("a.yaml"), file("A.yaml"))},
		{Name: "archive with a file below a file", Bundle: true, Want: unsafe, Prepare: packed(file("a.yaml"), file("a.yaml/b.yaml"))},
		{Name: "two gigabytes of zeros in two megabytes", Bundle: true, Want: reasons(agent.ReasonTooLarge), Prepare: func(w *World) { w.publishLayer(zeros(2 << 30)) }},
		{Name: "no archive at all", Bundle: true, Want: reasons(agent.ReasonInvalidBundle), Prepare: func(w *World) { w.publishLayer([]byte(evil)) }},
		{Name: "archive that was cut off", Bundle: true, Want: reasons(agent.ReasonInvalidBundle), Prepare: func(w *World) {
			layer := zeros(1 << 20)
			w.publishLayer(layer[:len(layer)/2])
		}},
	}
}

// zeros is an archive of one file of that many zeros. gzip may be cut into pieces: one is compressed and repeated.
func zeros(size int64) []byte {
	const piece = 16 << 20
	pack := func(write func(*gzip.Writer)) []byte {
		var out bytes.Buffer
		compressed := gzip.NewWriter(&out)
		write(compressed)
		if err := compressed.Close(); err != nil {
			panic(err)
		}
		return out.Bytes()
	}
	layer := pack(func(w *gzip.Writer) {
		if err := tar.NewWriter(w).WriteHeader(&tar.Header{Name: "a.yaml", Typeflag: tar.TypeReg, Size: size, Mode: 0o644}); err != nil {
			panic(err)
		}
	})
	one := pack(func(w *gzip.Writer) { must(w.Write(make([]byte, min(piece, size)))) })
	for range max(1, size/piece) {
		layer = append(layer, one...)
	}
	return layer
}
