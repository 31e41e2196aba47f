package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/archive"
)

// Verifier checks a manifest's signatures in repo against the local trust policy. name is the repository's name
// relative to the fleet's prefix. It reads nothing but repo, so the same call verifies a registry and the state folder.
// It may be used concurrently.
type Verifier interface {
	Verify(ctx context.Context, repo oci.Repository, name string, desc ocispec.Descriptor) (oci.Verified, error)
}

// content is the verified content on disk: an OCI layout with the registry's repositories.
type content struct {
	dir      string
	layout   oci.Registry
	verifier Verifier
}

// target reads a target from the disk, verified again.
func (c *content) target(ctx context.Context, cluster string, desc ocispec.Descriptor) (*v1alpha1.Target, oci.Verified, error) {
	name := v1alpha1.TargetRepository(cluster)
	repo, err := c.layout.Repository(name)
	if err != nil {
		return nil, oci.Verified{}, err
	}
	verified, err := c.verifier.Verify(ctx, repo, name, desc)
	if err != nil {
		return nil, oci.Verified{}, err
	}
	target, err := oci.FetchTarget(ctx, repo, verified)
	if err != nil {
		return nil, oci.Verified{}, err
	}
	return &target, verified, nil
}

// open verifies a bundle on the disk and checks that all of it is there.
func (c *content) open(ctx context.Context, bundle *v1alpha1.TargetBundle) (oci.Bundle, error) {
	repo, err := c.layout.Repository(bundle.Repository)
	if err != nil {
		return oci.Bundle{}, err
	}
	desc, err := repo.Resolve(ctx, bundle.Digest)
	if err != nil {
		return oci.Bundle{}, err
	}
	verified, err := c.verifier.Verify(ctx, repo, bundle.Repository, desc)
	if err != nil {
		return oci.Bundle{}, err
	}
	found, err := oci.FetchBundle(ctx, repo, verified)
	if err != nil {
		return oci.Bundle{}, err
	}
	if err := fits(bundle, found); err != nil {
		return oci.Bundle{}, err
	}
	complete, err := repo.Exists(ctx, found.Layer)
	if err != nil {
		return oci.Bundle{}, err
	}
	if !complete {
		return oci.Bundle{}, fmt.Errorf("%s@%s: %w", repo, found.Layer.Digest, oci.ErrDamaged)
	}
	return found, nil
}

// fits checks that a bundle is what the target says it is.
func fits(bundle *v1alpha1.TargetBundle, found oci.Bundle) error {
	want := v1alpha1.MediaTypeBundleContent
	if bundle.Method == v1alpha1.MethodRelease {
		want = v1alpha1.MediaTypeHelmChart
	}
	var problem error
	switch {
	case found.Layer.Digest.String() != bundle.LayerDigest:
		problem = fmt.Errorf("its layer is %s, the target says %s", found.Layer.Digest, bundle.LayerDigest)
	case found.Layer.MediaType != want:
		problem = fmt.Errorf("its layer is of type %q, method %q needs %q", found.Layer.MediaType, bundle.Method, want)
	case found.Config.Name != bundle.Name:
		problem = fmt.Errorf("it is bundle %q, the target says %q", found.Config.Name, bundle.Name)
	case found.Config.Source.Name != bundle.Source.Name:
		problem = fmt.Errorf("it is from source %q, the target says %q", found.Config.Source.Name, bundle.Source.Name)
	}
	if problem == nil {
		return nil
	}
	return &Error{
		Stage: StageVerify, Subject: subject(bundle), Reason: ReasonInvalidBundle, Mend: "publish again", Err: problem,
	}
}

// fetch brings a bundle onto the disk; what is there, verified and whole, is not fetched again.
func (c *content) fetch(ctx context.Context, src oci.Registry, bundle *v1alpha1.TargetBundle) (fetched bool, err error) {
	_, localErr := c.open(ctx, bundle)
	if localErr == nil {
		return false, nil
	}
	remote, err := src.Repository(bundle.Repository)
	if err != nil {
		return false, bundleProblem(StageFetch, bundle, err)
	}
	remote = oci.Remember(remote)
	desc, err := remote.Resolve(ctx, bundle.Digest)
	if err != nil {
		return false, bundleProblem(StageFetch, bundle, err)
	}
	verified, err := c.verifier.Verify(ctx, remote, bundle.Repository, desc)
	if err != nil {
		return false, bundleProblem(StageVerify, bundle, err)
	}
	found, err := oci.FetchBundle(ctx, remote, verified)
	if err == nil {
		err = fits(bundle, found)
	}
	if err == nil {
		err = c.copy(ctx, remote, bundle.Repository, verified)
	}
	if err != nil {
		return false, bundleProblem(StageFetch, bundle, err)
	}
	if _, err := c.open(ctx, bundle); err != nil {
		return false, bundleProblem(StageFetch, bundle, err)
	}
	return true, nil
}

// copy brings a manifest onto the disk, with the signatures that verify it again.
func (c *content) copy(ctx context.Context, remote oci.Repository, name string, verified oci.Verified, tags ...string) error {
	local, err := c.layout.Repository(name)
	if err != nil {
		return err
	}
	return oci.CopyVerified(ctx, remote, local, verified, tags...)
}

// collect removes what neither the target, nor its bundles, nor the versions that are kept beside them need. Nothing else may write meanwhile.
func (c *content) collect(ctx context.Context, target *v1alpha1.Target, manifest ocispec.Descriptor, kept []v1alpha1.TargetBundle) error {
	subjects := map[string]map[digest.Digest]bool{ // by repository
		v1alpha1.TargetRepository(target.Cluster): {manifest.Digest: true},
	}
	for _, bundle := range slices.Concat(target.Bundles, kept) {
		if subjects[bundle.Repository] == nil {
			subjects[bundle.Repository] = map[digest.Digest]bool{}
		}
		subjects[bundle.Repository][digest.Digest(bundle.Digest)] = true
	}
	keep := map[digest.Digest]bool{}
	for name, kept := range subjects {
		for subject := range kept {
			if err := c.mark(ctx, name, subject, keep); err != nil {
				return err
			}
		}
	}
	if err := c.untagAll(ctx, subjects); err != nil {
		return err
	}
	if c.dir == "" {
		return nil // not on a disk: whoever keeps it sees to it
	}
	folder := filepath.Join(c.dir, ocispec.ImageBlobsDir, string(digest.SHA256))
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if keep[digest.NewDigestFromEncoded(digest.SHA256, entry.Name())] {
			continue
		}
		if err := os.Remove(filepath.Join(folder, entry.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// untagAll forgets the signatures of all that is not kept, in one write.
func (c *content) untagAll(ctx context.Context, subjects map[string]map[digest.Digest]bool) error {
	end := oci.Batch(c.layout)
	for name, kept := range subjects {
		if err := c.untag(ctx, name, kept); err != nil {
			return errors.Join(err, end())
		}
	}
	return end()
}

// untag forgets the signatures of manifests that are not kept.
func (c *content) untag(ctx context.Context, name string, kept map[digest.Digest]bool) error {
	repo, err := c.layout.Repository(name)
	if err != nil {
		return err
	}
	tags, err := repo.Tags(ctx)
	if err != nil {
		return err
	}
	wanted := map[string]bool{v1alpha1.TagCurrent: true}
	for subject := range kept {
		for _, tag := range oci.AttachedTags(subject) {
			wanted[tag] = true
		}
	}
	for _, tag := range tags {
		if wanted[tag] {
			continue
		}
		desc, err := repo.Resolve(ctx, tag)
		if err == nil {
			err = repo.Delete(ctx, desc)
		}
		if err != nil && !errors.Is(err, oci.ErrNotFound) {
			return err
		}
	}
	return nil
}

// mark keeps a manifest, its signatures, and what both name.
func (c *content) mark(ctx context.Context, name string, subject digest.Digest, keep map[digest.Digest]bool) error {
	repo, err := c.layout.Repository(name)
	if err != nil {
		return err
	}
	desc, err := repo.Resolve(ctx, subject.String())
	if errors.Is(err, oci.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if index, err := repo.Resolve(ctx, oci.ReferrersTag(subject)); err == nil {
		keep[index.Digest] = true
	}
	attached, err := oci.ListAttached(ctx, repo, desc)
	if err != nil {
		return err
	}
	for _, one := range append(attached, oci.Attached{Descriptor: desc}) {
		desc := one.Descriptor
		manifest, _, err := oci.ReadManifest(ctx, repo, desc)
		if err != nil {
			return err
		}
		keep[desc.Digest] = true
		for _, blob := range append(manifest.Layers, manifest.Config) {
			keep[blob.Digest] = true
		}
	}
	return nil
}

// size returns how many bytes the content takes.
func (c *content) size() int64 {
	var total int64
	// What vanishes while we look takes no bytes.
	_ = filepath.WalkDir(c.dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // see above
		}
		if info, err := entry.Info(); err == nil && info.Mode().IsRegular() {
			total += info.Size()
		}
		return nil
	})
	return total
}

func subject(bundle *v1alpha1.TargetBundle) string {
	return fmt.Sprintf("bundle %q (%s@%s)", bundle.Name, bundle.Repository, bundle.Digest)
}

// bundleProblem is [problem] for what concerns one bundle.
func bundleProblem(stage Stage, bundle *v1alpha1.TargetBundle, err error) error {
	err = problem(stage, subject(bundle), err)
	var typed *Error
	if errors.As(err, &typed) && typed.Bundle == "" {
		typed.Bundle = bundle.Name
	}
	return err
}

// problem gives an error of the registry, the layout or an archive its reason; an [Error] stays as it is.
func problem(stage Stage, subject string, err error) error {
	if typed := (*Error)(nil); errors.As(err, &typed) {
		if typed.Subject == "" {
			typed.Subject = subject
		}
		return err
	}
	found := &Error{Stage: stage, Subject: subject, Err: err, Reason: ReasonNotVerified}
	for _, class := range []struct {
		err    error
		reason Reason
		mend   string
	}{
		{oci.ErrUnauthorized, ReasonUnauthorized, ""},
		{oci.ErrNotFound, ReasonNotFound, "publish it, or complete the mirror"},
		{oci.ErrDamaged, ReasonDigestMismatch, "publish it again, or repair the registry or mirror that serves it"},
		{oci.ErrTooLarge, ReasonTooLarge, "split the bundle"},
		{oci.ErrNotVerified, ReasonNotVerified, ""},
		{oci.ErrUnsafe, ReasonUnsafeAnswer, "find out who answers in the registry's place"},
		{archive.ErrUnsafePath, ReasonUnsafePath, "publish again with a builder that you trust"},
		{archive.ErrTooLarge, ReasonTooLarge, "split the bundle"},
		{archive.ErrDamaged, ReasonInvalidBundle, "publish it again"},
		{fs.ErrPermission, ReasonStateUnwritable, "make the state folder writable"},
		{syscall.ENOSPC, ReasonStateUnwritable, "free space on the state folder's disk"},
		{oci.ErrUnreachable, ReasonUnreachable, "check the network, and spec.registries in the agent's configuration"},
		{context.DeadlineExceeded, ReasonUnreachable, "check the network, and spec.registries in the agent's configuration"},
		{context.Canceled, ReasonUnreachable, ""},
	} {
		if errors.Is(err, class.err) {
			found.Reason, found.Mend = class.reason, class.mend
			return found
		}
	}
	if stage != StageVerify {
		found.Reason = ReasonUnreachable
	}
	return found
}
