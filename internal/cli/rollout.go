package cli

import (
	"context"
	"errors"
	"fmt"
	"os/user"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/internal/exitcode"
	"pinnace.dev/pinnace/pkg/oci/signing"
	"pinnace.dev/pinnace/pkg/publish/gates"
	"pinnace.dev/pinnace/pkg/target/rollout"
)

func newRolloutCommand(s *session) *cobra.Command {
	return group("rollout", "Spread changes over clusters, step by step",
		"Spread changes over clusters as the strategies in Git say: canaries first, then wave by wave, and not further when too\nmuch fails. The registry holds the state; pinnace rollout step moves it on, as often as anybody runs it.",
		newRolloutStatusCommand(s), newRolloutStepCommand(s), newRolloutActCommand(s, rollout.Pause), newRolloutActCommand(s, rollout.Resume),
		newRolloutActCommand(s, rollout.Abort), newRolloutApproveCommand(s), newRolloutHistoryCommand(s))
}

// rolloutFlags say which fleet, and who signs.
type rolloutFlags struct {
	viewFlags
	sign     signFlags
	policy   string
	validity time.Duration
	output   output
}

func (f *rolloutFlags) register(cmd *cobra.Command) {
	f.viewFlags.register(cmd)
	f.sign.register(cmd)
	cmd.Flags().StringVar(&f.policy, "policy", "", "trust policy that index, plans and gates must satisfy; signed by the same key when empty")
	cmd.Flags().DurationVar(&f.validity, "gate-validity", gates.DefaultValidity, "how long a gate lets clusters in that see no newer one")
	f.output.register(cmd)
}

// open returns everything that a gate is written with.
func (f *rolloutFlags) open(ctx context.Context, s *session) (*fleetView, *signing.Signer, error) {
	if err := f.output.check(); err != nil {
		return nil, nil, err
	}
	if f.validity < time.Minute {
		return nil, nil, usagef("--gate-validity %s is less than a minute", f.validity)
	}
	signer, err := f.sign.open(ctx, s)
	if err != nil {
		return nil, nil, err
	}
	var verifier *signing.Verifier
	if f.policy != "" {
		verifier, err = loadVerifier(s, f.policy, "")
	} else {
		verifier, err = signing.NewKeyVerifier("this key", signer.PublicKey())
		err = ofInput(err)
	}
	if err != nil {
		return nil, nil, err
	}
	view, err := f.viewFlags.open(s, verifier)
	return view, signer, err
}

// options read the fleet once.
func (v *fleetView) options(ctx context.Context, signer *signing.Signer, validity time.Duration) (gates.Options, error) {
	opts := gates.Options{Registry: v.registry, Verifier: v.verifier, Validity: validity, Now: time.Now()}
	if signer != nil {
		opts.Signer = signer
	}
	var err error
	if opts.Index, err = v.index(ctx); err != nil {
		return opts, err
	}
	opts.Reports, err = v.reports(ctx, opts.Index, true)
	return opts, err
}

type rolloutsResult struct {
	resultMeta
	Rollouts []gates.Result `json:"rollouts"`
}

// names are those that were given, or all.
func rolloutNames(index v1alpha1.FleetIndex, args []string) ([]string, error) {
	known := gates.Names(index)
	for _, name := range args {
		if !slices.Contains(known, name) {
			return nil, codef(exitcode.NotFound, "rollout %q is announced to no cluster; pinnace rollout status lists those that are", name)
		}
	}
	if len(args) > 0 {
		return args, nil
	}
	return known, nil
}

func newRolloutStatusCommand(s *session) *cobra.Command {
	var opts struct {
		viewFlags
		policy, key string
		output      output
	}
	cmd := &cobra.Command{
		Use:   "status [ROLLOUT...]",
		Short: "Show how rollouts stand",
		Long: `Show each rollout's ladder: its steps with how many clusters are done, at work, failed, waiting and absent, how much
may be unavailable, how long a step still bakes, and by name who holds it up.

It exits with 0 when all that is shown completed, or nothing is under way, and with 1 otherwise.`,
		Example: `  # All that are announced
  pinnace rollout status --registry registry.example.com/fleet --key cosign.pub

  # The fleet's own, as data
  pinnace rollout status fleet --fleet . --key cosign.pub -o json`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := opts.output.check(); err != nil {
				return err
			}
			verifier, err := loadVerifier(s, opts.policy, opts.key)
			if err != nil {
				return err
			}
			view, err := opts.open(s, verifier)
			if err != nil {
				return err
			}
			return showRollouts(cmd.Context(), s, view, args, opts.output)
		},
	}
	opts.register(cmd)
	cmd.Flags().StringVar(&opts.policy, "policy", "", "trust policy that index, plans and gates must satisfy")
	cmd.Flags().StringVar(&opts.key, "key", "", "public key that must have signed index, plans and gates")
	opts.output.register(cmd)
	return cmd
}

func showRollouts(ctx context.Context, s *session, view *fleetView, args []string, out output) error {
	with, err := view.options(ctx, nil, 0)
	if err != nil {
		return err
	}
	names, err := rolloutNames(with.Index, args)
	if err != nil {
		return err
	}
	var results []gates.Result
	for _, name := range names {
		result, err := gates.Look(ctx, name, with)
		if err != nil {
			return err
		}
		s.warnRefused(name, result)
		results = append(results, result)
	}
	if err := out.printAll(s.Out, rolloutViews(results)); err != nil {
		return err
	}
	return s.rolloutVerdict(results)
}

// warnRefused tells of what somebody pushed under a rollout's tags who may not speak for it.
func (s *session) warnRefused(name string, result gates.Result) {
	for _, refused := range result.Refused {
		s.message(markWarning, "rollout %s: %s; find out who may push to %s", name, refused, v1alpha1.RolloutRepository(name))
	}
}

// rolloutVerdict says in a line how all stand.
func (s *session) rolloutVerdict(results []gates.Result) error {
	if len(results) == 0 {
		s.message(markDone, "no rollout is announced")
		return nil
	}
	verdict, completed := "", true
	for i := range results {
		if i > 0 {
			verdict += "; "
		}
		verdict += rolloutLine(&results[i])
		completed = completed && results[i].Gate.Phase == v1alpha1.RolloutCompleted
	}
	if completed {
		s.message(markDone, "%s", verdict)
		return nil
	}
	return codef(exitcode.No, "%s", verdict)
}

func rolloutLine(result *gates.Result) string {
	text := fmt.Sprintf("rollout %s, plan %d: %s", result.Plan.Name, result.Plan.Plan, result.Gate.Phase)
	switch result.Gate.Phase {
	case v1alpha1.RolloutPending:
		return text + ": start it with pinnace rollout step"
	case v1alpha1.RolloutProgressing:
		text += " in step " + result.Plan.Steps[result.Gate.Step].Name
	case v1alpha1.RolloutBaking:
		text += fmt.Sprintf(": %s left", result.BakeLeft)
	}
	if result.Gate.Message != "" {
		text += ": " + result.Gate.Message
	}
	return text
}

// rolloutViews are the ladders, and who holds them up.
func rolloutViews(results []gates.Result) []view {
	ladder := view{
		data:    rolloutsResult{newResultMeta("Rollouts"), results},
		columns: columns("ROLLOUT", "PLAN", "STEP", "CLUSTERS", "DONE", "AT WORK", "FAILED", "WAITING", "ABSENT", "NOTE"),
	}
	stragglers := view{columns: columns("CLUSTER", "ROLLOUT", "STEP", "STANDING", "MESSAGE")}
	for i := range results {
		result := &results[i]
		for j, step := range result.Plan.Steps {
			count := result.Steps[j]
			if step.Clusters == 0 && count.Clusters == 0 {
				continue
			}
			ladder.rows = append(ladder.rows, []string{
				result.Plan.Name, strconv.FormatInt(result.Plan.Plan, 10), step.Name, strconv.Itoa(count.Clusters), strconv.Itoa(count.Done),
				strconv.Itoa(count.Admitted + count.Running), strconv.Itoa(count.Failed), strconv.Itoa(count.Waiting), strconv.Itoa(count.Absent),
				stepNote(result, j),
			})
		}
		ladder.names = append(ladder.names, "rollout/"+result.Plan.Name)
		for j, straggler := range result.Stragglers {
			if j == manyReady {
				stragglers.footer = fmt.Sprintf("… and %d more", len(result.Stragglers)-j)
				break
			}
			stragglers.rows = append(stragglers.rows, []string{straggler.Cluster, result.Plan.Name, straggler.Step, straggler.Standing, straggler.Message})
		}
	}
	if len(stragglers.rows) == 0 {
		return []view{ladder}
	}
	briefMessages([]view{stragglers})
	return []view{ladder, stragglers}
}

// stepNote says what is going on in a step.
func stepNote(result *gates.Result, step int) string {
	switch {
	case result.Gate.Phase == v1alpha1.RolloutPending && step == 0:
		return "not begun"
	case step != result.Gate.Step || result.Gate.Phase == v1alpha1.RolloutCompleted:
		if result.Plan.Steps[step].Approval && !result.Approved[result.Plan.Steps[step].Name] && step > result.Gate.Step {
			return "needs approval"
		}
		return ""
	case result.Gate.Phase == v1alpha1.RolloutBaking:
		return fmt.Sprintf("bakes for another %s", result.BakeLeft)
	case result.Gate.Phase == v1alpha1.RolloutProgressing:
		return fmt.Sprintf("%d of %d may be unavailable", result.Unavailable, result.MaxUnavailable)
	}
	return string(result.Gate.Phase)
}

func newRolloutStepCommand(s *session) *cobra.Command {
	var opts rolloutFlags
	var every time.Duration
	cmd := &cobra.Command{
		Use:   "step [ROLLOUT...]",
		Short: "Move rollouts on, as far as the reports allow",
		Long: `Read what clusters report, decide by each rollout's strategy, and write the next gate where there is something to
say. One gate lets thousands of clusters in. Run it in CI, by cron or with --every: it keeps nothing, may be killed at any
time, and another one that runs at the same moment is noticed. A gate is renewed before it expires, so run it at least
twice as often as gates last.`,
		Example: `  # All rollouts, once
  pinnace rollout step --registry registry.example.com/fleet --key cosign.key

  # Again and again
  pinnace rollout step --fleet . --key cosign.key --every 30s`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runRolloutStep(cmd.Context(), s, opts, every, args)
		},
	}
	opts.register(cmd)
	cmd.Flags().DurationVar(&every, "every", 0, "step again and again, with such a pause, until interrupted")
	return cmd
}

func runRolloutStep(ctx context.Context, s *session, opts rolloutFlags, every time.Duration, args []string) error {
	if every < 0 {
		return usagef("--every is a duration such as 30s")
	}
	view, signer, err := opts.open(ctx, s)
	if err != nil {
		return err
	}
	for {
		err := stepOnce(ctx, s, view, signer, opts, args)
		if every == 0 || ctx.Err() != nil {
			return err
		}
		if err != nil {
			s.message(markWarning, "%v; trying again in %s", err, every)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(every):
		}
	}
}

func stepOnce(ctx context.Context, s *session, view *fleetView, signer *signing.Signer, opts rolloutFlags, args []string) error {
	with, err := view.options(ctx, signer, opts.validity)
	if err != nil {
		return err
	}
	names, err := rolloutNames(with.Index, args)
	if err != nil {
		return err
	}
	var results []gates.Result
	var failed []error
	for _, name := range names {
		result, err := gates.Step(ctx, name, with)
		if errors.Is(err, gates.ErrConcurrent) {
			failed = append(failed, codef(exitcode.No, "%w", err))
			continue
		}
		if err != nil {
			failed = append(failed, err)
			continue
		}
		s.warnRefused(name, result)
		results = append(results, result)
		switch {
		case result.Renewed:
			s.message(markDone, "%s (gate %d, renewed)", rolloutLine(&result), result.Gate.Sequence)
		case result.Written:
			s.message(markDone, "%s (gate %d)", rolloutLine(&result), result.Gate.Sequence)
		default:
			s.message(markWaiting, "%s", rolloutLine(&result))
		}
	}
	if len(names) == 0 {
		s.message(markDone, "no rollout is announced")
	}
	return errors.Join(append(failed, opts.output.printAll(s.Out, rolloutViews(results)))...)
}

var actWords = map[rollout.Act]struct{ short, long, first, second string }{
	rollout.Pause: {
		"Let no further cluster begin", "Let no further cluster begin a rollout, until it is resumed. Clusters that began go on.",
		"# Hold on\n  pinnace rollout pause fleet --registry registry.example.com/fleet --key cosign.key",
		"# And say why\n  pinnace rollout pause bundle/shop --fleet . --key cosign.key -m 'the shop is busy'",
	},
	rollout.Resume: {
		"Let a paused rollout go on", "Let a paused rollout go on. Clusters on which it failed may try again.",
		"# Go on\n  pinnace rollout resume fleet --registry registry.example.com/fleet --key cosign.key",
		"# And say why\n  pinnace rollout resume fleet --fleet . --key cosign.key -m 'the image is there now'",
	},
	rollout.Abort: {
		"End a rollout; clusters go back as its strategy says",
		"End a rollout for good. Clusters that did not begin never do; those that did go back to what they had, or keep it, as\nonAbort of the strategy says. That needs nothing but the gate: what they had is on their disks.",
		"# Stop\n  pinnace rollout abort fleet --registry registry.example.com/fleet --key cosign.key",
		"# And say why\n  pinnace rollout abort source/apps --fleet . --key cosign.key -m 'wrong version'",
	},
}

func newRolloutActCommand(s *session, act rollout.Act) *cobra.Command {
	var opts rolloutFlags
	var message, by string
	words := actWords[act]
	cmd := &cobra.Command{
		Use: string(act) + " ROLLOUT", Short: words.short, Long: words.long,
		Example: "  " + words.first + "\n\n  " + words.second,
		Args:    arguments(1, 1, "one rollout"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			view, signer, err := opts.open(ctx, s)
			if err != nil {
				return err
			}
			with, err := view.options(ctx, signer, opts.validity)
			if err != nil {
				return err
			}
			result, err := gates.Do(ctx, args[0], act, by, message, with)
			if errors.Is(err, rollout.ErrNotNow) {
				return codef(exitcode.No, "%w", err)
			}
			if err != nil {
				return err
			}
			s.warnRefused(args[0], result)
			s.message(markDone, "%s (gate %d)", rolloutLine(&result), result.Gate.Sequence)
			return opts.output.printAll(s.Out, rolloutViews([]gates.Result{result}))
		},
	}
	opts.register(cmd)
	cmd.Flags().StringVarP(&message, "message", "m", "", "why, for the history")
	cmd.Flags().StringVar(&by, "by", userName(), "who, for the history")
	cmd.Flags().Lookup("by").DefValue = "your name"
	return cmd
}

// userName is who runs the program.
func userName() string {
	who, err := user.Current()
	if err != nil {
		return ""
	}
	return who.Username
}

func newRolloutApproveCommand(s *session) *cobra.Command {
	var opts rolloutFlags
	var step, trusted string
	cmd := &cobra.Command{
		Use:   "approve ROLLOUT",
		Short: "Approve a rollout's next step",
		Long: `Sign, with your own key, that a step of a rollout may begin: the next one that waits, or the one that --step names.
The approval is attached to the plan in the registry. It counts when the strategy lists your key; the step begins, at the
next pinnace rollout step, when as many approved as the strategy asks for.`,
		Example: `  # The step that waits
  pinnace rollout approve fleet --registry registry.example.com/fleet --key ann.key --trust cosign.pub

  # A later one, in advance
  pinnace rollout approve fleet --fleet . --key ann.key --policy trust.yaml --step rest`,
		Args: arguments(1, 1, "one rollout"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			verifier, err := loadVerifier(s, opts.policy, trusted)
			if err != nil {
				return err
			}
			signer, err := opts.sign.open(ctx, s)
			if err != nil {
				return err
			}
			view, err := opts.viewFlags.open(s, verifier)
			if err != nil {
				return err
			}
			state, err := gates.Read(ctx, view.registry, verifier, args[0])
			if err != nil {
				return err
			}
			approved, enough, err := gates.Approve(ctx, view.registry, signer, state, step)
			if err != nil {
				return err
			}
			if enough {
				s.message(markDone, "rollout %s, plan %d: step %s is approved", args[0], state.Plan.Plan, approved)
				return nil
			}
			s.message(markWaiting, "rollout %s, plan %d: step %s needs more approvals, by keys that the strategy lists", args[0], state.Plan.Plan, approved)
			return nil
		},
	}
	opts.viewFlags.register(cmd)
	opts.sign.register(cmd)
	cmd.Flags().StringVar(&opts.policy, "policy", "", "trust policy that plan and gate must satisfy")
	cmd.Flags().StringVar(&trusted, "trust", "", "public key that must have signed plan and gate")
	cmd.Flags().StringVar(&step, "step", "", "step to approve; the next one that waits when empty")
	return cmd
}

type rolloutHistory struct {
	resultMeta
	Rollout string                  `json:"rollout"`
	Events  []v1alpha1.RolloutEvent `json:"events"`
}

func newRolloutHistoryCommand(s *session) *cobra.Command {
	var opts struct {
		viewFlags
		policy, key string
		output      output
	}
	cmd := &cobra.Command{
		Use:   "history ROLLOUT",
		Short: "Show what happened in a rollout",
		Long:  "Show what happened in a rollout, of this plan and of those before it, as far as the gate remembers: its newest events.",
		Example: `  # The fleet's own
  pinnace rollout history fleet --registry registry.example.com/fleet --key cosign.pub

  # As data
  pinnace rollout history bundle/shop --fleet . --key cosign.pub -o yaml`,
		Args: arguments(1, 1, "one rollout"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := opts.output.check(); err != nil {
				return err
			}
			verifier, err := loadVerifier(s, opts.policy, opts.key)
			if err != nil {
				return err
			}
			fleet, err := opts.open(s, verifier)
			if err != nil {
				return err
			}
			state, err := gates.Read(cmd.Context(), fleet.registry, verifier, args[0])
			if err != nil {
				return err
			}
			if state.Plan == nil {
				return codef(exitcode.NotFound, "%s: %w", args[0], gates.ErrNoRollout)
			}
			result := rolloutHistory{resultMeta: newResultMeta("RolloutHistory"), Rollout: args[0]}
			if state.Gate != nil {
				result.Events = state.Gate.Events
			}
			v := view{data: result, columns: columns("AT", "PLAN", "PHASE", "BY", "WHAT")}
			for _, event := range result.Events {
				v.rows = append(v.rows, []string{
					event.At.UTC().Format(time.RFC3339), strconv.FormatInt(event.Plan, 10), string(event.Phase), event.By, event.Message,
				})
			}
			return opts.output.print(s.Out, v)
		},
	}
	opts.register(cmd)
	cmd.Flags().StringVar(&opts.policy, "policy", "", "trust policy that plan and gate must satisfy")
	cmd.Flags().StringVar(&opts.key, "key", "", "public key that must have signed plan and gate")
	opts.output.register(cmd)
	return cmd
}
