package publish

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/bundler"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
	"pinnace.dev/pinnace/pkg/target"
)

// variant is one artifact of a bundle, shared by the clusters whose assignments render the same bytes.
type variant struct {
	name    string // see [target.Assignment]
	bundle  *target.Bundle
	found   foundBundle
	inputs  bundler.Variant
	cluster string // whose inputs they are
	// variables are the same cluster's.
	variables map[string]string
	clusters  int
	action    target.Action
	index     v1alpha1.IndexBundle
	artifact  oci.Artifact // of new ones only
	shelf     *shelf       // has the artifact's layer, when it was taken from here
	// objects are what was rendered of new ones, until they were looked at.
	objects []*unstructured.Unstructured
}

// results lists what was done to each artifact: variants may have the same bytes.
func (v variants) results() []BundleResult {
	var results []BundleResult
	for _, variant := range v.sorted() {
		index := variant.index
		if last := len(results) - 1; last >= 0 && results[last].Name == index.Name && results[last].Digest == index.Digest {
			results[last].Clusters += variant.clusters
			continue
		}
		results = append(results, BundleResult{
			Name: index.Name, Action: variant.action, Digest: index.Digest, Source: index.Source, Clusters: variant.clusters,
		})
	}
	return results
}

// index lists what the next publish need not build again.
func (v variants) index() []v1alpha1.IndexBundle {
	var bundles []v1alpha1.IndexBundle
	for _, variant := range v.sorted() {
		bundles = append(bundles, variant.index)
	}
	return slices.Compact(bundles)
}

// variants are keyed by what renders: bundle and inputs.
type variants map[string]*variant

func (v variants) artifact(a target.Assignment) target.Artifact {
	return v[a.Variant].built()
}

func (v variants) sorted() []*variant {
	return slices.SortedFunc(maps.Values(v), func(a, b *variant) int { return compareBundles(a.index, b.index) })
}

func compareBundles(a, b v1alpha1.IndexBundle) int {
	return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Digest, b.Digest), strings.Compare(a.Key, b.Key))
}

// renders counts the variants that the last publish didn't have.
func (v variants) renders() int {
	n := 0
	for _, variant := range v {
		if variant.artifact.Layers != nil {
			n++
		}
	}
	return n
}

// build renders every variant that the last publish didn't have.
func (p *publisher) build(ctx context.Context, sources []v1alpha1.IndexSource, all variants, parent v1alpha1.FleetIndex) error {
	known := map[string]v1alpha1.IndexBundle{}
	for _, bundle := range parent.Bundles {
		if !p.Refresh { // what is looked up again may change what is recorded
			known[bundle.Name+" "+bundle.Key] = bundle
		}
	}
	commits := map[string]string{}
	for _, source := range sources {
		commits[source.Name] = source.Commit
	}
	list := slices.Collect(maps.Values(all))
	progress := p.stage("build", len(list))
	return p.each(ctx, len(list), func(ctx context.Context, i int) error {
		v := list[i]
		key, err := v.key(ctx)
		if err != nil {
			return &sourceError{source: v.index.Source, err: err}
		}
		if before, ok := known[v.index.Name+" "+key]; ok {
			v.index, v.action = before, target.Unchanged
		} else if err := v.build(ctx, key, commits[v.index.Source], parent); err != nil {
			return &sourceError{source: v.index.Source, err: err}
		} else if err := p.shelf.take(v); err != nil {
			return err
		}
		v.objects = nil // they are many times as large as the artifact
		progress(v.index.Name, v.action, 0)
		return nil
	})
}

// draft is what is kept of a cluster's plan: plans of thousands of clusters would fill the memory, and are made again
// faster than they are swapped.
type draft struct {
	sketch target.Sketch
	// variants are those of the cluster's bundles, in the order of the target.
	variants []*variant
}

func (d draft) content() string {
	return d.sketch.Content(func(yield func(target.Artifact) bool) {
		for _, v := range d.variants {
			if !yield(v.built()) {
				return
			}
		}
	})
}

func (d draft) bundles() []string {
	names := make([]string, len(d.variants))
	for i, v := range d.variants {
		names[i] = v.index.Name
	}
	return names
}

func (v *variant) built() target.Artifact {
	return target.Artifact{Digest: v.index.Digest, LayerDigest: v.index.LayerDigest, Method: v.index.Method}
}

// plan looks at every cluster once, to find what has to be rendered and whether its target changes. What is known of
// the last publish is not planned again.
func (p *publisher) plan(ctx context.Context, loaded *Loaded, known *plans) ([]draft, variants, error) {
	var (
		mu       sync.Mutex
		all      = variants{}
		drafts   = make([]draft, len(loaded.Fleet.Clusters))
		recalled = known.recall(loaded.Fleet)
		outdated bool
		errs     []error
	)
	progress := p.stage("plan", len(drafts))
	err := p.each(ctx, len(drafts), func(_ context.Context, i int) error {
		if _, is := recalled[i]; is {
			progress(loaded.Fleet.Clusters[i].Metadata.Name, "", 0)
			return nil
		}
		plan, err := loaded.Fleet.PlanCluster(i)
		if err == nil {
			drafts[i].sketch = loaded.Fleet.Sketch(plan, loaded.Fleet.Assemble(plan, loaded.unbuilt))
		}
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			if errs = append(errs, err); len(errs) == maxFindings {
				return errTooMany
			}
			return nil
		}
		outdated = outdated || known.contradicts(loaded.Fleet, i, drafts[i].sketch)
		for _, assignment := range plan.Assignments {
			if assignment.Selected {
				drafts[i].variants = append(drafts[i].variants, all.add(assignment, loaded.found[assignment.Bundle.Metadata.Name]))
			}
		}
		progress(plan.Cluster.Metadata.Name, "", 0)
		return nil
	})
	if err = errors.Join(append(errs, err)...); err == nil && (outdated || !known.complete(drafts, recalled, all)) {
		return p.plan(ctx, loaded, &plans{Program: known.Program, Fleet: known.Fleet})
	}
	return drafts, all, err
}

// planAndBuild is for those who look at targets afterwards.
func (p *publisher) planAndBuild(ctx context.Context, loaded *Loaded, parent v1alpha1.FleetIndex) (variants, error) {
	_, all, err := p.plan(ctx, loaded, &plans{})
	if err != nil {
		return nil, err
	}
	return all, p.build(ctx, loaded.Sources, all, parent)
}

// unbuilt is what is known of an artifact before it is built.
func (l *Loaded) unbuilt(a target.Assignment) target.Artifact {
	return target.Artifact{Method: l.found[a.Bundle.Metadata.Name].method()}
}

// maxFindings bounds how many clusters' findings are returned: one wrong template fails for every cluster.
const maxFindings = 20

var errTooMany = errors.New("there may be more")

// add counts a cluster. The values that a chart is tried with are those of the first one by name, whatever the order.
func (v variants) add(a target.Assignment, found foundBundle) *variant {
	known := v[a.Variant]
	if known == nil {
		known = &variant{
			name: a.Variant, bundle: a.Bundle, found: found, cluster: a.Cluster,
			index: v1alpha1.IndexBundle{Name: a.Bundle.Metadata.Name, Source: a.Bundle.Source.Name},
		}
		v[a.Variant] = known
	}
	if known.clusters++; a.Cluster <= known.cluster {
		known.cluster, known.variables = a.Cluster, a.Variables
		known.inputs = bundler.Variant{HelmValues: a.Values, Kustomize: a.Kustomize, Overlays: a.Overlays, Namespace: a.Namespace}
	}
	return known
}

func (v *variant) key(ctx context.Context) (string, error) {
	if v.found.prebuilt != nil {
		return v.found.prebuilt.desc.Digest.String(), nil
	}
	key, err := bundler.Key(ctx, v.found.Found, v.inputs)
	if restrict := v.bundle.Restrict; restrict != nil {
		// Another restriction is another reason to look at what renders.
		key += " within " + strings.Join(restrict.Namespaces, ",")
	}
	return key, err
}

func (v *variant) build(ctx context.Context, key, commit string, parent v1alpha1.FleetIndex) error {
	v.index.Key, v.index.Commit = key, commit
	if prebuilt := v.found.prebuilt; prebuilt != nil {
		v.index.Digest = prebuilt.desc.Digest.String()
		v.index.LayerDigest = prebuilt.bundle.Layer.Digest.String()
		v.index.Method = prebuilt.bundle.Config.Method
	} else {
		built, err := bundler.Build(ctx, v.found.Found, v.inputs)
		if err != nil {
			return err
		}
		for _, object := range built.Objects {
			if err := v.bundle.CheckNamespace(object.GetNamespace()); err != nil && object.GetNamespace() != "" {
				return fmt.Errorf("bundle %q: %s %s: %w", v.index.Name, object.GetKind(), object.GetName(), err)
			}
		}
		v.artifact, v.objects = built.Artifact(), built.Objects
		v.index.Digest = v.artifact.Descriptor().Digest.String()
		v.index.LayerDigest = v.artifact.Layers[0].Descriptor().Digest.String()
		v.index.Method = built.Config.Method
	}
	v.action = target.Created
	for _, before := range parent.Bundles {
		if before.Name != v.index.Name {
			continue
		}
		v.action = target.Changed
		if before.Digest == v.index.Digest {
			// Other inputs, same bytes: nothing is pushed, and the commit that first made them stays.
			v.index.Commit, v.action = before.Commit, target.Unchanged
			break
		}
	}
	return nil
}

// pushBundles stores and signs what is new, under the tag that keeps it from garbage collection.
func (p *publisher) pushBundles(ctx context.Context, all variants) error {
	pushed := map[string]*variant{}
	for _, v := range all {
		if v.action != target.Unchanged {
			pushed[v.index.Name+"@"+v.index.Digest] = v
		}
	}
	list := slices.Collect(maps.Values(pushed))
	items := make([]signing.Item, len(list))
	progress := p.stage("push", len(list))
	err := p.each(ctx, len(list), func(ctx context.Context, i int) error {
		v := list[i]
		repo, err := p.registry.Repository(v1alpha1.BundleRepository(v.index.Name))
		if err != nil {
			return err
		}
		desc, size, err := v.push(ctx, repo)
		if err != nil {
			return fmt.Errorf("bundle %q: %w", v.index.Name, err)
		}
		items[i] = signing.Item{Repository: repo, Descriptor: desc}
		progress(v.index.Name, v.action, size)
		return nil
	})
	if err != nil {
		return err
	}
	_, err = p.Signer.SignAll(ctx, items, p.jobs)
	return err
}

// revived returns those that were retired, and may be on their way out of the registry.
func (v variants) revived(parent v1alpha1.FleetIndex) variants {
	out := variants{}
	for _, retired := range parent.Retired {
		for key, variant := range v {
			if variant.index.Name == retired.Name && variant.index.Digest == retired.Digest {
				out[key] = variant
			}
		}
	}
	return out
}

// push stores the artifact, or copies what another CI built with its signatures. It returns the size of the layer.
func (v *variant) push(ctx context.Context, repo oci.Repository) (ocispec.Descriptor, int64, error) {
	tag := v1alpha1.ContentTag(v.index.Digest)
	if prebuilt := v.found.prebuilt; prebuilt != nil {
		return prebuilt.desc, prebuilt.bundle.Layer.Size, oci.Copy(ctx, prebuilt.repo, repo, prebuilt.desc, tag)
	}
	data, err := v.layer(ctx)
	if err != nil {
		return ocispec.Descriptor{}, 0, err
	}
	artifact := v.artifact
	artifact.Layers = []oci.Blob{{MediaType: v.artifact.Layers[0].MediaType, Data: data}}
	desc, _, err := oci.Push(ctx, repo, artifact, tag)
	return desc, int64(len(data)), err
}

// stage returns a function that reports one finished thing of a stage, and how many bytes were sent for it.
func (p *publisher) stage(name string, all int) func(subject string, action target.Action, bytes int64) {
	return stage(p.Progress, name, all)
}

func stage(report func(Event), name string, all int) func(subject string, action target.Action, bytes int64) {
	var (
		mu   sync.Mutex
		done int
		sent int64
	)
	return func(subject string, action target.Action, bytes int64) {
		mu.Lock()
		defer mu.Unlock()
		done++
		sent += bytes
		if report != nil {
			report(Event{Stage: name, Subject: subject, Action: action, Done: done, All: all, Bytes: sent})
		}
	}
}
