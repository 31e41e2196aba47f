package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/mirror"
	"pinnace.dev/pinnace/pkg/oci/mirror/transfer"
)

type mirrorSyncOptions struct {
	from, to   string
	watch      bool
	interval   time.Duration
	everything bool
	source     mirrorSource
	transfer   mirrorTransfer
	receiver   mirrorReceiver
	output     output
}

func newMirrorSyncCommand(s *session) *cobra.Command {
	var opts mirrorSyncOptions
	cmd := &cobra.Command{
		Use:   "sync FROM TO",
		Short: "Mirror from registry to registry",
		Long: `Bring the registry TO up to date with what the chosen clusters need from the registry FROM. Blobs are sent once,
whatever the number of repositories that share them, and go on where they were cut, also after the process was killed.
What fails is reported and does not stop the rest; the tags that agents poll move last, and only when everything that
they need has arrived.

When nothing was published since the last sync, each repository is asked once. Signatures that were added to unchanged
artifacts are found with --everything.

It exits with 3 when a part failed.`,
		Example: `  # A site's registry, once
  pinnace mirror sync registry.example.com/fleet registry.site.example/fleet --cluster factory-07 --policy trust.yaml

  # Every five minutes, at night, over a thin link
  pinnace mirror sync registry.example.com/fleet registry.site.example/fleet --policy trust.yaml --watch \
    --interval 5m --limit-rate 2MiB/s --window 22:00-06:00`,
		Args: arguments(2, 2, "the sender's prefix and the receiver's"),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.from, opts.to = args[0], args[1]
			return runMirrorSync(cmd.Context(), s, opts)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&opts.watch, "watch", false, "go on, and look again and again")
	flags.DurationVar(&opts.interval, "interval", time.Minute, "pause between two looks with --watch")
	flags.BoolVar(&opts.everything, "everything", false, "look at every artifact, also when nothing was published since the last sync")
	opts.source.register(cmd)
	opts.transfer.register(cmd)
	opts.receiver.register(cmd)
	opts.output.register(cmd)
	return cmd
}

func runMirrorSync(ctx context.Context, s *session, opts mirrorSyncOptions) error {
	if err := opts.output.check(); err != nil {
		return err
	}
	if opts.interval <= 0 {
		return usagef("--interval is a duration such as 5m")
	}
	moving, err := opts.transfer.options()
	if err != nil {
		return err
	}
	from, selection, err := opts.source.open(ctx, s, opts.from, nil)
	if err != nil {
		return err
	}
	to, err := opts.receiver.open(s, opts.to, opts.source.sender.registry)
	if err != nil {
		return err
	}
	dir, err := mirrorState("sync", from.Registry.String(), to.String())
	if err != nil {
		return err
	}
	for {
		err := syncOnce(ctx, s, opts, dir, from, to, selection, moving)
		if !opts.watch {
			return err
		}
		if err != nil && ctx.Err() == nil {
			s.message(markFailed, "%v", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(opts.interval):
		}
	}
}

func syncOnce(ctx context.Context, s *session, opts mirrorSyncOptions, dir string, from mirror.From, to oci.Registry,
	selection mirror.Selection, moving transfer.Options,
) error {
	journal, closeJournal, err := openedJournal(dir)
	if err != nil {
		return err
	}
	show := newTransferProgress(s)
	moving.Journal, moving.OnBytes, moving.OnResumed, moving.OnWait = journal, show.bytes, show.resumed, show.waits
	plan, report, err := mirror.Sync(ctx, mirror.SyncOptions{
		From: from, Selection: selection, StateFile: filepath.Join(dir, "state.json"),
		Key: opts.source.selection.key() + opts.source.trust.policy + fmt.Sprint(opts.source.trust.publicKeys), Everything: opts.everything,
		Copier: mirror.Copier{To: to, Engine: transfer.New(moving), Journal: journal, Progress: show.step},
	})
	show.end()
	closeJournal(err == nil && (report == nil || report.Complete()))
	if err != nil {
		return err
	}
	if report == nil {
		s.message(markDone, "nothing was published since the last sync, and %s has it", to)
		report = &mirror.Report{Artifacts: []mirror.Artifact{}}
		if opts.watch {
			return nil
		}
		return opts.output.print(s.Out, (&mirrorReport{resultMeta: newResultMeta("MirrorReport"), Report: report}).view())
	}
	result := &mirrorReport{
		resultMeta: newResultMeta("MirrorReport"), Report: report, Refused: plan.Closure.Refused, Missing: plan.Closure.Missing,
		Resolved: plan.Closure.Resolved,
	}
	err = errors.Join(opts.output.print(s.Out, result.view()), result.incomplete())
	s.tell(result, "sent")
	return err
}
