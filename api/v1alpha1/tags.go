package v1alpha1

import (
	"strconv"
	"strings"
)

// contentTagDigits is how much of a digest a tag shows: people compare it with what commands print.
const contentTagDigits = 12

// ContentTag is the tag that keeps a bundle from garbage collection: sha-<12 hex> of its digest.
func ContentTag(digest string) string {
	_, hex, _ := strings.Cut(digest, ":")
	return "sha-" + hex[:min(contentTagDigits, len(hex))]
}

// PublicationTag is the tag of a fleet index: pub-<n>.
func PublicationTag(n int64) string { return "pub-" + strconv.FormatInt(n, 10) }

// GenerationTag is the tag of a cluster's target: gen-<n>.
func GenerationTag(n int64) string { return "gen-" + strconv.FormatInt(n, 10) }
