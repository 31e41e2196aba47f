package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"pinnace.dev/pinnace/internal/exitcode"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/mirror"
	"pinnace.dev/pinnace/pkg/oci/mirror/medium"
	"pinnace.dev/pinnace/pkg/oci/mirror/transfer"
	"pinnace.dev/pinnace/pkg/oci/registry"
)

type mirrorImportOptions struct {
	dirs         []string
	to, root     string
	prefix       string
	dryRun       bool
	partial      bool
	key          string
	passwordFile string
	receipt      string
	trust        mirrorTrust
	transfer     mirrorTransfer
	registry     registryFlags
	output       output
}

func newMirrorImportCommand(s *session) *cobra.Command {
	var opts mirrorImportOptions
	cmd := &cobra.Command{
		Use:   "import FOLDER...",
		Short: "Bring an export from a medium to a site's registry",
		Long: `Bring an export to the registry --to, or to the folder --root of the registry that is built in. First everything is
checked: who signed the index, its age and sequence, that every volume is there, that the site holds what was left
out, that the policy accepts what agents will get, and space. What is wrong is listed, and nothing is written.

Then volumes are read, in any order and from any number of folders, and hashed on the way. The tags that agents poll
move last. An interrupted import goes on where it stopped; importing again does nothing. A receipt is left in the
registry, and in --receipt: it serves as the --have of the next export.

With --partial, volumes that are not all at hand at once are imported one after the other; nothing shows until the
last has come. What export --status wrote is imported at the centre in the same way.`,
		Example: `  # At the site
  pinnace mirror import /media/dvd1 /media/dvd2 --to registry.site.example/fleet --policy trust.yaml --receipt receipt.json

  # Into the folder of the built-in registry, with a signed receipt
  pinnace mirror import /media/usb --root /var/lib/registry --public-key cosign.pub --key site.key --receipt receipt.json`,
		Args: arguments(1, maxReferences, "the folder of an export, or several"),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.dirs = args
			return runMirrorImport(cmd.Context(), s, opts)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.to, "to", "", "prefix to import to: host[:port]/path")
	flags.StringVar(&opts.root, "root", "", "folder of the built-in registry to import to, instead of a registry that runs")
	flags.StringVar(&opts.prefix, "prefix", "fleet", "path below the registry of --root")
	flags.BoolVar(&opts.dryRun, "dry-run", false, "check, say what would be imported, and write nothing")
	flags.BoolVar(&opts.partial, "partial", false, "take the volumes that are there; the last one makes it complete")
	flags.StringVar(&opts.key, "key", "", "private key to sign the receipt with; it is not signed when empty")
	flags.StringVar(&opts.passwordFile, "password-file", "", "file with the key's password in its first line; COSIGN_PASSWORD when empty")
	flags.StringVar(&opts.receipt, "receipt", "", "file to write the receipt to")
	opts.trust.register(cmd)
	opts.transfer.register(cmd)
	opts.registry.register(cmd)
	opts.output.register(cmd)
	return cmd
}

func runMirrorImport(ctx context.Context, s *session, opts mirrorImportOptions) (err error) {
	if err := opts.output.check(); err != nil {
		return err
	}
	moving, err := opts.transfer.options()
	if err != nil {
		return err
	}
	verifier, err := opts.trust.verifier(ctx, s, nil)
	if err != nil {
		return err
	}
	m, err := medium.Open(ctx, opts.dirs, verifier.trustIndex())
	if err != nil {
		return err
	}
	defer func() { _ = m.Close() }()
	to, free, stop, err := opts.receiver(s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	in := medium.ImportOptions{
		Medium: m, To: to, Verifier: verifier, Free: free, Partial: opts.partial, Now: clock(),
	}
	if opts.key != "" {
		signer, err := s.openKey(ctx, opts.key, opts.passwordFile)
		if err != nil {
			return err
		}
		in.Sign = signer.SignEnvelope
	}
	if opts.dryRun {
		return previewImport(ctx, s, opts, in)
	}
	return doImport(ctx, s, opts, in, moving)
}

// receiver opens the registry that is imported to, or starts the built-in one on its folder.
func (o *mirrorImportOptions) receiver(s *session) (to oci.Registry, free int64, stop func() error, err error) {
	nothing := func() error { return nil }
	switch {
	case (o.to == "") == (o.root == ""):
		return nil, 0, nothing, usagef("say where to: --to REGISTRY, or --root FOLDER")
	case o.to != "":
		to, err = o.registry.open(s, o.to)
		return to, -1, nothing, err
	}
	if err := os.MkdirAll(o.root, 0o755); err != nil {
		return nil, 0, nothing, fmt.Errorf("folder of the registry: %w", err)
	}
	var stat unix.Statfs_t
	if err := unix.Statfs(o.root, &stat); err != nil {
		return nil, 0, nothing, fmt.Errorf("space in %s: %w", o.root, err)
	}
	server, err := registry.Start(registry.Options{Root: o.root})
	if err != nil {
		return nil, 0, nothing, err
	}
	to, err = oci.Open(server.Addr+"/"+o.prefix, oci.Options{PlainHTTP: true})
	available := int64(min(stat.Bavail, 1<<40)) * stat.Bsize
	return to, available, server.Close, ofInput(err)
}

func previewImport(ctx context.Context, s *session, opts mirrorImportOptions, in medium.ImportOptions) error {
	plan, err := medium.Preflight(ctx, in)
	if err != nil {
		return err
	}
	result := planResult(in.Medium.Index().Closure(), plan)
	if err := opts.output.print(s.Out, planView(result, false)); err != nil {
		return err
	}
	s.message(markDone, "would import %s: %s; %s to move", count(len(plan.Steps), "artifact"), showBytes(result.Bytes), count(len(plan.Moves), "tag"))
	return nil
}

func doImport(ctx context.Context, s *session, opts mirrorImportOptions, in medium.ImportOptions, moving transfer.Options) error {
	where := opts.to
	if where == "" {
		where = opts.root + "\x00" + opts.prefix
	}
	dir, err := mirrorState("import", in.Medium.Digest().String(), where)
	if err != nil {
		return err
	}
	journal, closeJournal, err := openedJournal(dir)
	if err != nil {
		return err
	}
	if opts.root != "" { // its registry listens on another port each time
		address, _, _ := strings.Cut(in.To.String(), "/")
		journal.Rename(address, "folder")
	}
	if n := journal.Count(); n > 0 {
		s.message(markDoing, "going on: %s arrived before", count(n, "blob"))
	}
	show := newTransferProgress(s)
	moving.Journal, moving.OnBytes, moving.OnResumed, moving.OnWait = journal, show.bytes, show.resumed, show.waits
	in.Journal, in.Engine, in.Progress, in.Jobs = journal, transfer.New(moving), show.step, opts.transfer.jobs
	result, err := medium.Import(ctx, in)
	show.end()
	closeJournal(err == nil && result.Receipt != nil)
	if err != nil {
		return err
	}
	if result.Receipt != nil && opts.receipt != "" {
		if err := renameio.WriteFile(opts.receipt, append(result.Receipt, '\n'), 0o644); err != nil {
			return fmt.Errorf("write the receipt: %w", err)
		}
	}
	report := &mirrorReport{
		resultMeta: newResultMeta("MirrorReport"), Report: result.Report, Stream: result.Stream, Sequence: result.Sequence,
		Damaged: result.Damaged, Waiting: result.Waiting,
	}
	if err := opts.output.print(s.Out, report.view()); err != nil {
		return err
	}
	s.tell(report, "imported")
	if result.Receipt != nil && opts.receipt != "" {
		s.message(markWaiting, "send %s back: the next export leaves out what is here, with --have", opts.receipt)
	}
	err = report.incomplete()
	if err != nil && len(result.Damaged) > 0 && result.Count(mirror.Failed) > 0 {
		return exitcode.With(exitcode.Partial, err)
	}
	return err
}
