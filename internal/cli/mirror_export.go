package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"pinnace.dev/pinnace/internal/exitcode"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/mirror"
	"pinnace.dev/pinnace/pkg/oci/mirror/medium"
	"pinnace.dev/pinnace/pkg/oci/mirror/transfer"
	"pinnace.dev/pinnace/pkg/oci/signing"
)

type mirrorExportOptions struct {
	from, dir    string
	key          string
	passwordFile string
	have, base   string
	haveKey      string
	volumeSize   string
	validity     time.Duration
	stream       string
	status       bool
	repair       bool
	allowMissing bool
	trust        mirrorTrust
	selection    mirrorSelection
	transfer     mirrorTransfer
	sender       mirrorSender
	output       output
}

type mirrorExportResult struct {
	resultMeta
	Content     string          `json:"content"`
	Stream      string          `json:"stream"`
	Sequence    int64           `json:"sequence"`
	Fleet       string          `json:"fleet,omitempty"`
	Publication int64           `json:"publication,omitempty"`
	Clusters    []string        `json:"clusters"`
	Artifacts   int             `json:"artifacts"`
	LeftOut     int             `json:"leftOut"`
	Bytes       int64           `json:"bytes"`
	Volumes     []medium.Volume `json:"volumes"`
}

func newMirrorExportCommand(s *session) *cobra.Command {
	var opts mirrorExportOptions
	cmd := &cobra.Command{
		Use:   "export FROM FOLDER",
		Short: "Write what a site needs to a folder, for a medium",
		Long: `Write what the chosen clusters need from the registry FROM to a folder: volumes of at most --volume-size, each a tar
that is an OCI layout by itself, and pinnace-index.json, which is signed and says what is where.

With --have, the site's have.json or its last receipt, what the site holds is left out. With --base, the index of an
earlier export, all that it carried is taken to be there. The import checks both before it writes anything.

The signatures of what is exported are verified first: by --policy, by --public-key, or by the key that signs the
export. An interrupted export goes on when it is run again. --repair makes damaged or missing volumes of a finished
export again, byte by byte the same. --status exports what the agents of a site reported, for the way back.`,
		Example: `  # Everything for one factory, on DVDs
  pinnace mirror export registry.example.com/fleet out --cluster factory-07 --key cosign.key --volume-size 4.3GB

  # Only what the factory lacks, by the receipt that it sent back
  pinnace mirror export registry.example.com/fleet out --cluster factory-07 --key cosign.key --have receipt.json

  # Volume 2 was lost
  pinnace mirror export registry.example.com/fleet out --repair --public-key cosign.pub

  # On the site: the way back
  pinnace mirror export registry.site.example/fleet back --status --stream factory-07 --key site.key`,
		Args: arguments(2, 2, "the sender's prefix and a folder"),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.from, opts.dir = args[0], args[1]
			return runMirrorExport(cmd.Context(), s, opts)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.key, "key", "", "private key to sign the index with: a file, env://VARIABLE, or a key in a KMS")
	flags.StringVar(&opts.passwordFile, "password-file", "", "file with the key's password in its first line; COSIGN_PASSWORD when empty")
	flags.StringVar(&opts.have, "have", "", "what the site holds: a have.json, or a receipt")
	flags.StringVar(&opts.haveKey, "have-key", "", "public key that must have signed the have")
	flags.StringVar(&opts.base, "base", "", "index of an earlier export ("+medium.IndexFile+") that the site has imported")
	flags.StringVar(&opts.volumeSize, "volume-size", "", "size of a volume at most, such as 4.3GB; one volume when empty")
	flags.DurationVar(&opts.validity, "validity", 30*24*time.Hour, "how long it may be imported; 0 for ever")
	flags.StringVar(&opts.stream, "stream", "", "name of a series of exports, of which a site takes none that is older than its last; fleet when empty")
	flags.BoolVar(&opts.status, "status", false, "export what agents reported, for the way back")
	flags.BoolVar(&opts.repair, "repair", false, "make damaged and missing volumes of a finished export again")
	flags.BoolVar(&opts.allowMissing, "allow-missing", false, "export although something could not be read or is refused; targets that need it stay as they are at the site")
	opts.trust.register(cmd)
	opts.selection.register(cmd)
	opts.transfer.register(cmd)
	opts.sender.register(cmd)
	opts.output.register(cmd)
	return cmd
}

func runMirrorExport(ctx context.Context, s *session, opts mirrorExportOptions) error {
	if err := opts.output.check(); err != nil {
		return err
	}
	moving, err := opts.transfer.options()
	if err != nil {
		return err
	}
	if opts.repair {
		return repairExport(ctx, s, opts, moving)
	}
	if opts.key == "" {
		return usagef("an export is signed; name a private key with --key")
	}
	signer, err := s.openKey(ctx, opts.key, opts.passwordFile)
	if err != nil {
		return err
	}
	export := medium.ExportOptions{
		Dir: opts.dir, Content: medium.ContentFleet, Stream: opts.stream, Validity: opts.validity, Sign: signer.SignEnvelope, Now: clock(),
		Jobs: opts.transfer.jobs,
	}
	if opts.volumeSize != "" {
		if export.VolumeSize, err = parseBytes(opts.volumeSize); err != nil || export.VolumeSize <= 0 {
			return usagef("--volume-size %q: write a size such as 4.3GB", opts.volumeSize)
		}
	}
	if err := opts.closure(ctx, s, signer, &export); err != nil {
		return err
	}
	if export.Have, export.Base, err = opts.left(ctx, s, signer); err != nil {
		return err
	}
	return writeExport(ctx, s, opts, export, moving)
}

// closure finds what is exported.
func (o *mirrorExportOptions) closure(ctx context.Context, s *session, signer *signing.Signer, export *medium.ExportOptions) error {
	if o.status {
		registry, err := o.sender.registry.open(s, o.from)
		if err != nil {
			return err
		}
		if o.stream == "" {
			return usagef("--status needs --stream, the name of this site, so that the centre can tell old from new")
		}
		export.Content, export.Stream = medium.ContentStatus, "status-"+o.stream
		export.Open = mirror.Opener(registry, nil)
		export.Closure, err = mirror.FindStatus(ctx, registry)
		return err
	}
	selection, err := o.selection.selection()
	if err != nil {
		return err
	}
	verifier, err := o.trust.verifier(ctx, s, signer)
	if err != nil {
		return err
	}
	from, err := o.sender.from(s, o.from, verifier)
	if err != nil {
		return err
	}
	export.Open = mirror.Opener(from.Registry, from.Host)
	if export.Closure, err = mirror.Find(ctx, from, selection); err != nil {
		return err
	}
	s.tellProblems(export.Closure.Refused, export.Closure.Missing, export.Closure.Resolved)
	if o.allowMissing {
		return nil
	}
	switch {
	case len(export.Closure.Refused) > 0:
		return codef(exitcode.Refused, "%s refused by the policy; sign what is refused, or export without by --allow-missing", count(len(export.Closure.Refused), "artifact"))
	case len(export.Closure.Missing) > 0:
		return codef(exitcode.Partial, "%s could not be read; mend that, or export without by --allow-missing", count(len(export.Closure.Missing), "artifact"))
	}
	return nil
}

// left is what the receiver has.
func (o *mirrorExportOptions) left(ctx context.Context, s *session, signer *signing.Signer) (*mirror.Holdings, *medium.Base, error) {
	switch {
	case o.have != "" && o.base != "":
		return nil, nil, usagef("--have and --base exclude each other; the have knows more")
	case o.have != "":
		return o.readHave()
	case o.base != "":
		verifier, err := o.trust.verifier(ctx, s, signer)
		if err != nil {
			return nil, nil, err
		}
		return readBase(ctx, o.base, trustIndex(verifier))
	}
	return nil, nil, nil
}

func (o *mirrorExportOptions) readHave() (*mirror.Holdings, *medium.Base, error) {
	data, err := readFileBounded(o.have, 2*mirror.MaxHave)
	if err != nil {
		return nil, nil, fmt.Errorf("have: %w", err)
	}
	var payload []byte
	if o.haveKey == "" {
		payload, err = mirror.UnwrapUnsafe(data)
	} else {
		public, readErr := readSmallFile(o.haveKey)
		if readErr != nil {
			return nil, nil, fmt.Errorf("public key: %w", readErr)
		}
		payload, err = signing.OpenEnvelope(public, mirror.MediaTypeHave, data)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("have %s: %w", o.have, err)
	}
	have, err := mirror.DecodeHave(payload)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", o.have, err)
	}
	holdings, err := have.Holdings()
	return holdings, &medium.Base{Digest: digest.FromBytes(payload), Registry: have.Registry}, err
}

// readBase takes everything that an earlier export carried, or left out, as held.
func readBase(ctx context.Context, file string, trust medium.Trust) (*mirror.Holdings, *medium.Base, error) {
	m, err := medium.Open(ctx, []string{filepath.Dir(file)}, trust)
	if err != nil {
		return nil, nil, fmt.Errorf("base: %w", err)
	}
	defer func() { _ = m.Close() }()
	holdings, err := m.Index().Holdings()
	return holdings, &medium.Base{Digest: m.Digest(), Sequence: m.Index().Sequence}, err
}

func writeExport(ctx context.Context, s *session, opts mirrorExportOptions, export medium.ExportOptions, moving transfer.Options) error {
	if err := os.MkdirAll(opts.dir, 0o755); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	journalFile := filepath.Join(opts.dir, medium.JournalFile)
	journal, err := transfer.OpenJournal(journalFile)
	if err != nil {
		return err
	}
	show := newTransferProgress(s)
	moving.Journal, moving.OnBytes, moving.OnWait = journal, show.bytes, show.waits
	export.Journal, export.Engine, export.Progress = journal, transfer.New(moving), show.step
	index, err := medium.Export(ctx, export)
	show.end()
	_ = journal.Close() // it only saves work
	if err != nil {
		return err
	}
	_ = os.Remove(journalFile) // the next export into this folder is refused anyway
	result := mirrorExportResult{
		resultMeta: newResultMeta("MirrorExport"), Content: index.Content, Stream: index.Stream, Sequence: index.Sequence, Fleet: index.Fleet,
		Publication: index.Publication, Clusters: index.Clusters, Artifacts: len(index.Entries), LeftOut: len(index.Held), Bytes: index.Bytes(),
		Volumes: index.Volumes,
	}
	if err := opts.output.print(s.Out, exportView(result)); err != nil {
		return err
	}
	s.message(markDone, "exported %s of %s to %s: %s in %s; %s left out; import it with: pinnace mirror import %s --to REGISTRY",
		count(len(index.Entries), "artifact"), count(len(index.Clusters), "cluster"), opts.dir, showBytes(index.Bytes()),
		count(len(index.Volumes), "volume"), count(len(index.Held), "blob"), opts.dir)
	return nil
}

func exportView(result mirrorExportResult) view {
	v := view{data: result, columns: columns("VOLUME", "SIZE", "BLOBS", "DIGEST")}
	for _, volume := range result.Volumes {
		v.rows = append(v.rows, []string{volume.Name, showBytes(volume.Size), fmt.Sprint(len(volume.Blobs)), volume.Digest.String()})
		v.names = append(v.names, volume.Name)
	}
	return v
}

func repairExport(ctx context.Context, s *session, opts mirrorExportOptions, moving transfer.Options) error {
	verifier, err := opts.trust.verifier(ctx, s, nil)
	if err != nil {
		return err
	}
	from, err := opts.sender.from(s, opts.from, verifier)
	if err != nil {
		return err
	}
	show := newTransferProgress(s)
	moving.OnBytes, moving.OnWait = show.bytes, show.waits
	names, err := medium.Repair(ctx, medium.RepairOptions{
		Dir: opts.dir, Open: mirror.Opener(from.Registry, from.Host), Trust: trustIndex(verifier), Engine: transfer.New(moving),
		Jobs: opts.transfer.jobs, Progress: show.step,
	})
	show.end()
	if err != nil {
		return err
	}
	if len(names) == 0 {
		s.message(markDone, "every volume in %s is whole", opts.dir)
		return nil
	}
	s.message(markDone, "made again: %s", strings.Join(names, ", "))
	return s.printf("%s\n", strings.Join(names, "\n"))
}

func readFileBounded(file string, limit int64) ([]byte, error) {
	in, err := os.Open(filepath.Clean(file))
	if err != nil {
		return nil, err
	}
	defer func() { _ = in.Close() }()
	data, err := io.ReadAll(io.LimitReader(in, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = errors.Join(oci.ErrTooLarge, fmt.Errorf("%s has more than %d bytes", file, limit))
	}
	return data, err
}
