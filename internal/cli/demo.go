package cli

import (
	"context"
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"pinnace.dev/pinnace/internal/demo"
	"pinnace.dev/pinnace/internal/exitcode"
)

type demoOptions struct {
	clusters int
	latency  time.Duration
	fail     string
	once     bool
	timeout  time.Duration
	socket   string
}

func newDemoCommand(s *session) *cobra.Command {
	var opts demoOptions
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Run a whole fleet in this terminal, without Kubernetes",
		Long: `Run the embedded registry, the example fleet and simulated clusters in this terminal until interrupted, and
show how they stand. The agents run the real code: they poll, verify, keep state and report; only what they apply is
applied to memory. Everything is kept in a temporary folder that is removed at the end.

A dozen clusters are ready within seconds. Five thousand take three minutes of processor time and 1.3 GiB of memory: about
two minutes on two cores that have nothing else to do; the screen says how far it is. --once has five minutes for it.

From a second terminal the fleet can be troubled: pinnace demo break, tamper, offline and mend. Every other command works
on it too; the addresses are shown.`,
		Example: `  # Twelve clusters
  pinnace demo

  # Five thousand, on which two in a hundred updates fail
  pinnace demo --clusters 5000 --latency 300ms --fail 2%

  # In CI: exit as soon as everything is ready
  pinnace demo --once --timeout 1m`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return helpOrUnknown(cmd, args)
			}
			return runDemo(cmd.Context(), s, opts)
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&opts.clusters, "clusters", 12, "how many clusters there are")
	flags.DurationVar(&opts.latency, "latency", 300*time.Millisecond, "how long a bundle takes to become ready")
	flags.StringVar(&opts.fail, "fail", "0%", "on how many clusters a new version of a bundle fails")
	flags.BoolVar(&opts.once, "once", false, "end when everything is ready")
	flags.DurationVar(&opts.timeout, "timeout", 5*time.Minute, "how long --once waits")
	cmd.PersistentFlags().StringVar(&opts.socket, "socket", "", "where a running demo listens for its commands; in the user's runtime folder when empty")
	_ = cmd.PersistentFlags().MarkHidden("socket")
	for _, act := range demoActs {
		cmd.AddCommand(newDemoActCommand(s, act, &opts))
	}
	return cmd
}

func (o *demoOptions) path() string {
	if o.socket != "" {
		return o.socket
	}
	return demo.SocketPath()
}

func runDemo(ctx context.Context, s *session, opts demoOptions) error {
	fail, err := share(opts.fail)
	if err != nil {
		return usagef("--fail %q is not a share such as 2%%", opts.fail)
	}
	if opts.clusters < demo.MinClusters || opts.clusters > 20_000 {
		return usagef("--clusters %d is not between %d and 20000", opts.clusters, demo.MinClusters)
	}
	dir, err := os.MkdirTemp("", "pinnace-demo-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // what stays is in the system's temporary folder
	d, err := demo.New(demo.Options{Clusters: opts.clusters, Latency: opts.latency, Fail: fail, Dir: dir, Version: s.build().Version})
	if err != nil {
		return err
	}
	screen := newDemoScreen(s, d, opts)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if opts.once {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, opts.timeout)
		defer stop()
	}
	group, work := errgroup.WithContext(ctx)
	group.Go(func() error { return d.Listen(work, opts.path()) })
	group.Go(func() error {
		defer cancel()
		return d.Run(work, screen.every(), screen.show)
	})
	err = group.Wait()
	screen.end()
	switch {
	case errors.Is(err, demo.ErrRunning):
		err = codef(exitcode.Usage, "%w", err)
	case err == nil && opts.once && !screen.ready:
		err = codef(exitcode.TimedOut, "after %s: %s", opts.timeout, screen.verdict)
	}
	return errors.Join(err, d.Close())
}

// share reads 2% or 0.02.
func share(text string) (float64, error) {
	number, percent := strings.CutSuffix(text, "%")
	value, err := strconv.ParseFloat(number, 64)
	if percent {
		value /= 100
	}
	if err == nil && (value < 0 || value > 1) {
		err = errors.New("not between 0% and 100%")
	}
	return value, err
}

// demoScreen draws the fleet: again and again in place on a terminal, a line for each change elsewhere.
type demoScreen struct {
	session *session
	demo    *demo.Demo
	opts    demoOptions
	draws   bool
	started bool

	ready   bool
	verdict string
	shown   time.Time // the newest note that was shown
	worked  time.Time // when it was last shown how far something is
}

func newDemoScreen(s *session, d *demo.Demo, opts demoOptions) *demoScreen {
	return &demoScreen{session: s, demo: d, opts: opts, worked: time.Now(), draws: isTerminal(s.Out) && s.logFormat == "text" && !s.quiet && !opts.once}
}

// every is the pause between two pictures; large ones take a while to be drawn.
func (d *demoScreen) every() time.Duration {
	return max(300*time.Millisecond, time.Duration(d.opts.clusters)*100*time.Microsecond)
}

const (
	enterScreen = "\x1b[?1049h\x1b[?25l"
	leaveScreen = "\x1b[?25h\x1b[?1049l"
	homeScreen  = "\x1b[H"
	clearBelow  = "\x1b[J"
	clearLine   = "\x1b[K"
)

func (d *demoScreen) show(snapshot demo.Snapshot) bool {
	if d.verdict = snapshot.Summary.Verdict; snapshot.Work.Stage != "" {
		d.verdict = strings.TrimPrefix(d.verdict+"; ", "; ") + workLine(snapshot.Work, time.Now())
	}
	if snapshot.Converged > 0 {
		d.ready = true
	}
	if d.draws {
		d.draw(snapshot)
		return true
	}
	for _, note := range fresh(snapshot.Notes, d.shown) {
		d.session.message(markDoing, "%s", note.Text)
		d.shown = note.At
	}
	if now := time.Now(); now.Sub(d.worked) >= reportEvery {
		if d.worked = now; snapshot.Work.Stage != "" {
			d.session.message(markDoing, "%s", workLine(snapshot.Work, now))
		}
	}
	if d.opts.once && d.ready {
		d.session.message(markDone, "%s, %s after the publish", snapshot.Summary.Verdict, snapshot.Converged.Round(100*time.Millisecond))
		return false
	}
	return true
}

func fresh(notes []demo.Note, since time.Time) []demo.Note {
	for i, note := range notes {
		if note.At.After(since) {
			return notes[i:]
		}
	}
	return nil
}

func (d *demoScreen) draw(snapshot demo.Snapshot) {
	width, height := terminalSize(d.session.Out)
	lines := demoLines(snapshot, d.demo, width, height)
	var b strings.Builder
	if !d.started {
		b.WriteString(enterScreen)
		d.started = true
	}
	b.WriteString(homeScreen)
	for i, line := range lines {
		if i > 0 {
			b.WriteString("\r\n")
		}
		b.WriteString(line + clearLine)
	}
	b.WriteString(clearBelow)
	_, _ = io.WriteString(d.session.Out, b.String()) // nobody watches any more
}

func (d *demoScreen) end() {
	if d.started {
		_, _ = io.WriteString(d.session.Out, leaveScreen)
		d.session.message(markDone, "the demo is over and left nothing behind: %s", d.verdict)
	}
}

// demoAct is a command that is sent to a running demo.
type demoAct struct {
	act                    demo.Act
	use, short, long, what string
	examples               [2]string
}

var demoActs = []demoAct{
	{
		demo.Break, "break BUNDLE", "Publish a bundle of the running demo that cannot start",
		"Let a bundle of the demo that runs in another terminal name an image that cannot be pulled, and publish it. The\ncanary fails, the rollout is aborted, the canary goes back to what it had, and no other cluster ever takes it.",
		"a bundle",
		[2]string{"# See a rollout stop by itself\n  pinnace demo break clock", "# Another one\n  pinnace demo break shop"},
	},
	{
		demo.Tamper, "tamper CLUSTER", "Put a forged target into the running demo's registry",
		"Put a target for a cluster of the demo that runs in another terminal into the registry, signed with a key that nobody\ntrusts. Its agent refuses it and says so; what runs keeps running.",
		"a cluster",
		[2]string{"# See a refusal\n  pinnace demo tamper factory-01", "# On a ship\n  pinnace demo tamper ship-02"},
	},
	{
		demo.Offline, "offline CLUSTER", "Cut a cluster of the running demo off",
		"Cut the link of a cluster of the demo that runs in another terminal. It keeps what it runs; after a while it is shown as\nunseen, and rollouts go on without it.",
		"a cluster",
		[2]string{"# See a silent cluster\n  pinnace demo offline ship-02", "# A store, and back with pinnace demo mend\n  pinnace demo offline store-01"},
	},
	{
		demo.Mend, "mend [BUNDLE|CLUSTER]", "Undo what was done to the running demo",
		"Undo what break, tamper and offline did to the demo that runs in another terminal: to one bundle or cluster, or to all.",
		"at most one bundle or cluster",
		[2]string{"# Everything\n  pinnace demo mend", "# One bundle\n  pinnace demo mend clock"},
	},
}

func newDemoActCommand(s *session, act demoAct, opts *demoOptions) *cobra.Command {
	least := 1
	if act.act == demo.Mend {
		least = 0
	}
	return &cobra.Command{
		Use: act.use, Short: act.short, Long: act.long, Args: arguments(least, 1, act.what),
		Example: "  " + strings.Join(act.examples[:], "\n\n  "),
		RunE: func(cmd *cobra.Command, args []string) error {
			command := demo.Command{Act: act.act}
			if len(args) == 1 {
				command.Subject = args[0]
			}
			text, err := demo.Send(cmd.Context(), opts.path(), command)
			if errors.Is(err, demo.ErrNotRunning) {
				return codef(exitcode.NotFound, "%w", err)
			}
			if err != nil {
				return usagef("%w", err)
			}
			return s.printf("%s\n", text)
		},
	}
}
