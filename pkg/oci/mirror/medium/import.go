package medium

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/mirror"
	"pinnace.dev/pinnace/pkg/oci/mirror/transfer"
)

// ImportOptions say where an export goes.
type ImportOptions struct {
	Medium *Medium
	To     oci.Registry
	// Verifier is the receiver's policy.
	Verifier mirror.Verifier
	// Free is how many bytes the receiver can take; unknown when negative.
	Free int64
	// Partial takes the volumes that are there, and shows nothing to readers until the last has come.
	Partial bool
	// Sign signs the receipt; it is not signed when nil.
	Sign Sign
	Now  time.Time

	Engine   *transfer.Engine
	Journal  *transfer.Journal
	Jobs     int
	Progress func(mirror.Progress)
}

// Result is what an import did.
type Result struct {
	*mirror.Report
	Stream   string        `json:"stream"`
	Sequence int64         `json:"sequence"`
	Index    digest.Digest `json:"index"`
	// Damaged are volumes that have to be made again, Waiting those that a partial import still needs.
	Damaged []string `json:"damagedVolumes,omitempty"`
	Waiting []string `json:"waitingVolumes,omitempty"`
	// Receipt is what the receiver has now: the next export's have.
	Receipt []byte `json:"-"`
}

// PreflightError is why an import was refused before a byte was written.
type PreflightError struct {
	// Older says that a newer export of the stream was imported; Expired that it is too old to be.
	Older   *mirror.Imported
	Expired bool
	Stream  string
	// Volumes are missing or have the wrong size, Damaged hold signatures, or what is signed, with other bytes than the
	// index says; Blobs should be at the receiver and aren't.
	Volumes []string
	Damaged []string
	Blobs   []Held
	Refused []mirror.Problem
	// Need and Free are bytes, when there is too little space.
	Need, Free int64
}

// maxListed bounds what a message lists; the error has all.
const maxListed = 20

func (e *PreflightError) Error() string {
	var why, lines []string
	if e.Older != nil {
		why = append(why, fmt.Sprintf("%s: sequence %d of it was imported already; import the newest export", e.Stream, e.Older.Sequence))
	}
	if e.Expired {
		why = append(why, "the export has expired; make a new one")
	}
	if len(e.Volumes) > 0 {
		why = append(why, "missing or cut off: "+strings.Join(e.Volumes, ", ")+"; bring them, or make them again with: pinnace mirror export --repair")
	}
	if len(e.Damaged) > 0 {
		why = append(why, "damaged: "+strings.Join(e.Damaged, ", ")+"; make them again with: pinnace mirror export --repair")
	}
	if n := len(e.Blobs); n > 0 {
		why = append(why, fmt.Sprintf("the receiver lacks %d blobs of the base: import what was exported before, or export with --have of this receiver", n))
		for _, blob := range e.Blobs[:min(n, maxListed)] {
			lines = append(lines, fmt.Sprintf("%s in %s", blob.Digest, strings.Join(blob.In, ", ")))
		}
		if n > maxListed {
			lines = append(lines, fmt.Sprintf("and %d more", n-maxListed))
		}
	}
	if n := len(e.Refused); n > 0 {
		why = append(why, fmt.Sprintf("%d artifacts are refused by the policy", n))
		for _, refused := range e.Refused[:min(n, maxListed)] {
			lines = append(lines, refused.Message)
		}
		if n > maxListed {
			lines = append(lines, fmt.Sprintf("and %d more", n-maxListed))
		}
	}
	if e.Need > 0 {
		why = append(why, fmt.Sprintf("%d bytes are needed and %d are free; free space", e.Need, e.Free))
	}
	text := "nothing was imported: " + strings.Join(why, "; ")
	if len(lines) > 0 {
		text += "; that is: " + strings.Join(lines, "; ")
	}
	return text
}

// Unwrap classifies the error by the gravest reason.
func (e *PreflightError) Unwrap() error {
	switch {
	case len(e.Refused) > 0, e.Older != nil, e.Expired:
		return oci.ErrNotVerified
	case len(e.Damaged) > 0:
		return oci.ErrDamaged
	case len(e.Volumes)+len(e.Blobs) > 0:
		return oci.ErrNotFound
	}
	return nil
}

func (e *PreflightError) empty() bool {
	return e.Older == nil && !e.Expired && len(e.Volumes)+len(e.Damaged)+len(e.Blobs)+len(e.Refused) == 0 && e.Need == 0
}

// Import brings an export to a receiver. First everything is checked: age, sequence, volumes, base, signatures, space;
// what is wrong comes back as a [*PreflightError], and nothing is written. Then blobs are hashed on their way, and the
// tags that agents poll move last. A receipt is left at the receiver. Importing again does nothing.
func Import(ctx context.Context, opts ImportOptions) (*Result, error) {
	i := &importing{ImportOptions: opts, index: opts.Medium.index}
	opts.Medium.Behind(opts.To)
	plan, err := i.prepare(ctx)
	if err != nil {
		return nil, err
	}
	if opts.Partial && len(i.missing) > 0 {
		plan = i.partial(plan)
	}
	copier := mirror.Copier{
		Open: func(entry *mirror.Entry) (oci.Repository, error) { return opts.Medium.Repository(entry.Repository) },
		To:   opts.To, Engine: opts.Engine, Journal: opts.Journal, Jobs: opts.Jobs, Progress: i.perVolume(plan),
	}
	report, err := copier.Run(ctx, plan)
	result := &Result{Report: report, Stream: i.index.Stream, Sequence: i.index.Sequence, Index: opts.Medium.digest, Waiting: i.missing}
	result.Damaged = opts.Medium.damaged(report.Failures)
	if err != nil {
		return result, err
	}
	if !report.Complete() || len(i.missing) > 0 {
		return result, nil
	}
	result.Receipt, err = i.receipt(ctx)
	return result, err
}

// perVolume tells of blobs by the volume that they are read from.
func (i *importing) perVolume(plan *mirror.Plan) func(mirror.Progress) {
	if i.Progress == nil {
		return nil
	}
	done, all := map[string]int{}, map[string]int{}
	for _, step := range plan.Blobs {
		all[i.Medium.places[step.Digest].volume]++
	}
	return func(now mirror.Progress) {
		if at, ok := i.Medium.places[now.Blob]; ok {
			done[at.volume]++
			now.Stage, now.Done, now.All = at.volume, done[at.volume], all[at.volume]
		}
		i.Progress(now)
	}
}

type importing struct {
	ImportOptions
	index   *Index
	before  mirror.Have
	missing []string // volumes that are needed
}

// Preflight checks an import without doing it, and returns the plan.
func Preflight(ctx context.Context, opts ImportOptions) (*mirror.Plan, error) {
	i := &importing{ImportOptions: opts, index: opts.Medium.index}
	opts.Medium.Behind(opts.To)
	return i.prepare(ctx)
}

func (i *importing) prepare(ctx context.Context) (*mirror.Plan, error) {
	refusal := &PreflightError{Stream: i.index.Stream, Expired: i.index.expired(i.Now)}
	var err error
	if i.before, _, err = mirror.ReadReceipt(ctx, i.To); err != nil && !errors.Is(err, oci.ErrNotFound) {
		return nil, err
	}
	refusal.Older = older(i.before.Imported, i.index, i.Medium.digest)
	there, err := mirror.Look(ctx, i.To, i.index.Closure(), i.Jobs)
	if err != nil {
		return nil, err
	}
	there.Holders, err = i.holders(ctx, there)
	if err != nil {
		return nil, err
	}
	plan := mirror.Compare(i.index.Closure(), there)
	i.missing = i.Medium.absent(plan)
	if !i.Partial {
		refusal.Volumes = i.missing
	}
	refusal.Blobs = i.Medium.lacking(plan)
	gone, err := i.gone(ctx)
	if err != nil {
		return nil, err
	}
	refusal.Blobs = append(refusal.Blobs, gone...)
	if len(i.missing) == 0 && len(refusal.Blobs) == 0 && i.index.Content == ContentFleet {
		if refusal.Refused, err = i.Medium.VerifySignatures(ctx, i.Verifier); err != nil {
			return nil, err
		}
		refusal.Refused, refusal.Damaged = i.Medium.blame(ctx, refusal.Refused)
	}
	if need, _ := plan.Send(); i.Free >= 0 && need > i.Free {
		refusal.Need, refusal.Free = need, i.Free
	}
	if !refusal.empty() {
		return nil, refusal
	}
	return plan, nil
}

// older returns the import that an index comes too late for. The same one may be imported again. It is pure.
func older(imported map[string]mirror.Imported, index *Index, d digest.Digest) *mirror.Imported {
	last, ok := imported[index.Stream]
	if !ok || index.Sequence > last.Sequence || index.Sequence == last.Sequence && d == last.Index {
		return nil
	}
	return &last
}

// holders asks where the receiver has what was left out.
func (i *importing) holders(ctx context.Context, there mirror.Inventory) (map[digest.Digest][]string, error) {
	holders := map[digest.Digest][]string{}
	needed := map[digest.Digest]bool{}
	for _, entry := range i.index.Entries {
		if there.Manifests[entry.Key()] {
			continue
		}
		for _, blob := range entry.Blobs {
			if _, placed := i.Medium.places[blob.Digest]; !placed && !there.Blobs[entry.Repository+"@"+blob.Digest.String()] {
				needed[blob.Digest] = true
			}
		}
	}
	for d := range needed {
		held := i.Medium.held[d]
		for _, name := range held.In {
			repo, err := i.To.Repository(name)
			if err != nil {
				return nil, err
			}
			ok, err := repo.Exists(ctx, blobDescriptor(held.Blob))
			if err != nil {
				return nil, err
			}
			if ok {
				holders[d] = append(holders[d], name)
				break
			}
		}
	}
	return holders, nil
}

// absent are volumes that are needed, and missing or of the wrong size.
func (m *Medium) absent(plan *mirror.Plan) []string {
	needed := map[string]bool{}
	need := func(d digest.Digest) {
		if at, ok := m.places[d]; ok {
			needed[at.volume] = true
		}
	}
	for _, step := range plan.Blobs {
		if len(step.From) == 0 {
			need(step.Digest)
		}
	}
	for _, step := range plan.Steps {
		need(step.Entry.Digest)
	}
	var absent []string
	for _, volume := range m.index.Volumes {
		if !needed[volume.Name] {
			continue
		}
		file := m.files[volume.Name]
		if file == nil {
			absent = append(absent, volume.Name)
			continue
		}
		if info, err := file.Stat(); err != nil || info.Size() != volume.Size {
			absent = append(absent, volume.Name)
		}
	}
	return absent
}

// lacking is what the receiver should have and hasn't.
func (m *Medium) lacking(plan *mirror.Plan) []Held {
	var lacking []Held
	for _, step := range plan.Blobs {
		if _, placed := m.places[step.Digest]; !placed && len(step.From) == 0 {
			lacking = append(lacking, m.held[step.Digest])
		}
	}
	for _, step := range plan.Steps {
		if _, placed := m.places[step.Entry.Digest]; !placed && step.Manifest {
			lacking = append(lacking, m.held[step.Entry.Digest])
		}
	}
	return lacking
}

// partial keeps of a plan the blobs that are on the volumes which are there.
func (i *importing) partial(plan *mirror.Plan) *mirror.Plan {
	return plan.OnlyBlobs(func(d digest.Digest) bool {
		at, placed := i.Medium.places[d]
		return placed && i.Medium.files[at.volume] != nil && !slices.Contains(i.missing, at.volume)
	})
}

// damaged names the volumes whose bytes were wrong.
func (m *Medium) damaged(failures []mirror.Failure) []string {
	var names []string
	for _, failure := range failures {
		if at, ok := m.places[failure.Digest]; ok && errors.Is(failure.Err, oci.ErrDamaged) {
			names = append(names, at.volume)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// receipt writes what the receiver has now.
func (i *importing) receipt(ctx context.Context) ([]byte, error) {
	have, err := i.before.With(i.index.Closure(), i.To.String(), i.Now)
	if err != nil {
		return nil, err
	}
	if have.Imported == nil {
		have.Imported = map[string]mirror.Imported{}
	}
	have.Imported[i.index.Stream] = mirror.Imported{Sequence: i.index.Sequence, Index: i.Medium.digest}
	have.Fleet, have.Publication = cmp.Or(i.index.Fleet, have.Fleet), max(i.index.Publication, have.Publication)
	data, err := json.Marshal(have)
	if err == nil && i.Sign != nil {
		data, err = i.Sign(ctx, mirror.MediaTypeHave, data)
	}
	if err != nil {
		return nil, err
	}
	return data, mirror.WriteReceipt(ctx, i.To, data)
}
