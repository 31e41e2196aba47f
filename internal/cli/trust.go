package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"pinnace.dev/pinnace/pkg/oci/signing/trustroot"
)

func newTrustCommand(s *session) *cobra.Command {
	return group("trust", "Say which keys may sign what, and change them without a visit",
		`Keep the fleet's trust root: which keys may sign what. It is two documents in the form of The Update Framework, root.json
and targets.json, signed by several people whose keys stay offline. Agents begin with the first root.json and follow
every later version by themselves, from any registry, mirror or medium: a version must be signed by enough keys of the
one before it. A key that a version leaves out is dead at the next sync.

init, rotate and revoke write the next version into a folder, without signatures. The folder is carried to each machine
with a root key, signed there, and the copies are combined; publish pushes what has enough signatures. Nothing in the
folder is secret.`,
		newTrustInitCommand(s), newTrustSignCommand(s), newTrustCombineCommand(s), newTrustRotateCommand(s),
		newTrustRevokeCommand(s), newTrustShowCommand(s), newTrustPublishCommand(s))
}

// trustFolder is the flag of all of them.
type trustFolder struct{ dir string }

func (f *trustFolder) register(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&f.dir, "dir", "d", "trust", "folder with the versions of the trust root")
	_ = cmd.MarkFlagDirname("dir")
}

// open reads the folder, which must hold something.
func (f *trustFolder) open() (*trustroot.Folder, error) {
	folder, err := trustroot.OpenFolder(f.dir)
	if err != nil {
		return nil, err
	}
	if folder.Last() == nil && folder.Draft == nil {
		return nil, usagef("%s: there is no trust root; make one with pinnace trust init, or name its folder with --dir", f.dir)
	}
	return folder, nil
}

// tell says what a version still needs.
func (s *session) tellTrust(folder *trustroot.Folder) {
	if folder.Draft == nil {
		s.message(markDone, "version %d has enough signatures; push it with: pinnace trust publish --dir %s --registry …", folder.Last().Version(), folder.Dir)
		return
	}
	for _, need := range folder.Draft.Needs(folder.Last()) {
		if left := need.Threshold - need.Have; left > 0 {
			s.message(markWaiting, "version %d needs %s more of the root keys of version %d: %s; sign with: pinnace trust sign --dir %s --key …",
				folder.Draft.Version(), count(left, "signature"), need.Version, strings.Join(need.Open, ", "), folder.Dir)
		}
	}
}

type trustVersion struct {
	Version   int64            `json:"version"`
	State     string           `json:"state"`
	Expires   time.Time        `json:"expires"`
	Keys      []string         `json:"keys"`
	Threshold int              `json:"threshold"`
	Roles     []trustRole      `json:"roles,omitempty"`
	Needs     []trustroot.Need `json:"needs,omitempty"`
}

type trustRole struct {
	Name      string   `json:"name"`
	Paths     []string `json:"paths"`
	Keys      []string `json:"keys"`
	Threshold int      `json:"threshold"`
}

type trustResult struct {
	resultMeta
	Versions []trustVersion `json:"versions"`
}

// describeTrust puts a version into words.
func describeTrust(spec trustroot.Spec, state string) (trustVersion, error) {
	ids := func(keys []string) ([]string, error) {
		out := make([]string, 0, len(keys))
		for _, key := range keys {
			id, err := trustroot.KeyID(key)
			if err != nil {
				return nil, err
			}
			out = append(out, id[:8])
		}
		return out, nil
	}
	out := trustVersion{Version: spec.Version, State: state, Expires: spec.Expires.UTC(), Threshold: spec.Threshold}
	var err error
	if out.Keys, err = ids(spec.Keys); err != nil {
		return out, err
	}
	for _, role := range spec.Roles {
		one := trustRole{Name: role.Name, Paths: role.Paths, Threshold: role.Threshold}
		if one.Keys, err = ids(role.Keys); err != nil {
			return out, err
		}
		out.Roles = append(out.Roles, one)
	}
	return out, nil
}

func trustView(versions []trustVersion) view {
	v := view{
		data:    trustResult{newResultMeta("TrustResult"), versions},
		columns: columns("VERSION", "STATE", "EXPIRES", "ROLE", "KEYS", "THRESHOLD", "MAY SIGN"),
	}
	for _, version := range versions {
		number, expires := fmt.Sprint(version.Version), version.Expires.Format(time.DateOnly)
		v.rows = append(v.rows, []string{
			number, version.State, expires, "root", strings.Join(version.Keys, ","),
			fmt.Sprintf("%d of %d", version.Threshold, len(version.Keys)), "the next version",
		})
		for _, role := range version.Roles {
			v.rows = append(v.rows, []string{
				number, version.State, expires, role.Name, strings.Join(role.Keys, ","),
				fmt.Sprintf("%d of %d", role.Threshold, len(role.Keys)), strings.Join(role.Paths, ","),
			})
		}
		v.names = append(v.names, "trust/v"+number)
	}
	return v
}
