package publish

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/bundler"
	"pinnace.dev/pinnace/pkg/bundler/source"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/target"
)

// maxKeptNames stops a fleet index that grows with every publish: what images' tags meant is kept while nobody can tell
// whether a bundle still names them.
const maxKeptNames = 10_000

// retained is what clusters keep of the last publish: bundles of sources that cannot be read, and paused bundles.
type retained struct {
	mu      sync.Mutex
	sources map[string]bool
	bundles map[string]bool
}

// any reports whether anything is kept.
func (k *retained) any() bool { return len(k.sources)+len(k.bundles) > 0 }

func (k *retained) has(bundle, source string) bool { return k.sources[source] || k.bundles[bundle] }

func (k *retained) source(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.sources == nil {
		k.sources = map[string]bool{}
	}
	k.sources[name] = true
}

// names returns the bundles that are kept of the last publish.
func (k *retained) names(before v1alpha1.FleetIndex) map[string]bool {
	if !k.any() {
		return nil
	}
	names := map[string]bool{}
	for _, bundle := range before.Bundles {
		if k.has(bundle.Name, bundle.Source) {
			names[bundle.Name] = true
		}
	}
	return names
}

// index adds the kept bundles to those of this publish.
func (k *retained) index(bundles []v1alpha1.IndexBundle, before v1alpha1.FleetIndex) []v1alpha1.IndexBundle {
	if !k.any() {
		return bundles
	}
	planned := map[string]bool{}
	for _, bundle := range bundles {
		planned[bundle.Name] = true
	}
	for _, bundle := range before.Bundles {
		if k.has(bundle.Name, bundle.Source) && !planned[bundle.Name] {
			bundles = append(bundles, bundle)
		}
	}
	slices.SortFunc(bundles, compareBundles)
	return bundles
}

// resolved returns what names mean, for the next publish. Images of bundles that were not built again are not asked for.
func (l *Loaded) resolved() []v1alpha1.Resolution {
	kept := 0
	return l.names.Used(func(known v1alpha1.Resolution) bool {
		kept++
		return known.Kind == v1alpha1.ResolvedImage && kept <= maxKeptNames || len(l.kept.sources) > 0
	})
}

// keepable reports whether there is anything to keep of a source. The fleet repository itself is read or it isn't.
func keepable(src v1alpha1.Source, before v1alpha1.FleetIndex) bool {
	return before.Publication > 0 && (src.Git != nil || src.OCI != nil)
}

// keepSource finds a source's bundles as they were when it could be read: those of the last published commit, where
// that is at hand; else clusters keep what their targets have of it.
func (l *Loaded) keepSource(ctx context.Context, src v1alpha1.Source, from source.Options, opts LoadOptions, build bundler.Options,
	before v1alpha1.FleetIndex, failure error,
) ([]foundBundle, v1alpha1.IndexSource) {
	last := v1alpha1.IndexSource{Name: src.Name}
	if at := slices.IndexFunc(before.Sources, func(s v1alpha1.IndexSource) bool { return s.Name == src.Name }); at >= 0 {
		last = before.Sources[at]
	}
	last.Failed = strings.Join(strings.Fields(failure.Error()), " ")
	if last.Commit != "" && !opts.verbatim[src.Name] {
		if found, err := readLast(ctx, src, last, from, opts, build, failure); err == nil {
			return found, last
		}
	}
	l.kept.source(src.Name)
	return nil, last
}

// readLast reads the last published commit of a source.
func readLast(ctx context.Context, src v1alpha1.Source, last v1alpha1.IndexSource, from source.Options, opts LoadOptions,
	build bundler.Options, failure error,
) ([]foundBundle, error) {
	unreachable := errors.Is(failure, source.ErrUnreachable) || errors.Is(failure, source.ErrUnauthorized)
	if src.OCI != nil {
		was := *src.OCI
		was.Ref = v1alpha1.OCIRef{Digest: last.Commit}
		src.OCI = &was
		if last.Repository != was.Repository {
			return nil, source.ErrNotFound
		}
		found, _, err := readOCI(ctx, src, opts, from.Fleet.Dir, build)
		return found, err
	}
	tree, found := source.Cached(*src.Git, last.Commit, from)
	if !found && !unreachable {
		was := *src.Git
		was.Ref = v1alpha1.GitRef{Commit: last.Commit}
		at := src
		at.Git = &was
		var err error
		if tree, err = source.Checkout(ctx, at, from); err != nil {
			return nil, err
		}
	} else if !found {
		return nil, source.ErrNotFound
	}
	if tree.Repository != last.Repository {
		return nil, source.ErrNotFound
	}
	bundles, _, err := discover(ctx, tree, src, last, build)
	return bundles, err
}

// pause leaves a bundle as clusters have it.
func (l *Loaded) pause(item foundBundle) {
	name := item.Bundle.Metadata.Name
	if l.kept.bundles == nil {
		l.kept.bundles = map[string]bool{}
	}
	l.kept.bundles[name] = true
	l.Warnings = append(l.Warnings, fmt.Sprintf("%v; clusters keep what they have of it", item.Document.Errorf("spec.paused", "bundle %q is paused", name)))
}

// keep puts what a cluster keeps of its last target into the next one. A bundle that depends on what the cluster does
// not have stays as it was too.
func (k *retained) keep(next, before v1alpha1.Target) v1alpha1.Target {
	was := map[string]v1alpha1.TargetBundle{}
	for _, bundle := range before.Bundles {
		was[bundle.Name] = bundle
	}
	bundles := map[string]v1alpha1.TargetBundle{}
	for name, bundle := range was {
		if k.has(name, bundle.Source.Name) {
			bundles[name] = bundle
		}
	}
	// What is kept stays, also when something that it depended on goes.
	for name, bundle := range bundles {
		bundle.DependsOn = slices.DeleteFunc(slices.Clone(bundle.DependsOn), func(dependency string) bool {
			_, isKept := bundles[dependency]
			return !isKept && !slices.ContainsFunc(next.Bundles, func(b v1alpha1.TargetBundle) bool { return b.Name == dependency })
		})
		bundles[name] = bundle
	}
	for _, bundle := range next.Bundles {
		// Selectors select what is kept as well.
		for _, dependency := range was[bundle.Name].DependsOn {
			if _, isKept := bundles[dependency]; isKept && !slices.Contains(bundle.DependsOn, dependency) {
				bundle.DependsOn = append(slices.Clone(bundle.DependsOn), dependency)
			}
		}
		slices.Sort(bundle.DependsOn)
		bundles[bundle.Name] = bundle
	}
	k.settle(bundles, was)
	next.Bundles = make([]v1alpha1.TargetBundle, 0, len(bundles))
	for _, bundle := range bundles {
		next.Bundles = append(next.Bundles, bundle)
	}
	slices.SortFunc(next.Bundles, func(a, b v1alpha1.TargetBundle) int { return strings.Compare(a.Name, b.Name) })
	return next
}

// settle replaces bundles whose dependencies are not there by what they were, and leaves new ones out.
func (k *retained) settle(bundles, was map[string]v1alpha1.TargetBundle) {
	for changed := true; changed; {
		changed = false
		for name, bundle := range bundles {
			missing := slices.ContainsFunc(bundle.DependsOn, func(dependency string) bool { _, there := bundles[dependency]; return !there })
			if !missing {
				continue
			}
			delete(bundles, name)
			changed = true
			old, known := was[name]
			complete := !slices.ContainsFunc(old.DependsOn, func(dependency string) bool { _, there := bundles[dependency]; return !there })
			if known && complete {
				bundles[name] = old
			}
		}
	}
}

// keeping makes targets with what clusters keep.
func (p *publisher) keeping(loaded *Loaded, before v1alpha1.IndexCluster,
	assemble func(context.Context) (v1alpha1.Target, error),
) func(context.Context) (v1alpha1.Target, error) {
	return func(ctx context.Context) (v1alpha1.Target, error) {
		next, err := assemble(ctx)
		if err != nil {
			return next, err
		}
		var last v1alpha1.Target
		if before.Digest != "" {
			verifier, err := p.ownVerifier(ctx)
			if err != nil {
				return next, err
			}
			if last, err = p.fetchTarget(ctx, before.Name, before.Digest, verifier); err != nil {
				return next, fmt.Errorf("cluster %s: what it keeps of its last target: %w", before.Name, explainKey(err, p.registry))
			}
		}
		return loaded.kept.keep(next, last), nil
	}
}

// lastPublish is what a publish goes on from.
type lastPublish struct {
	opts Options
	// registry is opened when nil.
	registry oci.Registry
	done     bool
	index    v1alpha1.FleetIndex
	digest   string
}

// publishFrom publishes. A source that holds what cannot be built is kept as one that cannot be read.
func publishFrom(ctx context.Context, last *lastPublish, opts Options) (Result, error) {
	opts.previous, opts.failing = last.read, map[string]error{}
	opts.verbatim = map[string]bool{}
	for {
		loaded, err := Load(ctx, opts.LoadOptions)
		if err != nil {
			return Result{}, err
		}
		result, err := publish(ctx, loaded, last, opts)
		var failed *sourceError
		if !errors.As(err, &failed) || ctx.Err() != nil || opts.verbatim[failed.source] || !loaded.keepable(failed.source, last.index) {
			return result, err
		}
		if opts.failing[failed.source] != nil {
			// Its last commit doesn't build any more either.
			opts.verbatim[failed.source] = true
			continue
		}
		opts.failing[failed.source] = failed
	}
}

func (l *Loaded) keepable(name string, before v1alpha1.FleetIndex) bool {
	at := slices.IndexFunc(l.Fleet.Spec.Sources, func(src v1alpha1.Source) bool { return src.Name == name })
	return at >= 0 && keepable(l.Fleet.Spec.Sources[at], before)
}

// sourceError is a failure to build what a source holds.
type sourceError struct {
	source string
	err    error
}

func (e *sourceError) Error() string { return e.err.Error() }
func (e *sourceError) Unwrap() error { return e.err }

// read opens the fleet's registry and reads the last publish in it.
func (l *lastPublish) read(ctx context.Context, fleet *target.Fleet) (v1alpha1.FleetIndex, error) {
	if l.done {
		return l.index, nil
	}
	var err error
	if l.registry == nil {
		if l.registry, err = openRegistry(fleet, l.opts.Registry, l.opts.OCI); err != nil {
			return l.index, err
		}
	}
	if l.index, l.digest, err = newPublisher(l.registry, l.opts).readParent(ctx); err != nil {
		return l.index, err
	}
	if l.index.Publication > 0 && l.index.Fleet != fleet.Name {
		return l.index, fmt.Errorf("%s holds the fleet %q, not %q; choose another prefix", l.registry, l.index.Fleet, fleet.Name)
	}
	l.done = true
	return l.index, nil
}
