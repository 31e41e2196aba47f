package bundler

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"strings"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/bundler/render"
	"pinnace.dev/pinnace/pkg/bundler/resolution"
	"pinnace.dev/pinnace/pkg/bundler/source"
)

// Bases reaches remote bases of kustomizations: Git repositories. It may be used concurrently.
type Bases struct {
	Source source.Options
	// Memory keeps which commits references meant; required.
	Memory *resolution.Memory
}

// base is a remote base at a commit.
type base struct {
	url    string // as the kustomization names it
	git    string
	path   string
	commit string
}

var commitHash = regexp.MustCompile(`^[0-9a-f]{40}$`)

// parseBase reads a URL as Kustomize writes them: repository//path?ref=revision; of GitHub the repository is known by
// its first two segments.
//
// See https://github.com/kubernetes-sigs/kustomize/blob/master/examples/remoteBuild.md
func parseBase(text string) (out base, ref string, err error) {
	out.url = text
	location, query, _ := strings.Cut(strings.TrimPrefix(text, "git::"), "?")
	parameters, err := url.ParseQuery(query)
	if err != nil {
		return out, "", fmt.Errorf("%q: %w", text, err)
	}
	for _, name := range []string{"ref", "version"} {
		if ref == "" {
			ref = parameters.Get(name)
		}
	}
	if ref == "" {
		return out, "", fmt.Errorf("%q names no revision; add ?ref= with a tag or a commit", text)
	}
	if strings.HasPrefix(location, "github.com/") {
		location = "https://" + location
	}
	scheme, rest, _ := strings.Cut(location, "://")
	if rest == "" {
		scheme, rest = "", location
	} else {
		scheme += "://"
	}
	repository, below, found := strings.Cut(rest, "//")
	if !found {
		if before, after, isGit := strings.Cut(rest, ".git/"); isGit {
			repository, below = before+".git", after
		} else if segments := strings.SplitN(rest, "/", 4); segments[0] == "github.com" && len(segments) == 4 {
			repository, below = strings.Join(segments[:3], "/"), segments[3]
		}
	}
	out.git, out.path = scheme+repository, path.Clean("./"+below)
	if !source.IsURL(out.git) {
		return out, "", fmt.Errorf("%q is no Git repository; write https://host/repository//path?ref=revision", text)
	}
	if out.path == ".." || strings.HasPrefix(out.path, "../") {
		return out, "", fmt.Errorf("%q leads out of its repository", text)
	}
	return out, ref, nil
}

// allows reports whether a pattern with * permits the repository.
func allows(patterns []string, repository string) bool {
	repository = strings.TrimSuffix(repository, ".git")
	for _, pattern := range patterns {
		quoted := strings.ReplaceAll(regexp.QuoteMeta(strings.TrimSuffix(pattern, ".git")), `\*`, `.*`)
		if matched, err := regexp.MatchString("^"+quoted+"$", repository); err == nil && matched && !strings.Contains(repository, "..") {
			return true
		}
	}
	return false
}

// resolveBases returns the commits of the remote bases among a kustomization's files that the source allows. The others
// are refused when they are used.
func (f Found) resolveBases(ctx context.Context, files map[string][]byte) ([]base, error) {
	if len(f.allowed) == 0 || f.options.Bases == nil {
		return nil, nil
	}
	var out []base
	for _, text := range render.RemoteBases(files) {
		parsed, ref, err := parseBase(text)
		if err != nil {
			return nil, fmt.Errorf("remote base %w", err)
		}
		if !allows(f.allowed, parsed.git) {
			continue
		}
		name := resolution.Name{Kind: v1alpha1.ResolvedBase, Reference: text, Fixed: commitHash.MatchString(ref)}
		found, err := f.options.Bases.Memory.Resolve(ctx, name, func(ctx context.Context) (v1alpha1.Resolution, error) {
			tree, err := f.options.Bases.look(ctx, parsed.git, ref)
			return v1alpha1.Resolution{Digest: tree.Commit, Version: ref}, err
		})
		if err != nil {
			return nil, fmt.Errorf("remote base %q: %w", text, err)
		}
		parsed.commit = found.Digest
		out = append(out, parsed)
	}
	return out, nil
}

// look checks a revision out: a commit, a tag or a branch.
func (b *Bases) look(ctx context.Context, repository, ref string) (source.Tree, error) {
	refs := []v1alpha1.GitRef{{Tag: ref}, {Branch: ref}}
	if commitHash.MatchString(ref) {
		refs = []v1alpha1.GitRef{{Commit: ref}}
	}
	var tree source.Tree
	var err error
	for _, candidate := range refs {
		tree, err = source.Checkout(ctx, v1alpha1.Source{Name: "remote base", Git: &v1alpha1.GitSource{URL: repository, Ref: candidate}}, b.Source)
		if !errors.Is(err, source.ErrNotFound) {
			break
		}
	}
	return tree, err
}

// remoteBases renders the remote bases of a kustomization.
func (f Found) remoteBases(ctx context.Context, folder render.Folder) (map[string]render.Objects, error) {
	if len(f.allowed) == 0 || f.options.Bases == nil {
		return nil, nil
	}
	files, err := render.KustomizeInputs(folder)
	if err != nil {
		return nil, err
	}
	bases, err := f.resolveBases(ctx, files)
	if err != nil {
		return nil, err
	}
	out := map[string]render.Objects{}
	for _, wanted := range bases {
		tree, err := f.options.Bases.look(ctx, wanted.git, wanted.commit)
		if err != nil {
			return nil, fmt.Errorf("remote base %q: %w", wanted.url, err)
		}
		// A base's own remote bases are refused: nobody here allowed them.
		if out[wanted.url], err = render.Kustomize(render.Folder{Root: tree.Dir, Path: wanted.path}, render.KustomizeOptions{}); err != nil {
			return nil, fmt.Errorf("remote base %q: %w", wanted.url, err)
		}
	}
	return out, nil
}
