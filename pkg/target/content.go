package target

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"hash"
	"io"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// Sketch is the hash of a target without its generation and times, and without what only building tells: the digests of
// its artifacts. So all targets are looked at once, before anything is built, and need not be kept.
type Sketch [sha256.Size]byte

// NewSketch hashes a target.
func NewSketch(target v1alpha1.Target) Sketch {
	return sketch(target, func(i int) [sha256.Size]byte { return static(target.Bundles[i]) })
}

// Sketch hashes a target that was assembled from the plan, faster than [NewSketch]: what the same overrides make of a
// bundle is hashed once for all clusters.
func (f *Fleet) Sketch(plan ClusterPlan, target v1alpha1.Target) Sketch {
	selected := plan.Selected()
	return sketch(target, func(i int) [sha256.Size]byte {
		bundle := &target.Bundles[i]
		key := string(bundle.Method) + " " + strings.Join(bundle.DependsOn, " ")
		if known, ok := selected[i].settings.statics.Load(key); ok {
			return known.([sha256.Size]byte)
		}
		sum := static(*bundle)
		selected[i].settings.statics.Store(key, sum)
		return sum
	})
}

func sketch(target v1alpha1.Target, static func(i int) [sha256.Size]byte) Sketch {
	head := target
	head.Bundles = nil
	head.Generation, head.IssuedAt, head.ExpiresAt, head.AllowPrune = 0, metav1.Time{}, metav1.Time{}, false
	sum := sha256.New()
	encoder := json.NewEncoder(sum)
	encoder.SetEscapeHTML(false)
	encode(encoder, &head)
	for i := range target.Bundles {
		bundle := &target.Bundles[i]
		of := static(i)
		_, _ = sum.Write(of[:]) // a hash takes everything
		if bundle.Release != nil {
			encode(encoder, bundle.Release.Values)
		}
		encode(encoder, bundle.Variables)
		if len(bundle.Sealed) > 0 {
			encode(encoder, identities(bundle.Sealed))
		}
	}
	return Sketch(sum.Sum(nil))
}

// static hashes what all clusters have in common to which the same overrides apply.
func static(bundle v1alpha1.TargetBundle) [sha256.Size]byte {
	bundle.Digest, bundle.LayerDigest, bundle.Variables, bundle.Sealed = "", "", nil, nil
	if bundle.Release != nil {
		release := *bundle.Release
		release.Values = nil
		bundle.Release = &release
	}
	sum := sha256.New()
	encode(json.NewEncoder(sum), &bundle)
	return [sha256.Size]byte(sum.Sum(nil))
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
