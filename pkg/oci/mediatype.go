package oci

import (
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Media types that Docker wrote before OCI, and that images still have.
//
// See https://distribution.github.io/distribution/spec/manifest-v2-2/
const (
	MediaTypeDockerManifest     = "application/vnd.docker.distribution.manifest.v2+json"
	MediaTypeDockerManifestList = "application/vnd.docker.distribution.manifest.list.v2+json"
)

// IsManifest says whether a media type is a manifest's: of an image or artifact, or of an index.
func IsManifest(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageManifest || mediaType == MediaTypeDockerManifest || IsIndex(mediaType)
}

// IsIndex says whether a media type is that of a list of manifests.
func IsIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == MediaTypeDockerManifestList
}
