package main

import (
	"context"
	"fmt"

	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/registry/remote"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/mirror/mirrortest"
)

// orasLoop copies every image, bundle, target and the fleet index one after the other, as a script around oras cp does.
// Signatures, which it would not find, are left out: that is in its favour.
func (b *bench) orasLoop(ctx context.Context, to *server) error {
	for i := range b.fleet.Images {
		name := fmt.Sprintf("apps/app-%02d", i)
		if err := b.orasCopy(ctx, name, to.proxy.addr+"/fleet/images/"+name, "v1"); err != nil {
			return err
		}
	}
	registry, err := b.centre.open()
	if err != nil {
		return err
	}
	for i := range b.fleet.Bundles {
		name := v1alpha1.BundleRepository(fmt.Sprintf("bundle-%03d", i))
		tag, err := contentTag(ctx, registry, name)
		if err != nil {
			return err
		}
		if err := b.orasCopy(ctx, "fleet/"+name, to.proxy.addr+"/fleet/"+name, tag); err != nil {
			return err
		}
	}
	names := []string{v1alpha1.RepositoryFleet}
	for i := range b.fleet.Clusters {
		names = append(names, v1alpha1.TargetRepository(mirrortest.Cluster(i)))
	}
	for _, name := range names {
		if err := b.orasCopy(ctx, "fleet/"+name, to.proxy.addr+"/fleet/"+name, v1alpha1.TagCurrent); err != nil {
			return err
		}
	}
	return nil
}

// contentTag is a bundle's own tag.
func contentTag(ctx context.Context, registry oci.Registry, name string) (string, error) {
	repo, err := registry.Repository(name)
	if err != nil {
		return "", err
	}
	tags, err := repo.Tags(ctx)
	if err != nil || len(tags) == 0 {
		return "", fmt.Errorf("tags of %s: %v: %w", name, tags, err)
	}
	return tags[0], nil // sha-… stands before sha256-….sig
}

// orasCopy is what oras cp -r does, with its defaults.
func (b *bench) orasCopy(ctx context.Context, from, to, tag string) error {
	source, err := remote.NewRepository(b.centre.proxy.addr + "/" + from)
	if err != nil {
		return err
	}
	target, err := remote.NewRepository(to)
	if err != nil {
		return err
	}
	source.PlainHTTP, target.PlainHTTP = true, true
	_, err = oras.ExtendedCopy(ctx, source, tag, target, tag, oras.DefaultExtendedCopyOptions)
	return err
}
