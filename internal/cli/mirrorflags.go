package cli

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/adrg/xdg"
	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/mirror"
	"pinnace.dev/pinnace/pkg/oci/mirror/transfer"
	"pinnace.dev/pinnace/pkg/oci/signing"
	"pinnace.dev/pinnace/pkg/publish"
)

// mirrorSelection says what is mirrored.
type mirrorSelection struct {
	clusters, groups, platforms []string
	selector, fleet             string
	withoutImages               bool
}

func (f *mirrorSelection) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringSliceVar(&f.clusters, "cluster", nil, "cluster to mirror for; may be repeated; all when neither clusters, groups nor a selector are named")
	flags.StringSliceVar(&f.groups, "group", nil, "cluster group to mirror for, as --fleet declares it; may be repeated")
	flags.StringVarP(&f.selector, "selector", "l", "", "labels of the clusters to mirror for, such as region=eu,tier!=test")
	flags.StringVar(&f.fleet, "fleet", ".", "fleet repository that declares the groups")
	flags.StringSliceVar(&f.platforms, "platform", nil, "platform of images to mirror, such as linux/arm64; may be repeated; all when empty")
	flags.BoolVar(&f.withoutImages, "without-images", false, "leave container images out")
}

func (f *mirrorSelection) selection() (mirror.Selection, error) {
	selection := mirror.Selection{Clusters: f.clusters, Platforms: f.platforms, WithoutImages: f.withoutImages}
	if err := mirror.CheckPlatforms(f.platforms); err != nil {
		return selection, usagef("--platform: %w", err)
	}
	if f.selector != "" {
		selector, err := labels.Parse(f.selector)
		if err != nil {
			return selection, usagef("--selector: %w", err)
		}
		selection.Selectors = append(selection.Selectors, selector)
	}
	if len(f.groups) == 0 {
		return selection, nil
	}
	groups, err := publish.LoadGroups(f.fleet)
	if err != nil {
		return selection, err
	}
	for _, name := range f.groups {
		i := slices.IndexFunc(groups, func(g v1alpha1.ClusterGroup) bool { return g.Metadata.Name == name })
		if i < 0 {
			return selection, usagef("--group %s: the fleet %s declares no such group", name, f.fleet)
		}
		selector, err := metav1.LabelSelectorAsSelector(&groups[i].Spec.Selector)
		if err != nil {
			return selection, usagef("--group %s: %w", name, err)
		}
		selection.Selectors = append(selection.Selectors, selector)
	}
	return selection, nil
}

// key identifies the selection.
func (f *mirrorSelection) key() string {
	return fmt.Sprint(f.clusters, f.groups, f.selector, f.platforms, f.withoutImages)
}

// mirrorTransfer says how bytes are moved.
type mirrorTransfer struct {
	jobs   int
	rate   string
	chunk  string
	window string
}

// minChunk keeps chunks from costing more requests than bytes.
const minChunk = 64 << 10

func (f *mirrorTransfer) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.IntVar(&f.jobs, "jobs", transfer.DefaultJobs, "transfers at the same time, at most; fewer run where more don't help")
	flags.StringVar(&f.rate, "limit-rate", "", "bytes per second of all transfers together, such as 2MiB/s; unlimited when empty")
	flags.StringVar(&f.chunk, "chunk-size", "16MiB", "bytes in one piece: what a cut, or a kill, costs each transfer at most; smaller over thin links")
	flags.StringVar(&f.window, "window", "", "time of the day in which transfers may run, such as 22:00-06:00; always when empty")
}

func (f *mirrorTransfer) options() (transfer.Options, error) {
	opts := transfer.Options{Jobs: f.jobs}
	if f.jobs < 1 {
		return opts, usagef("--jobs %d: at least one is needed", f.jobs)
	}
	var err error
	if f.rate != "" {
		if opts.Rate, err = parseBytes(strings.TrimSuffix(f.rate, "/s")); err != nil || opts.Rate <= 0 {
			return opts, usagef("--limit-rate %q: write bytes per second, such as 2MiB/s", f.rate)
		}
	}
	chunk, err := parseBytes(f.chunk)
	if err != nil || chunk < minChunk || chunk > math.MaxInt32 {
		return opts, usagef("--chunk-size %q: write a size from 64KiB to 2GB, such as 1MiB", f.chunk)
	}
	opts.Chunk = int(chunk)
	if opts.Window, err = transfer.ParseWindow(f.window); err != nil {
		return opts, usagef("--window: %w", err)
	}
	return opts, nil
}

var byteUnits = []struct {
	suffix string
	size   float64
}{
	{"KiB", 1 << 10},
	{"MiB", 1 << 20},
	{"GiB", 1 << 30},
	{"TiB", 1 << 40},
	{"kB", 1e3},
	{"KB", 1e3},
	{"MB", 1e6},
	{"GB", 1e9},
	{"TB", 1e12},
	{"B", 1},
}

// parseBytes reads 4.7GB, 650MiB or 1000.
func parseBytes(text string) (int64, error) {
	number, size := strings.TrimSpace(text), 1.0
	for _, unit := range byteUnits {
		if rest, ok := strings.CutSuffix(number, unit.suffix); ok {
			number, size = strings.TrimSpace(rest), unit.size
			break
		}
	}
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || n < 0 || n*size > 1<<60 {
		return 0, fmt.Errorf("%q is no number of bytes; write it as 4.7GB, 650MiB or 1000", text)
	}
	return int64(n * size), nil
}

// showBytes is a number of bytes for people.
func showBytes(n int64) string {
	const step = 1024
	if n < step {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n), 0
	for value >= step && unit < 4 {
		value /= step
		unit++
	}
	return fmt.Sprintf("%.1f %s", value, []string{"B", "KiB", "MiB", "GiB", "TiB"}[unit])
}

// mirrorSender reaches the fleet's registry and those of its images.
type mirrorSender struct {
	registry   registryFlags
	plainHosts []string
}

func (f *mirrorSender) register(cmd *cobra.Command) {
	f.registry.register(cmd)
	cmd.Flags().StringSliceVar(&f.plainHosts, "image-plain-http", nil, "registry of images, host[:port], to reach by http; may be repeated")
}

// from opens the sender.
func (f *mirrorSender) from(s *session, prefix string, verifier mirror.Verifier) (mirror.From, error) {
	registry, err := f.registry.open(s, prefix)
	if err != nil {
		return mirror.From{}, err
	}
	return mirror.From{Registry: registry, Verifier: verifier, Host: func(host string) (oci.Registry, error) {
		opts := f.registry.options(s)
		opts.PlainHTTP = slices.Contains(f.plainHosts, host)
		return oci.OpenHost(host, opts)
	}}, nil
}

// mirrorSource is where a closure is found, for which clusters, and whose signatures count.
type mirrorSource struct {
	trust     mirrorTrust
	selection mirrorSelection
	sender    mirrorSender
}

func (f *mirrorSource) register(cmd *cobra.Command) {
	f.trust.register(cmd)
	f.selection.register(cmd)
	f.sender.register(cmd)
}

// open reads what the flags name; it does not touch the registry. The signer counts where no other trust is named.
func (f *mirrorSource) open(ctx context.Context, s *session, prefix string, signer *signing.Signer) (mirror.From, mirror.Selection, error) {
	selection, err := f.selection.selection()
	if err != nil {
		return mirror.From{}, selection, err
	}
	verifier, err := f.trust.verifier(ctx, s, signer)
	if err != nil {
		return mirror.From{}, selection, err
	}
	from, err := f.sender.from(s, prefix, verifier)
	return from, selection, err
}

// find computes the closure.
func (f *mirrorSource) find(ctx context.Context, s *session, prefix string, signer *signing.Signer) (mirror.From, *mirror.Closure, error) {
	from, selection, err := f.open(ctx, s, prefix, signer)
	if err != nil {
		return from, nil, err
	}
	closure, err := mirror.Find(ctx, from, selection)
	return from, closure, err
}

// mirrorReceiver reaches the registry that is written to, where a sender is reached too.
type mirrorReceiver struct {
	plainHTTP bool
	caFile    string
}

func (f *mirrorReceiver) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.BoolVar(&f.plainHTTP, "to-plain-http", false, "reach the receiving registry by http, without TLS")
	flags.StringVar(&f.caFile, "to-ca-file", "", "PEM file with certificate authorities of the receiving registry")
}

func (f *mirrorReceiver) open(s *session, prefix string, sender registryFlags) (oci.Registry, error) {
	sender.plainHTTP = f.plainHTTP
	if f.caFile != "" {
		sender.caFile = f.caFile
	}
	return sender.open(s, prefix)
}

// mirrorState is a folder for what mirroring remembers of one pair of places.
func mirrorState(parts ...string) (string, error) {
	name := digest.FromString(strings.Join(parts, "\x00")).Encoded()[:16]
	dir := filepath.Join(xdg.StateHome, "pinnace", "mirror", name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("folder for the state of mirroring: %w", err)
	}
	return dir, nil
}

// opened opens a journal for the time of a command.
func openedJournal(dir string) (*transfer.Journal, func(complete bool), error) {
	path := filepath.Join(dir, "journal")
	journal, err := transfer.OpenJournal(path)
	if err != nil {
		return nil, nil, err
	}
	return journal, func(complete bool) {
		_ = journal.Close() // it only saves work
		if complete {
			_ = os.Remove(path)
		}
	}, nil
}

// clock is the time at which documents are issued.
func clock() time.Time { return time.Now() }
