package mirror

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/mirror/transfer"
)

// Action is what happened to an entry: a closed set.
type Action string

const (
	Copied  Action = "copied"
	Mounted Action = "mounted" // every blob was at the receiver, in another repository
	Tagged  Action = "tagged"  // it was there, and got a tag
	Skipped Action = "skipped" // it was there
	Failed  Action = "failed"
)

// Artifact is what happened to an entry.
type Artifact struct {
	Kind       Kind          `json:"kind"`
	Repository string        `json:"repository"`
	Digest     digest.Digest `json:"digest"`
	Reference  string        `json:"reference,omitempty"`
	Action     Action        `json:"action"`
	Bytes      int64         `json:"bytes"` // sent for it; a blob that several need counts for the first
	Seconds    float64       `json:"seconds"`
	Signers    []string      `json:"signers,omitempty"`
	Why        []string      `json:"why,omitempty"`
	Error      string        `json:"error,omitempty"`
}

// Report is what a copy did.
type Report struct {
	Artifacts []Artifact `json:"artifacts"`
	// Moved are tags that point elsewhere now, and Held those that don't move because something that they need is not
	// there.
	Moved []string  `json:"moved,omitempty"`
	Held  []Problem `json:"held,omitempty"`
	// Bytes were sent; ResentBytes of them again, after the transfer was cut.
	Bytes       int64   `json:"bytes"`
	ResentBytes int64   `json:"resentBytes,omitempty"`
	Cuts        int     `json:"cuts,omitempty"`
	Mounted     int     `json:"mountedBlobs"`
	Sent        int     `json:"sentBlobs"`
	Seconds     float64 `json:"seconds"`
	// Err is the first failure; the others are with their artifacts.
	Err error `json:"-"`
	// Failures are all, by what failed.
	Failures []Failure `json:"-"`
}

// Failure is why a manifest or blob did not arrive.
type Failure struct {
	Digest digest.Digest
	Err    error
}

// Count returns how many artifacts there are of an action.
func (r *Report) Count(action Action) int {
	n := 0
	for _, artifact := range r.Artifacts {
		if artifact.Action == action {
			n++
		}
	}
	return n
}

// Complete says that everything arrived and every tag moved.
func (r *Report) Complete() bool { return r.Count(Failed) == 0 && len(r.Held) == 0 }

// Progress is how far a copy is.
type Progress struct {
	Stage           string // blobs, manifests, tags
	Done, All       int
	Subject         string
	DoneBytes, Want int64
	// Blob is the one that is done, in the stage of blobs.
	Blob digest.Digest
}

// Copier carries a plan out.
type Copier struct {
	// Open returns the repository that an entry is read from.
	Open    func(entry *Entry) (oci.Repository, error)
	To      oci.Registry
	Engine  *transfer.Engine
	Journal *transfer.Journal
	// Jobs bounds requests at the same time; 24 when zero.
	Jobs int
	// Progress is called one at a time; may be nil.
	Progress func(Progress)
}

type copying struct {
	Copier
	plan *Plan

	mu       sync.Mutex
	receiver map[string]oci.Repository
	failed   map[string]error // by entry's key, or repository@digest of a blob
	bytes    map[string]int64 // by entry's key
	seconds  map[string]float64
	mounted  map[string]bool // an entry of which a blob was mounted
	report   Report
	progress Progress
}

// Run carries out the plan: every blob, then every manifest after those that it names, then the tags that readers poll.
// What fails is reported and doesn't stop the rest; a tag moves only when everything that it needs has arrived. The
// error is for what stops all: the context's end.
func (c Copier) Run(ctx context.Context, plan *Plan) (*Report, error) {
	started := time.Now()
	run := &copying{
		Copier: c, plan: plan, receiver: map[string]oci.Repository{}, failed: map[string]error{}, bytes: map[string]int64{},
		seconds: map[string]float64{}, mounted: map[string]bool{},
	}
	run.Jobs = cmp.Or(c.Jobs, defaultJobs)
	run.progress.Want, _ = plan.Send()
	run.blobs(ctx)
	for _, level := range plan.levels() {
		run.manifests(ctx, level)
	}
	run.moves(ctx)
	run.finish()
	run.report.Seconds = time.Since(started).Seconds()
	return &run.report, ctx.Err()
}

func (c *copying) each(n int, do func(i int)) {
	var group errgroup.Group
	group.SetLimit(max(c.Jobs, 1))
	for i := range n {
		group.Go(func() error {
			do(i)
			return nil
		})
	}
	_ = group.Wait() // failures are kept with what failed
}

func (c *copying) stage(name string, all int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.progress.Stage, c.progress.Done, c.progress.All = name, 0, all
}

// step tells that one more is done.
func (c *copying) step(subject string, bytes int64, blob digest.Digest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.progress.Done++
	c.progress.DoneBytes += bytes
	c.progress.Subject, c.progress.Blob = subject, blob
	if c.Progress != nil {
		c.Progress(c.progress)
	}
}

func (c *copying) fail(key string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failed[key] = err
	if c.report.Err == nil {
		c.report.Err = err
	}
}

func (c *copying) failure(key string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failed[key]
}

// repository keeps one handle for each repository: it merges what several write into one list of referrers.
func (c *copying) repository(name string) (oci.Repository, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if repo := c.receiver[name]; repo != nil {
		return repo, nil
	}
	repo, err := c.To.Repository(name)
	if err == nil {
		c.receiver[name] = repo
	}
	return repo, err
}

func (c *copying) blobs(ctx context.Context) {
	c.stage("blobs", len(c.plan.Blobs))
	c.each(len(c.plan.Blobs), func(i int) {
		step := c.plan.Blobs[i]
		from := slices.Clone(step.From)
		var sent int64
		for _, to := range step.To {
			n, err := c.blob(ctx, step, from, to)
			if err != nil {
				c.fail(entryKey(to, step.Digest), err)
				continue
			}
			sent += n
			if !slices.Contains(from, to) {
				from = append(from, to)
			}
		}
		if len(step.From) == 0 {
			c.step(step.source.Repository, step.Size, step.Digest)
		} else {
			c.step(step.source.Repository, sent, step.Digest)
		}
	})
}

// blob brings a blob into one repository.
func (c *copying) blob(ctx context.Context, step BlobStep, from []string, to string) (int64, error) {
	repo, err := c.repository(to)
	if err != nil {
		return 0, err
	}
	if c.Journal.Done(repo.String(), step.Digest) {
		return 0, nil
	}
	source, err := c.Open(step.source)
	if err != nil {
		return 0, err
	}
	started := time.Now()
	desc := ocispec.Descriptor{MediaType: mediaTypeBlob, Digest: step.Digest, Size: step.Size}
	result, err := c.Engine.Blob(ctx, source, repo, desc, c.full(from)...)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.report.Bytes += result.Sent
	c.report.ResentBytes += result.Resent
	c.report.Cuts += result.Cuts
	if err != nil {
		return result.Sent, err
	}
	key := step.source.Key()
	c.seconds[key] += time.Since(started).Seconds()
	c.bytes[key] += result.Sent
	if result.Action == transfer.Mounted {
		c.report.Mounted++
		c.mounted[key] = true
	} else {
		c.report.Sent++
	}
	c.Journal.SetDone(repo.String(), step.Digest)
	return result.Sent, nil
}

// full returns names of repositories relative to the receiver's host, most promising first.
func (c *copying) full(names []string) []string {
	const tried = 2 // a mount that fails costs a request
	var out []string
	for _, name := range names[:min(len(names), tried)] {
		repo, err := c.repository(name)
		if err != nil {
			continue
		}
		if endpoint, ok := oci.EndpointOf(repo); ok {
			out = append(out, endpoint.Name())
		}
	}
	return out
}

func (c *copying) manifests(ctx context.Context, steps []Step) {
	c.stage("manifests", len(steps))
	c.each(len(steps), func(i int) {
		started := time.Now()
		key := steps[i].Entry.Key()
		if err := c.manifest(ctx, steps[i]); err != nil {
			c.fail(key, err)
		}
		c.mu.Lock()
		c.seconds[key] += time.Since(started).Seconds()
		c.mu.Unlock()
		c.step(steps[i].Entry.Repository, steps[i].Entry.Size, "")
	})
}

func (c *copying) manifest(ctx context.Context, step Step) error {
	entry := step.Entry
	for _, blob := range entry.Blobs {
		if err := c.failure(entryKey(entry.Repository, blob.Digest)); err != nil {
			return err
		}
	}
	for _, child := range entry.Children {
		if err := c.failure(entryKey(entry.Repository, child)); err != nil {
			return fmt.Errorf("%s names %s, which failed: %w", entry.Repository, child, err)
		}
	}
	to, err := c.repository(entry.Repository)
	if err != nil {
		return err
	}
	from, err := c.Open(entry)
	if err != nil {
		return err
	}
	data, err := oci.ReadAll(ctx, from, entry.Descriptor(), oci.MaxManifest)
	if err != nil {
		return err
	}
	push := func() error { return to.Push(ctx, entry.Descriptor(), data, step.Tags...) }
	if entry.Subject != "" && len(step.Tags) == 0 {
		push = func() error { return oci.PushAttached(ctx, to, entry.Descriptor(), data) }
	}
	if err := push(); err != nil {
		for _, blob := range entry.Blobs {
			c.Journal.Forget(to.String(), blob.Digest) // what the journal says may be what the registry misses
		}
		return explainPush(entry, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.report.Bytes += entry.Size
	c.bytes[entry.Key()] += entry.Size
	return nil
}

// explainPush says what mends the refusal of an index of which not every platform is mirrored.
func explainPush(entry *Entry, err error) error {
	if oci.IsIndex(entry.MediaType) && strings.Contains(err.Error(), "MANIFEST_BLOB_UNKNOWN") {
		return fmt.Errorf("%w; this registry takes an index only with all its platforms: mirror without --platform", err)
	}
	return err
}

// moves points the tags that readers poll at what has arrived, group by group, in order.
func (c *copying) moves(ctx context.Context) {
	c.stage("tags", len(c.plan.Moves))
	for start := 0; start < len(c.plan.Moves); {
		end := start
		for end < len(c.plan.Moves) && c.plan.Moves[end].Entry.Kind == c.plan.Moves[start].Entry.Kind {
			end++
		}
		group := c.plan.Moves[start:end]
		arrived := c.arrived()
		c.each(len(group), func(i int) { c.move(ctx, group[i], arrived) })
		start = end
	}
}

func (c *copying) move(ctx context.Context, move Move, arrived func(key string) error) {
	name := move.Entry.Repository + ":" + move.Tag
	defer c.step(name, 0, "")
	err := arrived(move.Entry.Key())
	if err == nil {
		var repo oci.Repository
		if repo, err = c.repository(move.Entry.Repository); err == nil {
			err = repo.Tag(ctx, move.Entry.Descriptor(), move.Tag)
		}
		if err != nil {
			c.fail(move.Entry.Key(), err)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.report.Held = append(c.report.Held, Problem{Subject: name, Message: err.Error()})
		return
	}
	c.report.Moved = append(c.report.Moved, name)
}

// errAbsent says that something is needed which isn't mirrored.
var errAbsent = errors.New("is not mirrored")

// arrived returns a function that says whether an entry and all that it needs are there.
func (c *copying) arrived() func(key string) error {
	entries := map[string]*Entry{}
	for _, entry := range c.plan.Closure.Entries {
		entries[entry.Key()] = entry
	}
	var mu sync.Mutex
	known := map[string]error{}
	var check func(key string) error
	check = func(key string) error {
		if err, ok := known[key]; ok {
			return err
		}
		known[key] = nil // what needs itself doesn't wait for itself
		entry := entries[key]
		if entry == nil {
			known[key] = fmt.Errorf("%s %w", key, errAbsent)
			return known[key]
		}
		err := c.failure(key)
		for _, need := range entry.Needs {
			if err == nil {
				err = check(need)
			}
		}
		known[key] = err
		return err
	}
	return func(key string) error {
		mu.Lock()
		defer mu.Unlock()
		return check(key)
	}
}

// finish makes the report.
func (c *copying) finish() {
	steps := map[string]Step{}
	for _, step := range c.plan.Steps {
		steps[step.Entry.Key()] = step
	}
	for _, entry := range c.plan.Closure.Entries {
		key := entry.Key()
		artifact := Artifact{
			Kind: entry.Kind, Repository: entry.Repository, Digest: entry.Digest, Reference: entry.Reference, Action: Skipped,
			Bytes: c.bytes[key], Seconds: c.seconds[key], Signers: entry.Signers, Why: entry.Why,
		}
		step, planned := steps[key]
		switch err := c.failed[key]; {
		case err != nil:
			artifact.Action, artifact.Error = Failed, err.Error()
		case planned && !step.Manifest:
			artifact.Action = Tagged
		case planned && c.mounted[key] && c.bytes[key] == entry.Size:
			artifact.Action = Mounted
		case planned:
			artifact.Action = Copied
		}
		c.report.Artifacts = append(c.report.Artifacts, artifact)
	}
	slices.Sort(c.report.Moved)
	for key, err := range c.failed {
		_, d, _ := strings.Cut(key, "@")
		c.report.Failures = append(c.report.Failures, Failure{Digest: digest.Digest(d), Err: err})
	}
}

// Opener returns what opens the repositories that a closure was found in: the fleet's registry, and those of images.
func Opener(fleet oci.Registry, host func(host string) (oci.Registry, error)) func(entry *Entry) (oci.Repository, error) {
	var mu sync.Mutex
	repositories := map[string]oci.Repository{}
	registries := map[string]oci.Registry{}
	return func(entry *Entry) (oci.Repository, error) {
		mu.Lock()
		defer mu.Unlock()
		key := cmp.Or(entry.Origin, "/"+entry.Repository)
		if repo := repositories[key]; repo != nil {
			return repo, nil
		}
		registry, name := fleet, entry.Repository
		if entry.Origin != "" {
			var first string
			first, name, _ = strings.Cut(entry.Origin, "/")
			if registries[first] == nil {
				opened, err := host(first)
				if err != nil {
					return nil, err
				}
				registries[first] = opened
			}
			registry = registries[first]
		}
		repo, err := registry.Repository(name)
		if err == nil {
			repositories[key] = repo
		}
		return repo, err
	}
}
