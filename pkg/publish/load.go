package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/util/validation"

	"pinnace.dev/pinnace/api/document"
	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/bundler"
	"pinnace.dev/pinnace/pkg/bundler/resolution"
	"pinnace.dev/pinnace/pkg/bundler/source"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/target"
	"pinnace.dev/pinnace/pkg/window"
)

// FleetFile is the document at the root of a fleet repository.
const FleetFile = "pinnace.yaml"

// maxSourcesAtOnce bounds how many repositories are read at the same time.
const maxSourcesAtOnce = 8

// LoadOptions say which fleet is read.
type LoadOptions struct {
	// Fleet is a folder or a Git URL; Ref chooses the URL's revision.
	Fleet string
	Ref   v1alpha1.GitRef
	// CacheDir keeps checkouts.
	CacheDir string
	Auth     source.Auth
	// OCI reaches the registries of OCI sources, and the fleet's.
	OCI oci.Options
	// HelmConfig is Helm's repositories.yaml, with credentials of chart repositories; it may be absent.
	HelmConfig string
	// Reading receives a step for each source that was read, one at a time; may be nil.
	Reading func(Event)
	// Refresh looks again at what charts' versions, images' tags and remote bases mean.
	Refresh bool

	// previous reads the last publish, once the fleet is known; nil where there is none. Sources that fail are kept as
	// it has them.
	previous func(ctx context.Context, fleet *target.Fleet) (v1alpha1.FleetIndex, error)
	// failing are sources that could be read, but hold what cannot be built.
	failing map[string]error
	// verbatim are those of them whose last commit cannot be built any more.
	verbatim map[string]bool
}

// Loaded is a fleet as read and checked.
type Loaded struct {
	Fleet   *target.Fleet
	Sources []v1alpha1.IndexSource
	// Warnings are for people: what is otherwise than a file's author may expect, and what could not be looked up.
	Warnings []string

	found map[string]foundBundle // by bundle
	kept  retained
	// names remembers what charts' versions, images' tags and remote bases mean; unused before the last publish are.
	names *resolution.Memory
}

// Load reads a fleet repository, its sources and their bundles. All findings are returned at once, each with its file
// and line.
func Load(ctx context.Context, opts LoadOptions) (*Loaded, error) {
	from := source.Options{CacheDir: opts.CacheDir, Auth: opts.Auth}
	tree, err := source.Fleet(ctx, opts.Fleet, opts.Ref, from)
	if err != nil {
		return nil, err
	}
	from.Fleet = tree
	root, err := os.OpenRoot(tree.Dir)
	if err != nil {
		return nil, fmt.Errorf("fleet: %w", err)
	}
	defer func() { _ = root.Close() }()
	fleet, err := readFleet(root.FS(), opts.Fleet)
	if err != nil {
		return nil, err
	}
	loaded := &Loaded{found: map[string]foundBundle{}}
	if err := loaded.readSources(ctx, fleet, from, opts); err != nil {
		return nil, err
	}
	if loaded.Fleet, err = target.New(*fleet); err == nil {
		err = checkBundleRollouts(loaded.Fleet)
	}
	loaded.Warnings = append(loaded.Warnings, loaded.names.Warnings()...)
	return loaded, err
}

// readFleet decodes pinnace.yaml and the inventory. location speaks to people.
func readFleet(fsys fs.FS, location string) (*target.Fleet, error) {
	data, err := readFile(fsys, FleetFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("fleet %s: %s: %w; name a fleet repository, or make one with pinnace init", location, FleetFile, fs.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("fleet %s: %w", location, err)
	}
	spec, doc, err := document.Decode[v1alpha1.Fleet](FleetFile, data, v1alpha1.KindFleet)
	if err != nil {
		return nil, err
	}
	fleet := &target.Fleet{Name: spec.Metadata.Name, Spec: spec.Spec}
	errs := checkFleet(spec, doc)
	for i, folder := range spec.Spec.Inventory {
		place := fmt.Sprintf("spec.inventory[%d]", i)
		if !filepath.IsLocal(folder) {
			errs = append(errs, doc.Errorf(place, "%q leaves the repository", folder))
			continue
		}
		err := readInventory(fsys, path.Clean(filepath.ToSlash(folder)), fleet)
		if errors.Is(err, fs.ErrNotExist) {
			err = doc.Errorf(place, "there is no folder %q", folder)
		}
		errs = append(errs, err)
	}
	errs = append(errs, checkRollouts(fsys, fleet, doc)...)
	return fleet, errors.Join(errs...)
}

func checkFleet(fleet v1alpha1.Fleet, doc document.Document) []error {
	var errs []error
	if fleet.Metadata.Name == "" {
		errs = append(errs, doc.Errorf("metadata.name", "the fleet has no name; agents check it"))
	}
	if len(fleet.Spec.Inventory) == 0 {
		errs = append(errs, doc.Errorf("spec.inventory", "no folder with Cluster documents is named; add one, such as clusters/"))
	}
	if len(fleet.Spec.Sources) == 0 {
		errs = append(errs, doc.Errorf("spec.sources", "no source is named; add one with a name, and paths such as bundles/*"))
	}
	errs = append(errs, checkWindows(doc, "spec.defaults.windows", fleet.Spec.Defaults.Windows)...)
	seen := map[string]bool{}
	for i, source := range fleet.Spec.Sources {
		place := fmt.Sprintf("spec.sources[%d]", i)
		switch {
		case source.Name == "":
			errs = append(errs, doc.Errorf(place, "the source has no name"))
		case source.Git != nil && source.OCI != nil:
			errs = append(errs, doc.Errorf(place+".oci", "source %q has both git and oci; keep one", source.Name))
		case seen[source.Name]:
			errs = append(errs, doc.Errorf(place+".name", "duplicate source %q; rename one", source.Name))
		}
		seen[source.Name] = true
	}
	return errs
}

// readInventory adds the Cluster and ClusterGroup documents below a folder. Files are read at the same time: reading
// thousands of clusters takes longer than planning them.
func readInventory(fsys fs.FS, folder string, fleet *target.Fleet) error {
	var files []string
	err := fs.WalkDir(fsys, folder, func(name string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && slices.Contains([]string{".yaml", ".yml"}, path.Ext(name)) {
			files = append(files, name)
		}
		return err
	})
	if err != nil {
		return err
	}
	parts := make([]target.Fleet, len(files))
	errs := make([]error, len(files))
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, name := range files {
		group.Go(func() error {
			errs[i] = readInventoryFile(fsys, name, &parts[i])
			return nil
		})
	}
	_ = group.Wait()
	for _, part := range parts {
		fleet.Clusters, fleet.Groups = append(fleet.Clusters, part.Clusters...), append(fleet.Groups, part.Groups...)
	}
	return errors.Join(errs...)
}

func readInventoryFile(fsys fs.FS, name string, fleet *target.Fleet) error {
	data, err := readFile(fsys, name)
	if err != nil {
		return err
	}
	docs, err := document.Read(name, data)
	if err != nil {
		return err
	}
	var errs []error
	for _, doc := range docs {
		errs = append(errs, addToInventory(doc, fleet))
	}
	return errors.Join(errs...)
}

func addToInventory(doc document.Document, fleet *target.Fleet) error {
	if doc.APIVersion != v1alpha1.APIVersion {
		return doc.Errorf("apiVersion", "apiVersion %q in the inventory, want %s", doc.APIVersion, v1alpha1.APIVersion)
	}
	switch doc.Kind {
	case v1alpha1.KindCluster:
		cluster := target.Cluster{Document: doc}
		if err := doc.Decode(&cluster.Cluster); err != nil {
			return err
		}
		fleet.Clusters = append(fleet.Clusters, cluster)
		errs := checkWindows(doc, "spec.windows", cluster.Spec.Windows)
		return errors.Join(append(errs, checkName(doc, cluster.Metadata.Name))...)
	case v1alpha1.KindClusterGroup:
		group := target.Group{Document: doc}
		if err := doc.Decode(&group.ClusterGroup); err != nil {
			return err
		}
		fleet.Groups = append(fleet.Groups, group)
		return checkName(doc, group.Metadata.Name)
	}
	return doc.Errorf("kind", "kind %q in the inventory, want %s or %s", doc.Kind, v1alpha1.KindCluster, v1alpha1.KindClusterGroup)
}

// checkWindows finds windows that never open, or not when somebody meant them to.
func checkWindows(doc document.Document, place string, windows []v1alpha1.Window) []error {
	var errs []error
	for i, one := range windows {
		if err := window.Check(one); err != nil {
			errs = append(errs, doc.Errorf(fmt.Sprintf("%s[%d]", place, i), "%v", err))
		}
	}
	return errs
}

func checkName(doc document.Document, name string) error {
	if problems := validation.IsDNS1123Label(name); len(problems) > 0 {
		return doc.Errorf("metadata.name", "name %q: %s", name, problems[0])
	}
	return nil
}

func readFile(fsys fs.FS, name string) ([]byte, error) {
	file, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	return io.ReadAll(io.LimitReader(file, document.MaxBytes+1)) // document refuses what is larger
}

// readSource reads one source and the bundles in it.
func readSource(ctx context.Context, src v1alpha1.Source, from source.Options, opts LoadOptions, build bundler.Options) ([]foundBundle, v1alpha1.IndexSource, error) {
	if src.OCI != nil {
		found, index, err := readOCI(ctx, src, opts, from.Fleet.Dir, build)
		if err != nil {
			err = fmt.Errorf("source %q: %w", src.Name, err)
		}
		return found, index, err
	}
	tree, err := source.Checkout(ctx, src, from)
	if err != nil {
		return nil, v1alpha1.IndexSource{}, err
	}
	return discover(ctx, tree, src, v1alpha1.IndexSource{Name: src.Name, Repository: tree.Repository, Commit: tree.Commit}, build)
}

// readSources reads all sources and the bundles in them.
func (l *Loaded) readSources(ctx context.Context, fleet *target.Fleet, from source.Options, opts LoadOptions) error {
	sources := fleet.Spec.Sources
	found := make([][]foundBundle, len(sources))
	l.Sources = make([]v1alpha1.IndexSource, len(sources))
	errs := make([]error, len(sources))
	var before v1alpha1.FleetIndex
	var err error
	if opts.previous != nil {
		if before, err = opts.previous(ctx, fleet); err != nil {
			return err
		}
	}
	build, names, err := bundler.Reach(bundler.Remotes{
		Source: from, OCI: opts.OCI, HelmConfig: opts.HelmConfig, Images: fleet.Spec.Images,
		Known: before.Resolved, Refresh: opts.Refresh,
	})
	l.names = names
	if err != nil {
		return err
	}
	progress := stage(opts.Reading, "read", len(sources))
	var group errgroup.Group
	group.SetLimit(maxSourcesAtOnce)
	for i, src := range sources {
		group.Go(func() error {
			found[i], l.Sources[i], errs[i] = readSource(ctx, src, from, opts, build)
			progress(src.Name, "", 0)
			if failure := opts.failing[src.Name]; failure != nil {
				errs[i] = failure
			}
			if errs[i] != nil && ctx.Err() == nil && keepable(src, before) {
				found[i], l.Sources[i] = l.keepSource(ctx, src, from, opts, build, before, errs[i])
				errs[i] = nil
			}
			return nil
		})
	}
	_ = group.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	var all []bundler.Found
	for i, src := range sources {
		for _, item := range found[i] {
			all = append(all, item.Found)
			if item.Bundle.Spec.Paused {
				l.pause(item)
				continue
			}
			bundle := target.Bundle{
				Bundle: item.Bundle, Source: item.Source, Restrict: src.Restrict,
				Targets: item.Bundle.Spec.Targets, Exclude: src.Exclude, Document: item.Document,
			}
			if len(bundle.Targets) == 0 {
				bundle.Targets = src.Targets
			}
			fleet.Bundles = append(fleet.Bundles, bundle)
			l.found[item.Bundle.Metadata.Name] = item
		}
	}
	l.Warnings = append(l.Warnings, bundler.Warnings(all)...)
	fleet.Kept = l.kept.names(before)
	return nil
}
