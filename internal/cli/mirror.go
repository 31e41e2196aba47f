package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"pinnace.dev/pinnace/internal/exitcode"
	"pinnace.dev/pinnace/pkg/oci/mirror"
)

func newMirrorCommand(s *session) *cobra.Command {
	return group("mirror", "Copy what clusters need to another registry, directly or over a medium",
		`Copy what clusters need to another registry: their targets, the bundles that these name, the container images that
those name, and the signatures, attestations and SBOMs of all. What that is follows from what is signed; there is no
list to keep.

Where a link exists, sync copies from registry to registry. Where none does, export writes a folder for a medium and
import brings it in; have.json, or the receipt of the last import, makes the next export small.`,
		newMirrorPlanCommand(s), newMirrorSyncCommand(s), newMirrorHaveCommand(s), newMirrorExportCommand(s),
		newMirrorVerifyCommand(s), newMirrorImportCommand(s), newMirrorPruneCommand(s), newMirrorHostsCommand(s))
}

// mirrorReport is printed by sync and import.
type mirrorReport struct {
	resultMeta
	*mirror.Report
	Stream   string   `json:"stream,omitempty"`
	Sequence int64    `json:"sequence,omitempty"`
	Damaged  []string `json:"damagedVolumes,omitempty"`
	Waiting  []string `json:"waitingVolumes,omitempty"`
	// What the closure itself says.
	Refused  []mirror.Problem `json:"refused,omitempty"`
	Missing  []mirror.Problem `json:"missing,omitempty"`
	Resolved []mirror.Problem `json:"resolved,omitempty"`
}

func (r *mirrorReport) view() view {
	v := view{data: r, columns: columns("KIND", "ARTIFACT", "ACTION", "SENT", "DIGEST", "MESSAGE", "+SIGNERS", "+WHY")}
	for _, artifact := range r.Artifacts {
		if artifact.Action == mirror.Skipped {
			continue
		}
		name := artifact.Repository
		if artifact.Reference != "" {
			name = artifact.Reference
		}
		v.rows = append(v.rows, []string{
			string(artifact.Kind), name, string(artifact.Action), showBytes(artifact.Bytes), shortDigest(artifact.Digest.String()),
			artifact.Error, strings.Join(artifact.Signers, ","), strings.Join(artifact.Why, "; "),
		})
		v.names = append(v.names, artifact.Repository+"@"+artifact.Digest.String())
	}
	return v
}

// incomplete is the error of a copy of which a part failed.
func (r *mirrorReport) incomplete() error {
	if r.Complete() && len(r.Refused)+len(r.Missing)+len(r.Waiting) == 0 {
		return nil
	}
	var what []string
	if n := r.Count(mirror.Failed); n > 0 {
		what = append(what, fmt.Sprintf("%d of %s failed", n, count(len(r.Artifacts), "artifact")))
	}
	if n := len(r.Held); n > 0 {
		what = append(what, count(n, "tag")+" not moved")
	}
	if n := len(r.Refused); n > 0 {
		what = append(what, fmt.Sprintf("%d refused by the policy", n))
	}
	if n := len(r.Missing); n > 0 {
		what = append(what, fmt.Sprintf("%d could not be read", n))
	}
	if len(r.Damaged) > 0 {
		what = append(what, "damaged: "+strings.Join(r.Damaged, ", ")+"; make them again with: pinnace mirror export --repair")
	}
	if len(r.Waiting) > 0 {
		what = append(what, "still needed: "+strings.Join(r.Waiting, ", "))
	}
	text := strings.Join(what, ", ")
	if r.Err != nil {
		return codef(exitcode.Partial, "%s; the first: %w", text, r.Err)
	}
	return codef(exitcode.Partial, "%s", text)
}

// tell says what was done, and what people should know.
func (s *session) tell(r *mirrorReport, verb string) {
	for _, held := range r.Held {
		s.message(markWarning, "%s is not moved: %s", held.Subject, held.Message)
	}
	s.tellProblems(r.Refused, r.Missing, r.Resolved)
	if r.Complete() && r.Count(mirror.Skipped) == len(r.Artifacts) && len(r.Moved)+len(r.Waiting)+len(r.Refused)+len(r.Missing) == 0 {
		s.message(markDone, "nothing to do: the receiver has all %s", count(len(r.Artifacts), "artifact"))
		return
	}
	mark := markDone
	if !r.Complete() {
		mark = markWarning
	}
	s.message(mark, "%s %s of %s in %s: %s and %s; %s there before; %s moved", verb, showBytes(r.Bytes),
		count(len(r.Artifacts)-r.Count(mirror.Skipped), "artifact"), shortSeconds(r.Seconds), count(r.Sent, "blob")+" sent",
		count(r.Mounted, "blob")+" mounted", count(r.Count(mirror.Skipped), "artifact"), count(len(r.Moved), "tag"))
}

// maxProblems bounds what a table's reader is told; -o json has all.
const maxProblems = 10

func (s *session) tellProblems(refused, missing, resolved []mirror.Problem) {
	for _, list := range []struct {
		problems []mirror.Problem
		verb     string
	}{{refused, "refused"}, {missing, "could not be read"}, {resolved, "note"}} {
		for i, problem := range list.problems {
			if i == maxProblems {
				s.message(markWarning, "%d more %s; -o json shows all", len(list.problems)-i, list.verb)
				break
			}
			s.message(markWarning, "%s: %s: %s", list.verb, problem.Subject, problem.Message)
		}
	}
}

func shortSeconds(seconds float64) string {
	if seconds < 10 {
		return fmt.Sprintf("%.1f s", seconds)
	}
	return fmt.Sprintf("%.0f s", seconds)
}
