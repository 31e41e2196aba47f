package mirror

import (
	"cmp"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Kind is what an entry of a closure is: a closed set.
type Kind string

const (
	KindFleet       Kind = "fleet"
	KindTrust       Kind = "trust"
	KindRollout     Kind = "rollout"
	KindTarget      Kind = "target"
	KindBundle      Kind = "bundle"
	KindImage       Kind = "image"
	KindPlatform    Kind = "platform" // one platform of an image
	KindSignature   Kind = "signature"
	KindAttestation Kind = "attestation"
	KindSBOM        Kind = "sbom"
	KindReferrer    Kind = "referrer" // anything else that refers to a manifest
	KindStatus      Kind = "status"
)

// Entry is one manifest that is mirrored.
type Entry struct {
	Kind Kind `json:"kind"`
	// Repository is the receiver's, relative to its prefix.
	Repository string `json:"repository"`
	// Origin is the full name of the repository that it is read from, where that is not Repository below the sender's
	// prefix.
	Origin    string        `json:"origin,omitempty"`
	MediaType string        `json:"mediaType"`
	Digest    digest.Digest `json:"digest"`
	Size      int64         `json:"size"`
	// ArtifactType is the manifest's, of what speaks of another manifest.
	ArtifactType string `json:"artifactType,omitempty"`
	// Tags are written with the manifest. Moving are what readers poll: they move last.
	Tags   []string `json:"tags,omitempty"`
	Moving []string `json:"moving,omitempty"`
	// Blobs are the config and the layers, without the config's or layers' own meaning.
	Blobs []Blob `json:"blobs,omitempty"`
	// Children are manifests of the same repository that this index names and that are mirrored.
	Children []digest.Digest `json:"children,omitempty"`
	// Subject is the manifest that this one says something about.
	Subject digest.Digest `json:"subject,omitempty"`
	// Needs are keys of entries that must have arrived before the moving tags move.
	Needs []string `json:"needs,omitempty"`
	// Why lists the reasons that brought it here, such as "bundle web of cluster factory-07".
	Why []string `json:"why,omitempty"`
	// Signers signed it, by the sender's policy; empty for what no policy speaks of.
	Signers []string `json:"signers,omitempty"`
	// Reference is the image's, as bundles name it.
	Reference string `json:"reference,omitempty"`
	// Held says that the receiver has it whole, and that only its tag may move.
	Held bool `json:"held,omitempty"`
}

// Blob is a config or layer.
type Blob struct {
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"`
}

// Key identifies an entry.
func (e *Entry) Key() string { return entryKey(e.Repository, e.Digest) }

func entryKey(repository string, d digest.Digest) string { return repository + "@" + d.String() }

// Descriptor describes the manifest.
func (e *Entry) Descriptor() ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: e.MediaType, Digest: e.Digest, Size: e.Size}
}

// Bytes is the manifest's size with its blobs'.
func (e *Entry) Bytes() int64 {
	n := e.Size
	for _, blob := range e.Blobs {
		n += blob.Size
	}
	return n
}

// Problem is something that keeps an artifact from being mirrored, or that a user should know.
type Problem struct {
	Subject string `json:"subject"`
	Message string `json:"message"`
}

// Closure is everything that the chosen clusters need.
type Closure struct {
	Fleet       string   `json:"fleet"`
	Publication int64    `json:"publication"`
	Clusters    []string `json:"clusters"`
	Entries     []*Entry `json:"entries"`
	// Gates are the repositories of rollouts that targets wait for, whether they hold something yet or not.
	Gates []string `json:"-"`
	// Unsigned are artifacts that nobody signed and no policy asks a signature of: images, for the most part.
	Unsigned []Problem `json:"unsigned,omitempty"`
	// Refused failed the policy; they are not among the entries, nor is what only they need.
	Refused []Problem `json:"refused,omitempty"`
	// Missing could not be read, such as an image that its registry no longer has.
	Missing []Problem `json:"missing,omitempty"`
	// Resolved are images without a digest in their bundle, which were resolved now: "reference is digest".
	Resolved []Problem `json:"resolved,omitempty"`
}

// sort puts entries in the order of their repositories, so that the same closure has the same bytes every time.
func (c *Closure) sort() {
	slices.SortFunc(c.Entries, func(a, b *Entry) int {
		return cmp.Or(cmp.Compare(a.Repository, b.Repository), cmp.Compare(a.Digest, b.Digest))
	})
	for _, entry := range c.Entries {
		for _, list := range []*[]string{&entry.Tags, &entry.Moving, &entry.Needs, &entry.Why} {
			slices.Sort(*list)
			*list = slices.Compact(*list)
		}
	}
	for _, list := range [][]Problem{c.Unsigned, c.Refused, c.Missing, c.Resolved} {
		slices.SortFunc(list, func(a, b Problem) int {
			return cmp.Or(cmp.Compare(a.Subject, b.Subject), cmp.Compare(a.Message, b.Message))
		})
	}
}
