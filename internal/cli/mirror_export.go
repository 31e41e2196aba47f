package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"pinnace.dev/pinnace/internal/exitcode"
	"pinnace.dev/pinnace/pkg/oci/mirror"
	"pinnace.dev/pinnace/pkg/oci/mirror/medium"
	"pinnace.dev/pinnace/pkg/oci/mirror/transfer"
	"pinnace.dev/pinnace/pkg/oci/signing"
)

type mirrorExportOptions struct {
	from         []string
	dir          string
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
	source       mirrorSource
	transfer     mirrorTransfer
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
		Use:   "export FROM... FOLDER",
		Short: "Write what a site needs to a folder, for a medium",
		Long: `Write what the chosen clusters need from the registry FROM to a folder: volumes of at most --volume-size, each a tar
that is an OCI layout by itself, and pinnace-index.json, which is signed and says what is where.

With --have, the site's have.json or its last receipt, what the site holds is left out. With --base, the index of an
earlier export, all that it carried is taken to be there. The import checks both before it writes anything.

The signatures of what is exported are verified first: by --policy, by --public-key, or by the key that signs the
export. An interrupted export goes on when it is run again. --repair makes damaged or missing volumes of a finished
export again, byte by byte the same.

--status exports what the agents of a site reported, for the way back. Where the site's registry takes no reports, each
agent keeps its own on the disk: FROM is then its state folder, or several of them.`,
		Example: `  # Everything for one factory, on DVDs
  pinnace mirror export registry.example.com/fleet out --cluster factory-07 --key cosign.key --volume-size 4.3GB

  # Only what the factory lacks, by the receipt that it sent back
  pinnace mirror export registry.example.com/fleet out --cluster factory-07 --key cosign.key --have receipt.json

  # Volume 2 was lost
  pinnace mirror export registry.example.com/fleet out --repair --public-key cosign.pub

  # On the site: the way back
  pinnace mirror export registry.site.example/fleet back --status --stream factory-07 --key site.key

  # The same, where the registry can only be read: from the state of the agents
  pinnace mirror export /var/lib/pinnace-agent back --status --stream factory-07 --key site.key`,
		Args: arguments(2, maxReferences, "the sender's prefix and a folder"),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.from, opts.dir = args[:len(args)-1], args[len(args)-1]
			if len(opts.from) > 1 && !opts.status {
				return usagef("%s: only --status takes several places to export from", strings.Join(opts.from, ", "))
			}
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
	opts.source.register(cmd)
	opts.transfer.register(cmd)
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
		return o.reports(ctx, s, export)
	}
	from, closure, err := o.source.find(ctx, s, o.from[0], signer)
	if err != nil {
		return err
	}
	export.Open, export.Closure = mirror.Opener(from.Registry, from.Host), closure
	s.tellProblems(closure.Refused, closure.Missing, closure.Resolved)
	if o.allowMissing {
		return nil
	}
	switch {
	case len(closure.Refused) > 0:
		return codef(exitcode.Refused, "%s refused by the policy; sign what is refused, or export without by --allow-missing", count(len(closure.Refused), "artifact"))
	case len(closure.Missing) > 0:
		return codef(exitcode.Partial, "%s could not be read; mend that, or export without by --allow-missing", count(len(closure.Missing), "artifact"))
	}
	return nil
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
	moving.Journal, moving.OnBytes, moving.OnResumed, moving.OnWait = journal, show.bytes, show.resumed, show.waits
	export.Journal, export.Engine, export.Progress = journal, transfer.New(moving), show.step
	index, err := medium.Export(ctx, export)
	show.end()
	_ = journal.Close() // it only saves work
	if errors.Is(err, medium.ErrVolumeSize) {
		return usagef("--volume-size %s: %w", opts.volumeSize, err)
	}
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
	from, _, err := opts.source.open(ctx, s, opts.from[0], nil)
	if err != nil {
		return err
	}
	verifier, err := opts.source.trust.verifier(ctx, s, nil)
	if err != nil {
		return err
	}
	show := newTransferProgress(s)
	moving.OnBytes, moving.OnWait = show.bytes, show.waits
	names, err := medium.Repair(ctx, medium.RepairOptions{
		Dir: opts.dir, Open: mirror.Opener(from.Registry, from.Host), Trust: verifier.trustIndex(), Engine: transfer.New(moving),
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
