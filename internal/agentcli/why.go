package agentcli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/agent"
)

func newWhyCommand(s *session) *cobra.Command {
	var file, output string
	cmd := &cobra.Command{
		Use:   "why BUNDLE",
		Short: "Explain why a bundle is in the state that it is in",
		Long: `Ask the agent that runs here why a bundle is in the state that it is in: the target and who signed it, the version
that is wanted and the one that runs, what holds a new one back (window, gate, dependency, a failure that was rolled
back), health, drift, and when what failed is tried again.`,
		Example: `  pinnace-agent why shop

  # From outside of the cluster
  kubectl -n pinnace-system exec deploy/pinnace-agent -- /pinnace-agent why shop`,
		Args: exactly(1, "the bundle"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "text" && output != "json" {
				return usagef("-o %q is not known; use text or json", output)
			}
			var explanation agent.Explanation
			err := s.ask(cmd.Context(), file, http.MethodGet, "/v1/bundles/"+url.PathEscape(args[0]), nil, &explanation)
			if err != nil {
				return err
			}
			if output == "json" {
				return printJSON(s.Out, explanation)
			}
			return printWhy(s.Out, explanation, time.Now())
		},
	}
	adminFlag(cmd, &file)
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return cmd
}

func newStatusCommand(s *session) *cobra.Command {
	var file, output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "List the bundles of this cluster and how they stand",
		Long: `Ask the agent that runs here how every bundle stands. The same is in kubectl get bundledeployments; this asks the
agent itself, also when the API server doesn't answer.`,
		Example: `  pinnace-agent status

  # For scripts
  pinnace-agent status --config agent.yaml -o json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "table" && output != "json" {
				return usagef("-o %q is not known; use table or json", output)
			}
			return s.status(cmd.Context(), file, output)
		},
	}
	adminFlag(cmd, &file)
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
}

func (s *session) status(ctx context.Context, file, output string) error {
	var overview agent.Overview
	if err := s.ask(ctx, file, http.MethodGet, "/v1/status", nil, &overview); err != nil {
		return err
	}
	if output == "json" {
		return printJSON(s.Out, overview)
	}
	report := overview.Report
	heading := fmt.Sprintf("%s/%s: no target is in force", report.Fleet, report.Cluster)
	if report.Target.Generation > 0 {
		heading = fmt.Sprintf("%s/%s: target generation %d", report.Fleet, report.Cluster, report.Target.Generation)
	}
	if report.Target.Stale {
		heading += ", which has expired"
	}
	heading += fmt.Sprintf("; a registry answered %s ago", span(overview.Contact))
	if report.Problem != nil {
		heading += "\nthe newest target was not taken: " + report.Problem.Message
	}
	if overview.Suspended.All != nil {
		heading += "\neverything is suspended since " + overview.Suspended.All.Format(time.RFC3339)
	}
	if _, err := fmt.Fprintln(s.Out, heading); err != nil {
		return err
	}
	return s.print(agent.Result{Report: report}, output)
}

// line is one of an explanation: what it is about, and what there is to say.
type line struct{ about, text string }

// printWhy prints an explanation in plain lines.
func printWhy(out io.Writer, e agent.Explanation, now time.Time) error {
	lines := []line{{"bundle", fmt.Sprintf("%s is %s (%s) since %s", e.Bundle, e.State, e.Reason, ago(e.Since, now))}}
	say := func(about, format string, args ...any) {
		lines = append(lines, line{about, fmt.Sprintf(format, args...)})
	}
	if e.Message != "" {
		say("", "%s", e.Message)
	}
	whyTarget(e, now, say)
	whyVersions(e, say)
	whyHeld(e, now, say)
	for _, dependency := range e.DependsOn {
		if dependency.Satisfied {
			say("depends on", "%s, which is ready", dependency.Bundle)
		} else {
			say("depends on", "%s, which is %s (%s)", dependency.Bundle, dependency.State, dependency.Reason)
		}
	}
	text := fmt.Sprintf("%d of %d objects are ready", e.Ready, e.Objects)
	if e.Deadline != nil {
		text += fmt.Sprintf("; the others have until %s", until(*e.Deadline, now))
	}
	say("health", "%s", text)
	for _, problem := range e.Problems {
		say("", "%s", describe(problem))
	}
	switch {
	case e.Drift == v1alpha1.DriftOff:
		say("drift", "is not looked for: the bundle's drift mode is off")
	case len(e.Drifted) == 0:
		say("drift", "none that is left as it is (mode %s)", e.Drift)
	default:
		for i, text := range e.Drifted[:min(len(e.Drifted), v1alpha1.MaxProblems)] {
			say([]string{"drift", ""}[min(i, 1)], "%s", text)
		}
	}
	if e.Attempts > 0 && e.RetryAt != nil {
		say("tried", "%d times in a row without success; again %s", e.Attempts, until(*e.RetryAt, now))
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, one := range lines {
		if _, err := fmt.Fprintf(table, "%s\t%s\n", one.about, strings.ReplaceAll(one.text, "\n", "; ")); err != nil {
			return err
		}
	}
	return table.Flush()
}

func whyTarget(e agent.Explanation, now time.Time, say func(about, format string, args ...any)) {
	target := e.Target
	if target.Digest == "" {
		say("target", "none is in force")
	} else {
		expires := "fresh until " + target.Expires.Format(time.RFC3339)
		if target.Stale {
			expires = "expired at " + target.Expires.Format(time.RFC3339) + ", and is enforced all the same"
		}
		say("target", "generation %d, %s", target.Generation, target.Digest)
		say("", "signed by %s; taken %s; %s", orNobody(target.Signers), ago(target.Taken, now), expires)
	}
	if target.Newest > 0 {
		say("", "generation %d was accepted already; it comes into force when all of its bundles are here", target.Newest)
	}
	if e.Problem != "" {
		say("refused", "a newer target: %s", e.Problem)
	}
	say("registry", "answered %s ago", span(e.Contact))
}

func whyVersions(e agent.Explanation, say func(about, format string, args ...any)) {
	if e.Wanted == nil {
		say("wanted", "nothing: the bundle left the target and is removed")
	} else {
		say("wanted", "%s of %s, from source %s, by generation %d", e.Wanted.Digest, e.Wanted.Repository, e.Wanted.Source, e.Wanted.Generation)
	}
	switch {
	case e.Runs == nil:
		say("runs", "nothing yet")
	case e.Wanted != nil && e.Runs.Digest == e.Wanted.Digest && !e.Runs.Incomplete:
		say("runs", "that, in namespace %s", e.Runs.Namespace)
	default:
		text := fmt.Sprintf("%s of generation %d, in namespace %s", e.Runs.Digest, e.Runs.Generation, e.Runs.Namespace)
		if e.Runs.Incomplete {
			text += "; its apply has not come to its end"
		}
		say("runs", "%s", text)
	}
	if e.LastGood == "" {
		say("last good", "none yet")
	} else {
		say("last good", "%s", e.LastGood)
	}
	if e.Failed != nil {
		say("rolled back", "%s of generation %d at %s: %s", e.Failed.Digest, e.Failed.Generation, e.Failed.At.Format(time.RFC3339), e.Failed.Message)
	}
}

func whyHeld(e agent.Explanation, now time.Time, say func(about, format string, args ...any)) {
	if e.Suspended {
		say("suspended", "nothing is applied and drift is not corrected until pinnace-agent resume")
	}
	switch {
	case e.Held == "":
		say("held back", "no")
	case e.Until != nil:
		say("held back", "%s: %s (%s)", e.Held, e.HeldWhy, until(*e.Until, now))
	default:
		say("held back", "%s: %s", e.Held, e.HeldWhy)
	}
}

func describe(problem v1alpha1.Problem) string {
	text := problem.Reason
	if problem.Object != "" {
		text = problem.Object + ": " + text
	}
	if problem.Message != "" {
		text += ": " + problem.Message
	}
	return text
}

func orNobody(names []string) string {
	if len(names) == 0 {
		return "nobody that the policy asks for"
	}
	return strings.Join(names, ", ")
}

func ago(then, now time.Time) string {
	return fmt.Sprintf("%s (%s ago)", then.Format(time.RFC3339), span(now.Sub(then)))
}

func until(then, now time.Time) string {
	if !then.After(now) {
		return "now"
	}
	return fmt.Sprintf("%s, in %s", then.Format(time.RFC3339), span(then.Sub(now)))
}

// span is a duration as people say it: to the second below a minute, then to the minute.
func span(d time.Duration) string {
	unit := time.Second
	if d >= time.Hour {
		unit = time.Minute
	}
	text := max(d, 0).Round(unit).String()
	if unit == time.Minute {
		text = strings.TrimSuffix(text, "0s")
	}
	return text
}

func printJSON(out io.Writer, value any) error {
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}
