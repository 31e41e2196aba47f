package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/adrg/xdg"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/labels"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
	"pinnace.dev/pinnace/pkg/publish"
	"pinnace.dev/pinnace/pkg/target/status"
)

// viewFlags say which fleet is looked at, as it stands in its registry.
type viewFlags struct {
	fleet    string
	prefix   string
	registry registryFlags
	parallel int
	noCache  bool
	unseen   time.Duration
}

func (f *viewFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.prefix, "registry", "", "the fleet's prefix: host[:port]/path; spec.registry of --fleet when empty")
	flags.StringVar(&f.fleet, "fleet", ".", "folder with the fleet's pinnace.yaml")
	flags.IntVar(&f.parallel, "parallel", 64, "requests to the registry at the same time")
	flags.BoolVar(&f.noCache, "no-cache", false, "read every report, also those that were read before")
	flags.DurationVar(&f.unseen, "unseen-after", status.DefaultUnseenAfter, "a cluster that was silent for so long is unseen")
	f.registry.register(cmd)
}

// fleetView is a fleet that can be looked at again and again.
type fleetView struct {
	registry oci.Registry
	verifier *signing.Verifier
	reader   status.Reader
	cache    *status.Cache
	unseen   time.Duration
}

func (f *viewFlags) open(s *session, verifier *signing.Verifier) (*fleetView, error) {
	prefix, err := fleetPrefix(f.prefix, f.fleet)
	if err != nil {
		return nil, err
	}
	registry, err := f.registry.open(s, prefix)
	if err != nil {
		return nil, err
	}
	v := &fleetView{registry: registry, verifier: verifier, unseen: f.unseen}
	if !f.noCache {
		sum := sha256.Sum256([]byte(prefix))
		v.cache = status.OpenCache(filepath.Join(xdg.CacheHome, "pinnace", "status", hex.EncodeToString(sum[:8])+".gob"))
	}
	v.reader = status.Reader{Registry: registry, Cache: v.cache, Parallel: f.parallel}
	return v, nil
}

// index reads the fleet index.
func (v *fleetView) index(ctx context.Context) (v1alpha1.FleetIndex, error) {
	index, _, err := publish.ReadIndex(ctx, v.registry, v.verifier)
	if errors.Is(err, oci.ErrNotFound) {
		return index, fmt.Errorf("%s holds no fleet: %w; publish one with: pinnace publish", v.registry, err)
	}
	return index, err
}

// reports reads those of the index's clusters.
func (v *fleetView) reports(ctx context.Context, index v1alpha1.FleetIndex, whole bool) ([]status.Report, error) {
	reader := v.reader
	if !whole {
		reader.Cache = nil // what is left out must not be forgotten
	}
	reports, err := reader.Read(ctx, index)
	if err == nil && v.cache != nil && whole {
		_ = v.cache.Save() // a cache that cannot be kept is read again
	}
	return reports, err
}

// look reads and judges the clusters that the filter chooses.
func (v *fleetView) look(ctx context.Context, filter status.Filter) (status.Summary, error) {
	index, err := v.index(ctx)
	if err != nil {
		return status.Summary{}, err
	}
	chosen := filter.Select(index)
	reports, err := v.reports(ctx, chosen, len(chosen.Clusters) == len(index.Clusters))
	if err != nil {
		return status.Summary{}, err
	}
	clusters := filter.Judged(status.JudgeAll(chosen, reports, status.Options{Now: time.Now(), UnseenAfter: v.unseen}))
	return status.Summarise(chosen, clusters), nil
}

// filterFlags choose clusters.
type filterFlags struct {
	cluster  string
	bundle   string
	selector string
	states   []string
}

func (f *filterFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.cluster, "cluster", "", "this cluster only")
	flags.StringVar(&f.bundle, "bundle", "", "clusters that have this bundle only")
	flags.StringVarP(&f.selector, "selector", "l", "", "clusters with these labels only, such as ring=canary,region!=eu")
}

func (f *filterFlags) filter() (status.Filter, error) {
	filter := status.Filter{Cluster: f.cluster, Bundle: f.bundle}
	if f.selector != "" {
		var err error
		if filter.Selector, err = labels.Parse(f.selector); err != nil {
			return filter, usagef("--selector: %v", err)
		}
	}
	for _, name := range f.states {
		verdict, known := verdictNamed(name)
		if !known {
			return filter, usagef("--state %q is not known; use some of %s", name, verdictNames())
		}
		filter.States = append(filter.States, verdict)
	}
	return filter, nil
}
