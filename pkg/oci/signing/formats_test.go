package signing_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/registrytest"
	"pinnace.dev/pinnace/pkg/oci/signing"
	"pinnace.dev/pinnace/pkg/oci/signing/evidence"
)

var formats = []evidence.Format{evidence.FormatTag, evidence.FormatReferrer, evidence.FormatBundle}

func write(t *testing.T, dir, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func in(t *testing.T, signer *signing.Signer, format evidence.Format) *signing.Signer {
	t.Helper()
	changed, err := signer.With(signing.SignOptions{Format: format})
	if err != nil {
		t.Fatal(err)
	}
	return changed
}

func keyVerifier(t *testing.T, signers ...*signing.Signer) *signing.Verifier {
	t.Helper()
	rule := v1alpha1.TrustRule{Match: "**"}
	for i, signer := range signers {
		rule.Signers.Keys = append(rule.Signers.Keys, key(fmt.Sprint("key ", i), signer))
	}
	verifier, err := signing.NewVerifier(policy(rule), signing.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return verifier
}

// Attack number one: a genuine signature of A is put where B's would be.
func TestCopiedSignatures(t *testing.T) {
	t.Parallel()
	for _, format := range formats {
		t.Run(string(format), func(t *testing.T) {
			repo, a := web(t, "A")
			b := push(t, repo, "B")
			sign(t, in(t, signer(t, 0), format), repo, a)
			attached, err := oci.ListAttached(t.Context(), repo, a)
			if err != nil || len(attached) != 1 {
				t.Fatalf("attached to A: %v (%v)", attached, err)
			}
			manifest, _, err := oci.ReadManifest(t.Context(), repo, attached[0].Descriptor)
			if err != nil {
				t.Fatal(err)
			}
			if format == evidence.FormatTag {
				copySignature(t, repo, a, b)
			} else {
				attachTo(t, repo, b, manifest)
			}
			wantReason(t, keyVerifier(t, signer(t, 0)), repo, a, "")
			wantReason(t, keyVerifier(t, signer(t, 0)), repo, b, signing.SignatureMismatch)
		})
	}
}

// attachTo pushes a manifest as a referrer of another subject.
func attachTo(t *testing.T, repo oci.Repository, subject ocispec.Descriptor, manifest ocispec.Manifest) {
	t.Helper()
	manifest.Subject = &ocispec.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size}
	data, err := json.Marshal(manifest)
	if err != nil {
		t.Fatal(err)
	}
	desc := oci.Blob{MediaType: ocispec.MediaTypeImageManifest, Data: data}.Descriptor()
	if err := oci.PushAttached(t.Context(), repo, desc, data); err != nil {
		t.Fatal(err)
	}
}

// What is broken in one form hides nothing that is right in another, and many bad signatures hide no good one within the
// bounds.
func TestBrokenHidesNothing(t *testing.T) {
	t.Parallel()
	good := signer(t, 0)
	for name, spoil := range map[string]func(t *testing.T, repo oci.Repository, desc ocispec.Descriptor){
		"a text under the tag": func(t *testing.T, repo oci.Repository, desc ocispec.Descriptor) {
			pushManifest(t, repo, []byte(`"text"`), oci.SignatureTag(desc.Digest))
		},
		"a bundle that is none": func(t *testing.T, repo oci.Repository, desc ocispec.Descriptor) {
			attachBlob(t, repo, desc, []byte(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json"}`))
		},
		"a bundle of something else": func(t *testing.T, repo oci.Repository, desc ocispec.Descriptor) {
			attachBlob(t, repo, desc, []byte("\x00\x01"))
		},
		"a log entry whose body is a number": func(t *testing.T, repo oci.Repository, desc ocispec.Descriptor) {
			layer := oci.Blob{MediaType: "application/vnd.dev.cosign.simplesigning.v1+json", Data: []byte("{}")}
			pushBlob(t, repo, layer)
			described := layer.Descriptor()
			described.Annotations = map[string]string{
				"dev.cosignproject.cosign/signature": "AAAA", "dev.sigstore.cosign/certificate": "x",
				"dev.sigstore.cosign/bundle": `{"SignedEntryTimestamp":"AA==","Payload":{"body":1}}`,
			}
			pushSignatures(t, repo, desc, described)
		},
		"a hundred bad ones": func(t *testing.T, repo oci.Repository, desc ocispec.Descriptor) {
			layer := oci.Blob{MediaType: "application/vnd.dev.cosign.simplesigning.v1+json", Data: []byte("{}")}
			pushBlob(t, repo, layer)
			described := layer.Descriptor()
			described.Annotations = map[string]string{"dev.cosignproject.cosign/signature": "AAAA"}
			pushSignatures(t, repo, desc, slices.Repeat([]ocispec.Descriptor{described}, 100)...)
		},
		"ten thousand bad ones under the tag": func(t *testing.T, repo oci.Repository, desc ocispec.Descriptor) {
			layer := oci.Blob{MediaType: "application/vnd.dev.cosign.simplesigning.v1+json", Data: []byte("{}")}
			pushBlob(t, repo, layer)
			pushSignatures(t, repo, desc, slices.Repeat([]ocispec.Descriptor{layer.Descriptor()}, 10_000)...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			repo, desc := web(t, name)
			spoil(t, repo, desc)
			if _, err := keyVerifier(t, good).Verify(t.Context(), repo, "bundles/web", desc); err == nil {
				t.Error("accepted without a signature")
			}
			sign(t, in(t, good, evidence.FormatBundle), repo, desc)
			wantReason(t, keyVerifier(t, good), repo, desc, "")
		})
	}
	t.Run("within the tag", func(t *testing.T) {
		repo, desc := web(t, "within the tag")
		layer := oci.Blob{MediaType: "application/vnd.dev.cosign.simplesigning.v1+json", Data: []byte("{}")}
		pushBlob(t, repo, layer)
		described := layer.Descriptor()
		described.Annotations = map[string]string{"dev.cosignproject.cosign/signature": "not base64"}
		pushSignatures(t, repo, desc, described)
		sign(t, good, repo, desc)
		wantReason(t, keyVerifier(t, good), repo, desc, "")
		report, err := keyVerifier(t, good).Inspect(t.Context(), repo, "bundles/web", desc)
		if err != nil || len(report.Findings) != 2 || report.Findings[0].Reason != signing.SignatureBroken || !report.Findings[1].Counts {
			t.Errorf("report %+v (%v)", report, err)
		}
	})
}

func pushBlob(t *testing.T, repo oci.Repository, blob oci.Blob) {
	t.Helper()
	if err := repo.Push(t.Context(), blob.Descriptor(), blob.Data); err != nil {
		t.Fatal(err)
	}
}

func pushManifest(t *testing.T, repo oci.Repository, data []byte, tag string) {
	t.Helper()
	blob := oci.Blob{MediaType: ocispec.MediaTypeImageManifest, Data: data}
	if err := repo.Push(t.Context(), blob.Descriptor(), data, tag); err != nil {
		t.Fatal(err)
	}
}

func pushSignatures(t *testing.T, repo oci.Repository, subject ocispec.Descriptor, layers ...ocispec.Descriptor) {
	t.Helper()
	data, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Layers: layers,
		Config: oci.Blob{MediaType: ocispec.MediaTypeImageConfig, Data: []byte("{}")}.Descriptor(),
	})
	if err != nil {
		t.Fatal(err)
	}
	pushManifest(t, repo, data, oci.SignatureTag(subject.Digest))
}

func attachBlob(t *testing.T, repo oci.Repository, subject ocispec.Descriptor, data []byte) {
	t.Helper()
	layer := oci.Blob{MediaType: evidence.MediaTypeBundle, Data: data}
	config := oci.Blob{MediaType: ocispec.MediaTypeEmptyJSON, Data: ocispec.DescriptorEmptyJSON.Data}
	pushBlob(t, repo, layer)
	pushBlob(t, repo, config)
	attachTo(t, repo, subject, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		ArtifactType: evidence.MediaTypeBundle, Config: config.Descriptor(), Layers: []ocispec.Descriptor{layer.Descriptor()},
	})
}

// Verifying costs at most three requests, and none for what was verified at the place before. Where the signatures of one
// artifact were, those of the next are looked for first.
func TestRequests(t *testing.T) {
	t.Parallel()
	for name, server := range map[string]*registrytest.Server{
		"referrers API":  registrytest.Wrap(t, registry.New(registry.WithReferrersSupport(true), registry.Logger(log.New(io.Discard, "", 0)))),
		"referrers tags": registrytest.New(t),
	} {
		for _, format := range formats {
			t.Run(name+"/"+string(format), func(t *testing.T) {
				repo, err := server.Registry(t).Repository("bundles/" + string(format))
				if err != nil {
					t.Fatal(err)
				}
				first, second := push(t, repo, "content"), push(t, repo, "changed")
				for _, desc := range []ocispec.Descriptor{first, second} {
					sign(t, in(t, signer(t, 0), format), repo, desc)
				}
				if _, err := oci.Referrers(t.Context(), repo, first); err != nil { // whether there is the API is known
					t.Fatal(err)
				}
				verifier := keyVerifier(t, signer(t, 0))
				cold, next := 2, 2
				switch format {
				case evidence.FormatTag:
					next = 1
				case evidence.FormatBundle:
					cold, next = 3, 3
				}
				for _, one := range []struct {
					desc ocispec.Descriptor
					want int
				}{{first, cold}, {first, 0}, {second, next}, {second, 0}} {
					server.Reset()
					wantReason(t, verifier, repo, one.desc, "")
					if got := server.Count(registrytest.Match{}); got != one.want {
						t.Errorf("%d requests, want %d: %v", got, one.want, server.Requests(registrytest.Match{}))
					}
				}
			})
		}
	}
}

// A connection that is cut while signatures are read is the network's doing: it says so, whoever asks again is answered,
// and what was not read is not called an attack.
func TestCutConnections(t *testing.T) {
	t.Parallel()
	for _, format := range formats {
		for _, kind := range []registrytest.Kind{registrytest.KindManifest, registrytest.KindBlob} {
			t.Run(string(format)+"/"+string(kind), func(t *testing.T) {
				server := registrytest.New(t)
				repo, err := server.Registry(t).Repository("bundles/web")
				if err != nil {
					t.Fatal(err)
				}
				desc := push(t, repo, "content")
				annotated, err := signer(t, 0).With(signing.SignOptions{Format: format, Annotations: map[string]string{"a": "b"}})
				if err != nil {
					t.Fatal(err)
				}
				sign(t, annotated, repo, desc)
				verifier := keyVerifier(t, signer(t, 0))
				server.Inject(registrytest.Fault{Match: registrytest.Match{Method: "GET", Kind: kind}, Cut: 10})
				_, err = verifier.Verify(t.Context(), repo, "bundles/web", desc)
				if refusal := (*signing.Error)(nil); errors.As(err, &refusal) || !errors.Is(err, oci.ErrUnreachable) || errors.Is(err, oci.ErrDamaged) {
					t.Errorf("got %v, want that the registry is unreachable", err)
				}
				server.Heal()
				wantReason(t, verifier, repo, desc, "")
			})
		}
	}
}

func TestSignOnceInEachForm(t *testing.T) {
	t.Parallel()
	repo, desc := web(t, "once")
	for _, format := range formats {
		for i, options := range []signing.SignOptions{
			{Format: format}, {Format: format}, {Format: format, Annotations: map[string]string{"a": "b"}}, {Format: format, Annotations: map[string]string{"a": "b"}},
		} {
			signer, err := signer(t, 1).With(options)
			if err != nil {
				t.Fatal(err)
			}
			if created, err := signer.Sign(t.Context(), repo, desc); err != nil || created != (i%2 == 0) {
				t.Errorf("%s, %d: created %v (%v)", format, i, created, err)
			}
		}
	}
	if _, err := signer(t, 1).With(signing.SignOptions{Format: "x"}); err == nil {
		t.Error("an unknown form is taken")
	}
}

// Keys that other tools made sign and verify, whatever their kind.
func TestImportedKeys(t *testing.T) {
	t.Parallel()
	for name, pem := range importedKeys(t) {
		t.Run(name, func(t *testing.T) {
			file := write(t, t.TempDir(), "key.pem", pem)
			private, public, err := signing.ImportKey(file, []byte("secret"))
			if err != nil {
				t.Fatal(err)
			}
			signer, err := signing.LoadSigner(private, []byte("secret"))
			if err != nil {
				t.Fatal(err)
			}
			verifier, err := signing.NewKeyVerifier(name, public)
			if err != nil {
				t.Fatal(err)
			}
			for _, format := range formats {
				repo, desc := web(t, name+string(format))
				sign(t, in(t, signer, format), repo, desc)
				wantReason(t, verifier, repo, desc, "")
			}
		})
	}
	if _, _, err := signing.ImportKey(write(t, t.TempDir(), "key.pem", []byte("no key")), nil); err == nil {
		t.Error("a text is taken for a key")
	}
}
