package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/registry/remote"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/hack/bench/figures"
	"pinnace.dev/pinnace/pkg/oci"
)

// artifactsPerTarget are what a publish pushes for each target: the target and its signature.
const artifactsPerTarget = 2

// atOnce is how many targets are pushed at the same time: as many as a publish does by default.
var atOnce = 4 * runtime.GOMAXPROCS(0)

// pushed is one manifest with its blobs.
type pushed struct {
	desc     ocispec.Descriptor
	manifest []byte
	blobs    []oci.Blob
	tags     []string
}

// clusterPushes are what one cluster's repository was given.
type clusterPushes struct {
	repository        string
	target, signature pushed
}

// readPushes reads every cluster's last target and its signature.
func readPushes(ctx context.Context, addr string, clusters int, generation string) ([]clusterPushes, error) {
	out := make([]clusterPushes, clusters)
	err := each(ctx, clusters, func(ctx context.Context, i int) error {
		out[i].repository = v1alpha1.TargetRepository(clusterName(i))
		repo, err := bare(addr + "/bench/" + out[i].repository)
		if err != nil {
			return err
		}
		if out[i].target, err = read(ctx, repo, v1alpha1.TagCurrent); err != nil {
			return err
		}
		out[i].target.tags = []string{generation, v1alpha1.TagCurrent}
		out[i].signature, err = read(ctx, repo, oci.SignatureTag(out[i].target.desc.Digest))
		return err
	})
	return out, err
}

func bare(name string) (*remote.Repository, error) {
	repo, err := remote.NewRepository(name)
	if err == nil {
		repo.PlainHTTP = true
	}
	return repo, err
}

func read(ctx context.Context, repo *remote.Repository, tag string) (pushed, error) {
	desc, err := repo.Resolve(ctx, tag)
	if err != nil {
		return pushed{}, err
	}
	out := pushed{desc: desc, tags: []string{tag}}
	if out.manifest, err = content.FetchAll(ctx, repo, desc); err != nil {
		return out, err
	}
	var manifest ocispec.Manifest
	if err := json.Unmarshal(out.manifest, &manifest); err != nil {
		return out, err
	}
	for _, blob := range append(manifest.Layers, manifest.Config) {
		data, err := content.FetchAll(ctx, repo, blob)
		if err != nil {
			return out, err
		}
		out.blobs = append(out.blobs, oci.Blob{MediaType: blob.MediaType, Data: data})
	}
	return out, nil
}

// pushRate compares a publish with a bare loop that pushes the same artifacts to another registry of the same kind, on
// top of the generation before: no plan, no signature to make, no question whether anything is there.
func (b *bench) pushRate(ctx context.Context, from *counted, before []clusterPushes, publish published) error {
	after, err := readPushes(ctx, from.addr, len(before), "gen-2")
	if err != nil {
		return err
	}
	to, err := b.registry("bare")
	if err != nil {
		return err
	}
	if err := pushAll(ctx, to.addr, before, false); err != nil {
		return err
	}
	to.reset()
	started, used := time.Now(), processorTime()
	if err := pushAll(ctx, to.addr, after, true); err != nil {
		return err
	}
	seconds := time.Since(started).Seconds()
	used = processorTime() - used
	fmt.Fprintf(os.Stderr, "bare loop: %.2f s (processor: %.1f s, the registry's with it), %d requests, %d of them PUT\n",
		seconds, used, to.requests.Load(), to.puts.Load())
	rate := func(seconds float64) float64 { return float64(artifactsPerTarget*len(after)) / seconds }
	figures.Report("push_rate_bare", rate(seconds), "artifacts/s")
	figures.Report("push_rate", rate(publish.seconds), "artifacts/s")
	figures.Report("push_rate_ratio", rate(publish.seconds)/rate(seconds), "")
	// The same by processor time, which others on the machine don't change.
	figures.Report("push_processor_ratio", used/(publish.own+publish.registry), "")
	return to.discard()
}

func pushAll(ctx context.Context, addr string, all []clusterPushes, again bool) error {
	return each(ctx, len(all), func(ctx context.Context, i int) error {
		repo, err := bare(addr + "/bench/" + all[i].repository)
		if err != nil {
			return err
		}
		for _, artifact := range []pushed{all[i].target, all[i].signature} {
			for _, blob := range artifact.blobs {
				if again && blob.MediaType == ocispec.MediaTypeEmptyJSON {
					continue // the config of all targets is in the repository already
				}
				if err := repo.Push(ctx, blob.Descriptor(), bytes.NewReader(blob.Data)); err != nil {
					return err
				}
			}
			for _, tag := range artifact.tags {
				if err := repo.PushReference(ctx, artifact.desc, bytes.NewReader(artifact.manifest), tag); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func each(ctx context.Context, n int, do func(context.Context, int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for i := range n {
		group.Go(func() error { return do(ctx, i) })
	}
	return group.Wait()
}
