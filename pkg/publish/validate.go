package publish

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/publish/conform"
)

// Validation counts what was checked.
type Validation struct {
	Fleet    string `json:"fleet"`
	Clusters int    `json:"clusters"`
	Bundles  int    `json:"bundles"`
	// Variants are the different artifacts that overrides and values make of the bundles.
	Variants int `json:"variants"`
	// Warnings are for people: what is otherwise than a file's author may expect.
	Warnings []string `json:"warnings,omitempty"`
}

// ValidateOptions of [Validate].
type ValidateOptions struct {
	LoadOptions
	// KubeVersion, such as 1.34, and Definitions, files and folders with CustomResourceDefinitions, check every object
	// that renders against its schema; nothing of it happens when both are empty.
	KubeVersion string
	Definitions []string
	// Progress receives steps, one at a time; may be nil.
	Progress func(Event)
}

// Validate checks everything that a publish checks before it writes: it reads the fleet, plans every cluster and builds
// every variant. It needs no key, and no registry but those of OCI sources. What agents reported is not known: rules
// over it select nobody. All findings are returned at once.
func Validate(ctx context.Context, opts ValidateOptions) (Validation, error) {
	definitions, err := readDefinitions(opts.Definitions)
	if err != nil {
		return Validation{}, err
	}
	if _, err := conform.New(opts.KubeVersion, definitions); err != nil {
		return Validation{}, err // before anything takes time
	}
	loaded, err := Load(ctx, opts.LoadOptions)
	if err != nil {
		return Validation{}, err
	}
	result := Validation{Fleet: loaded.Fleet.Name, Clusters: len(loaded.Fleet.Clusters), Bundles: len(loaded.Fleet.Bundles), Warnings: loaded.Warnings}
	p := newPublisher(nil, Options{LoadOptions: opts.LoadOptions, Progress: opts.Progress})
	_, variants, err := p.plan(ctx, loaded, &plans{})
	result.Variants = len(variants)
	if err != nil {
		return result, err
	}
	list := variants.sorted()
	objects, err := newConformity(opts.KubeVersion, definitions, len(list))
	if err != nil {
		return result, err
	}
	take := objects.take
	if opts.KubeVersion == "" && len(opts.Definitions) == 0 {
		take = func(int, *variant) {}
	}
	findings, err := p.buildAll(ctx, list, take)
	if err != nil {
		return result, err
	}
	found, warnings, err := objects.end(list)
	if err != nil {
		return result, err
	}
	findings, result.Warnings = append(findings, found...), append(result.Warnings, warnings...)
	// What is wrong with a bundle is wrong with many of its variants.
	slices.SortFunc(findings, func(a, b error) int { return cmp.Compare(a.Error(), b.Error()) })
	findings = slices.CompactFunc(findings, func(a, b error) bool { return a.Error() == b.Error() })
	return result, errors.Join(findings...)
}

// buildAll builds every variant, has its objects looked at, and forgets it: thousands would fill the memory. It goes on
// after a failure, and returns what failed.
func (p *publisher) buildAll(ctx context.Context, list []*variant, look func(i int, v *variant)) ([]error, error) {
	progress := p.stage("build", len(list))
	var (
		mu       sync.Mutex
		findings []error
	)
	err := p.each(ctx, len(list), func(ctx context.Context, i int) error {
		v := list[i]
		err := v.build(ctx, "", "", v1alpha1.FleetIndex{})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			mu.Lock()
			findings = append(findings, err)
			mu.Unlock()
		} else {
			look(i, v)
		}
		v.artifact, v.objects = oci.Artifact{}, nil
		progress(v.index.Name, v.action, 0)
		return nil
	})
	return findings, err
}
