package bundler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	"golang.org/x/sync/errgroup"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/bundler/render"
	"pinnace.dev/pinnace/pkg/bundler/resolution"
	"pinnace.dev/pinnace/pkg/oci"
)

const (
	// maxLookups bounds requests for images' digests at the same time.
	maxLookups = 8
	// lookupTimeout ends a look-up in a registry that doesn't answer: a digest is not worth waiting for.
	lookupTimeout = 15 * time.Second
	// extraImage is where an image comes from that no object names.
	extraImage = "spec.extraImages"
)

// Images finds the digests of container images in their registries. It may be used concurrently.
type Images struct {
	// OCI reaches the registries; PlainHTTP are those without TLS, as host[:port].
	OCI       oci.Options
	PlainHTTP []string
	// Memory keeps what tags meant; required.
	Memory *resolution.Memory

	mu sync.Mutex
	// down are registries that did not answer, which are not asked again.
	down map[string]error
}

// resolve adds the digests. An image whose registry doesn't say is left without, and warned of.
func (i *Images) resolve(ctx context.Context, images []v1alpha1.Image) ([]v1alpha1.Image, error) {
	out := slices.Clone(images)
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(maxLookups)
	for n := range out {
		group.Go(func() error {
			digest, err := i.digest(groupCtx, out[n].Reference)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				i.Memory.Warn("image %s is recorded without a digest: %v", out[n].Reference, err)
			}
			out[n].Digest = digest
			return nil
		})
	}
	return out, group.Wait()
}

func (i *Images) digest(ctx context.Context, image string) (string, error) {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return "", err
	}
	if digested, ok := named.(reference.Digested); ok {
		return digested.Digest().String(), nil
	}
	tagged, ok := reference.TagNameOnly(named).(reference.NamedTagged)
	if !ok {
		return "", errors.New("it has no tag")
	}
	found, err := i.Memory.Resolve(ctx, resolution.Name{Kind: v1alpha1.ResolvedImage, Reference: image}, func(ctx context.Context) (v1alpha1.Resolution, error) {
		digest, err := i.look(ctx, tagged)
		return v1alpha1.Resolution{Digest: digest}, err
	})
	return found.Digest, err
}

func (i *Images) look(ctx context.Context, image reference.NamedTagged) (string, error) {
	host := reference.Domain(image)
	i.mu.Lock()
	down := i.down[host]
	i.mu.Unlock()
	if down != nil {
		return "", down
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	opts := i.OCI
	opts.PlainHTTP = slices.Contains(i.PlainHTTP, host)
	dir, name := path.Split(reference.Path(image))
	prefix := host + "/" + strings.TrimSuffix(dir, "/")
	if dir == "" {
		return "", fmt.Errorf("%s has no path below its registry, which is not supported", image.Name())
	}
	registry, err := oci.Open(prefix, opts)
	if err != nil {
		return "", err
	}
	repo, err := registry.Repository(name)
	if err != nil {
		return "", err
	}
	desc, err := repo.Resolve(ctx, image.Tag())
	if err != nil {
		if errors.Is(err, oci.ErrUnreachable) || ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", oci.ErrUnreachable, err)
			i.mu.Lock()
			if i.down == nil {
				i.down = map[string]error{}
			}
			i.down[host] = err
			i.mu.Unlock()
		}
		return "", err
	}
	return desc.Digest.String(), nil
}

// imageSettings are what images depend on beside what renders.
type imageSettings struct {
	Rules   []v1alpha1.ImageRule `json:",omitempty"`
	Extra   []string             `json:",omitempty"`
	Digests bool                 `json:",omitempty"`
	// Overrides are the values of a release's overrides, which name images too.
	Overrides []v1alpha1.Values `json:",omitempty"`
}

func (f Found) imageSettings() *imageSettings {
	settings := imageSettings{Rules: f.imageRules(), Extra: f.Bundle.Spec.ExtraImages, Digests: f.options.Images != nil}
	if f.Method() == v1alpha1.MethodRelease {
		settings.Overrides = f.overrideValues()
	}
	if len(settings.Rules) == 0 && len(settings.Extra) == 0 && len(settings.Overrides) == 0 && !settings.Digests {
		return nil
	}
	return &settings
}

func (f Found) imageRules() []v1alpha1.ImageRule {
	return slices.Concat(f.options.ImageRules, f.Bundle.Spec.ImageRules)
}

// overrideValues are those of each override that doesn't skip the bundle.
func (f Found) overrideValues() []v1alpha1.Values {
	var out []v1alpha1.Values
	for _, override := range f.Bundle.Spec.Overrides {
		if len(override.Values) > 0 && !override.Skip {
			out = append(out, override.Values)
		}
	}
	return out
}

// ownImages are found once: every variant of a release shares the artifact.
type ownImages struct {
	once   sync.Once
	images []v1alpha1.Image
	err    error
}

// ownImages returns the images that a release's own values name, and those of each override. A chart may not render
// without what a cluster adds; then none of it are listed.
func (f Found) ownImages(chart render.Chart) ([]v1alpha1.Image, error) {
	if f.own == nil {
		return f.findOwnImages(chart)
	}
	f.own.once.Do(func() { f.own.images, f.own.err = f.findOwnImages(chart) })
	return f.own.images, f.own.err
}

func (f Found) findOwnImages(chart render.Chart) ([]v1alpha1.Image, error) {
	base := f.Bundle.Spec.Helm.Values
	all := []v1alpha1.Values{base}
	for _, values := range f.overrideValues() {
		all = append(all, v1alpha1.MergeValues(base, values))
	}
	var found []v1alpha1.Image
	for _, values := range all {
		objects, err := render.Try(chart, f.release(Variant{Namespace: f.Bundle.Spec.Namespace}, values))
		if err != nil {
			continue
		}
		images, err := objects.Images(f.imageRules())
		if err != nil {
			return nil, err
		}
		found = mergeImages(found, images)
	}
	return found, nil
}

// mergeImages returns both lists as one, sorted by reference.
func mergeImages(a, b []v1alpha1.Image) []v1alpha1.Image {
	out := slices.Clone(a)
	for _, image := range b {
		at, known := slices.BinarySearchFunc(out, image, func(x, y v1alpha1.Image) int { return cmp.Compare(x.Reference, y.Reference) })
		if !known {
			out = slices.Insert(out, at, image)
			continue
		}
		for _, from := range image.From {
			if !slices.Contains(out[at].From, from) {
				out[at].From = append(slices.Clone(out[at].From), from)
			}
		}
	}
	return out
}

// completeImages adds those that no object names, and the digests.
func (f Found) completeImages(ctx context.Context, images []v1alpha1.Image) ([]v1alpha1.Image, error) {
	var extra []v1alpha1.Image
	for _, image := range f.Bundle.Spec.ExtraImages {
		extra = append(extra, v1alpha1.Image{Reference: image, From: []string{extraImage}})
	}
	slices.SortFunc(extra, func(a, b v1alpha1.Image) int { return cmp.Compare(a.Reference, b.Reference) })
	images = mergeImages(images, extra)
	// What only a cluster's values make is no reference.
	images = slices.DeleteFunc(images, func(image v1alpha1.Image) bool { return strings.Contains(image.Reference, "${") })
	if f.options.Images == nil || len(images) == 0 {
		return images, nil
	}
	return f.options.Images.resolve(ctx, images)
}
