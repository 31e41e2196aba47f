package oci

import (
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
)

// RepositoryImages is the folder of container images below the receiver's prefix: images/<host>/<repository>. A port's
// colon is a dash there.
const RepositoryImages = "images/"

const (
	defaultHost = "docker.io"
	defaultTag  = "latest"
)

// ImageName is a container image's reference taken apart, with what people leave out filled in.
type ImageName struct {
	Host       string
	Repository string
	Tag        string // empty when only a digest is given
	Digest     digest.Digest
}

// ParseImage takes a reference apart as container runtimes do: web is docker.io/library/web:latest.
func ParseImage(reference string) (ImageName, error) {
	name := ImageName{Host: defaultHost}
	rest, d, digested := strings.Cut(reference, "@")
	if digested {
		name.Digest = digest.Digest(d)
		if err := name.Digest.Validate(); err != nil {
			return name, fmt.Errorf("image %q: digest: %w", reference, err)
		}
	}
	if i := strings.LastIndexByte(rest, ':'); i > strings.LastIndexByte(rest, '/') {
		rest, name.Tag = rest[:i], rest[i+1:]
	}
	if first, other, ok := strings.Cut(rest, "/"); ok && (strings.ContainsAny(first, ".:") || first == "localhost") {
		name.Host, rest = first, other
	}
	if name.Host == "index.docker.io" {
		name.Host = defaultHost
	}
	if name.Host == defaultHost && !strings.Contains(rest, "/") {
		rest = "library/" + rest
	}
	if rest == "" || strings.HasSuffix(rest, "/") {
		return name, fmt.Errorf("image %q: no repository in it", reference)
	}
	name.Repository = rest
	if name.Tag == "" && !digested {
		name.Tag = defaultTag
	}
	return name, nil
}

// Mirrored is the image's repository at the receiver, relative to its prefix.
func (n ImageName) Mirrored() string { return MirroredHost(n.Host) + "/" + n.Repository }

// MirroredHost is the folder at the receiver of all images of a registry, relative to its prefix.
func MirroredHost(host string) string {
	safe := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '.', r == '-':
			return r
		}
		return '-'
	}, strings.ToLower(host))
	return RepositoryImages + strings.Trim(safe, "-.")
}
