package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
)

const (
	// imageProgram is what the image runs: a static binary and nothing else.
	imageProgram = "pinnace-agent"
	// imageUser is nobody's: the deployment says which folders it may write.
	imageUser = "65532:65532"
	// rootsPath is where Go looks for certificate authorities.
	rootsPath = "etc/ssl/certs/ca-certificates.crt"
)

// pushImage pushes the agent's image for all platforms, tagged with the version, and signs the index and what it names.
// It returns the reference by digest. The same binaries give the same digest.
func pushImage(ctx context.Context, opts options, signer *signing.Signer) (reference string, err error) {
	prefix, name, ok := cutLast(opts.image)
	if !ok {
		return "", fmt.Errorf("image %q: name a registry, a path and a repository, such as registry.example.com/tools/%s", opts.image, imageProgram)
	}
	registry, err := oci.Open(prefix, oci.Options{PlainHTTP: opts.plainHTTP, UserAgent: "pinnace-release"})
	if err != nil {
		return "", err
	}
	repo, err := registry.Repository(name)
	if err != nil {
		return "", err
	}
	index := ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Annotations: map[string]string{
			ocispec.AnnotationVersion: opts.version, ocispec.AnnotationRevision: opts.commit, ocispec.AnnotationSource: opts.repository,
			ocispec.AnnotationTitle: imageProgram,
		},
	}
	for platform := range strings.SplitSeq(opts.platforms, ",") {
		desc, err := pushPlatform(ctx, repo, opts, platform)
		if err != nil {
			return "", fmt.Errorf("image for %s: %w", platform, err)
		}
		if _, err := signer.Sign(ctx, repo, desc); err != nil {
			return "", err
		}
		system, machine, _ := strings.Cut(platform, "/")
		desc.Platform = &ocispec.Platform{OS: system, Architecture: machine}
		index.Manifests = append(index.Manifests, desc)
	}
	data, err := json.Marshal(index)
	if err != nil {
		return "", err
	}
	blob := oci.Blob{MediaType: ocispec.MediaTypeImageIndex, Data: data}
	desc := blob.Descriptor()
	if err := repo.Push(ctx, desc, data); err != nil {
		return "", err
	}
	if _, err := signer.Sign(ctx, repo, desc); err != nil {
		return "", err
	}
	// Whoever sees the tag finds the signatures.
	return opts.image + "@" + desc.Digest.String(), repo.Tag(ctx, desc, opts.version)
}

func cutLast(image string) (prefix, name string, ok bool) {
	i := strings.LastIndexByte(image, '/')
	if i < 0 || strings.Count(image, "/") < 2 {
		return "", "", false
	}
	return image[:i], image[i+1:], true
}

func pushPlatform(ctx context.Context, repo oci.Repository, opts options, platform string) (desc ocispec.Descriptor, err error) {
	system, machine, _ := strings.Cut(platform, "/")
	files := map[string]string{imageProgram: filepath.Join(opts.dir, imageProgram+"-"+system+"-"+machine)}
	if opts.roots != "" {
		files[rootsPath] = opts.roots
	}
	packed, unpacked, err := packLayer(files)
	if err != nil {
		return desc, err
	}
	layer := oci.Blob{MediaType: ocispec.MediaTypeImageLayerGzip, Data: packed}
	image := ocispec.Image{
		Platform: ocispec.Platform{OS: system, Architecture: machine},
		Config:   ocispec.ImageConfig{User: imageUser, Entrypoint: []string{"/" + imageProgram}},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{unpacked}},
	}
	data, err := json.Marshal(image)
	if err != nil {
		return desc, err
	}
	config := oci.Blob{MediaType: ocispec.MediaTypeImageConfig, Data: data}
	for _, blob := range []oci.Blob{layer, config} {
		if err := repo.Push(ctx, blob.Descriptor(), blob.Data); err != nil {
			return desc, err
		}
	}
	data, err = json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: config.Descriptor(), Layers: []ocispec.Descriptor{layer.Descriptor()},
	})
	if err != nil {
		return desc, err
	}
	manifest := oci.Blob{MediaType: ocispec.MediaTypeImageManifest, Data: data}
	return manifest.Descriptor(), repo.Push(ctx, manifest.Descriptor(), data)
}

// packLayer packs files without times and owners, and returns the digest of what was packed, too.
func packLayer(files map[string]string) (packed []byte, unpacked digest.Digest, err error) {
	var content, out bytes.Buffer
	writer := tar.NewWriter(&content)
	for _, name := range []string{rootsPath, imageProgram} {
		if files[name] == "" {
			continue
		}
		data, err := os.ReadFile(files[name])
		if err != nil {
			return nil, "", err
		}
		mode := int64(0o444)
		if name == imageProgram {
			mode = 0o555
		}
		err = writer.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(data)), Format: tar.FormatUSTAR})
		if err == nil {
			_, err = writer.Write(data)
		}
		if err != nil {
			return nil, "", err
		}
	}
	if err := writer.Close(); err != nil {
		return nil, "", err
	}
	compressor, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil, "", err
	}
	_, err = compressor.Write(content.Bytes())
	err = errors.Join(err, compressor.Close())
	return out.Bytes(), digest.FromBytes(content.Bytes()), err
}
