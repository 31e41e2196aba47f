package oci

import (
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
)

func TestReadExactly(t *testing.T) {
	t.Parallel()
	const text = "some content"
	sum := sha512.Sum512([]byte(text))
	right := digest.FromString(text)
	cut := errors.New("the line is cut")
	tests := []struct {
		name   string
		body   io.Reader
		digest digest.Digest
		size   int64
		want   error // nil: the text is read
	}{
		{"as described", strings.NewReader(text), right, 12, nil},
		{"byte by byte", iotest.OneByteReader(strings.NewReader(text)), right, 12, nil},
		{"another algorithm", strings.NewReader(text), digest.Digest("sha512:" + hex.EncodeToString(sum[:])), 12, nil},
		{"other bytes", strings.NewReader("same length!"), right, 12, content.ErrMismatchedDigest},
		{"a byte more", strings.NewReader(text + "!"), right, 12, content.ErrTrailingData},
		{"endless", endless{}, right, 12, content.ErrTrailingData},
		{"a byte less", strings.NewReader(text[:11]), right, 12, io.ErrUnexpectedEOF},
		{"a size that no memory holds", strings.NewReader(text), right, 1 << 62, io.ErrUnexpectedEOF},
		{"cut off", io.MultiReader(strings.NewReader("some"), iotest.ErrReader(cut)), right, 12, cut},
		{"upper case", strings.NewReader(text), digest.Digest(strings.ToUpper(right.Encoded())), 12, digest.ErrDigestInvalidFormat},
		{"upper case with its algorithm", strings.NewReader(text), digest.Digest("sha256:" + strings.ToUpper(right.Encoded())), 12, digest.ErrDigestInvalidFormat},
		{"too short a digest", strings.NewReader(text), right[:70], 12, digest.ErrDigestInvalidLength},
		{"unknown algorithm", strings.NewReader(text), "md5:d41d8cd98f00b204e9800998ecf8427e", 12, digest.ErrDigestUnsupported},
		{"no digest", strings.NewReader(text), "", 12, digest.ErrDigestInvalidFormat},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			data, err := readExactly(test.body, ocispec.Descriptor{Digest: test.digest, Size: test.size})
			if !errors.Is(err, test.want) {
				t.Errorf("error %v, want %v", err, test.want)
			}
			if want := test.want == nil; (string(data) == text) != want || !want && data != nil {
				t.Errorf("read %q", data)
			}
		})
	}
}

// endless is a body that never ends.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }
