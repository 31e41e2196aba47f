package target

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"hash"
	"io"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// Sketch is the hash of a target without its generation and times, and without what only building tells: the digests of
// its artifacts. So all targets are looked at once, before anything is built, and need not be kept.
type Sketch [sha256.Size]byte

// NewSketch hashes a target.
func NewSketch(target v1alpha1.Target) Sketch {
	bundles := target.Bundles
	target.Bundles = nil
	target.Generation, target.IssuedAt, target.ExpiresAt, target.AllowPrune = 0, metav1.Time{}, metav1.Time{}, false
	sum := sha256.New()
	encoder := json.NewEncoder(sum)
	encoder.SetEscapeHTML(false)
	encode(encoder, &target)
	for i := range bundles {
		bundle := bundles[i]
		bundle.Digest, bundle.LayerDigest = "", ""
		bundle.Sealed = identities(bundle.Sealed)
		encode(encoder, &bundle)
	}
	return Sketch(sum.Sum(nil))
}

func encode(encoder *json.Encoder, value any) {
	if err := encoder.Encode(value); err != nil {
		panic(err) // values are JSON types only, and a hash takes everything
	}
}

// Content completes the hash with the artifacts of the target's bundles, in their order.
func (s Sketch) Content(artifacts func(yield func(Artifact) bool)) string {
	sum := sha256.New()
	_, _ = sum.Write(s[:])
	for artifact := range artifacts {
		writeLine(sum, artifact.Digest)
		writeLine(sum, artifact.LayerDigest)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

func writeLine(sum hash.Hash, text string) {
	_, _ = io.WriteString(sum, text) // a hash takes everything
	_, _ = sum.Write([]byte{'\n'})
}

// Content returns the hash of a target without its generation and times: equal content need not be published again.
func Content(target v1alpha1.Target) string {
	return NewSketch(target).Content(func(yield func(Artifact) bool) {
		for i := range target.Bundles {
			if !yield(Artifact{Digest: target.Bundles[i].Digest, LayerDigest: target.Bundles[i].LayerDigest}) {
				return
			}
		}
	})
}
