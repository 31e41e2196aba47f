package cli

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"pinnace.dev/pinnace/pkg/oci/signing/trustroot"
)

// defaultTrustValidity is how long a version of the trust root stays fresh.
const defaultTrustValidity = 365 * 24 * time.Hour

// trustChange is what init and rotate may say of a version.
type trustChange struct {
	trustFolder
	rootKeys   []string
	removeKeys []string
	threshold  int
	release    []string
	bundle     []string
	roles      []string
	expires    time.Duration
}

func (c *trustChange) register(cmd *cobra.Command) {
	c.trustFolder.register(cmd)
	flags := cmd.Flags()
	flags.StringArrayVar(&c.rootKeys, "root-key", nil, "file with the public key of somebody who decides; may be repeated")
	flags.IntVar(&c.threshold, "threshold", 0, "how many root keys must sign the next version")
	flags.StringArrayVar(&c.release, "release-key", nil, "public key that signs targets, rollouts and the fleet index; may be repeated")
	flags.StringArrayVar(&c.bundle, "bundle-key", nil, "public key that signs all bundles; may be repeated")
	flags.StringArrayVar(&c.roles, "role", nil, "another role: NAME=PATTERN[,PATTERN…]=KEYFILE[,KEYFILE…], such as platform=bundles/platform-*=ci.pub; may be repeated")
	flags.DurationVar(&c.expires, "expires-in", defaultTrustValidity, "how long the version stays fresh")
}

func newTrustInitCommand(s *session) *cobra.Command {
	var change trustChange
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Write the first version of a trust root",
		Long: `Write the first version of a trust root into a folder, to be signed. Its 1.root.json, once signed, is what agents begin
with: name it in spec.root.file of their trust policy.`,
		Example: `  # Two of three people decide; one key signs targets, another one bundles
  pinnace trust init --root-key ada.pub --root-key bo.pub --root-key cy.pub --threshold 2 --release-key release.pub --bundle-key ci.pub

  # The platform team's bundles have a key of their own
  pinnace trust init --root-key ada.pub --root-key bo.pub --threshold 2 --release-key release.pub --role 'platform=bundles/platform-*=platform.pub'`,
		Args: arguments(0, 0, "no argument"),
		RunE: func(*cobra.Command, []string) error { return runTrustInit(s, change) },
	}
	change.register(cmd)
	return cmd
}

func runTrustInit(s *session, change trustChange) error {
	folder, err := trustroot.OpenFolder(change.dir)
	if err != nil {
		return err
	}
	if folder.Last() != nil || folder.Draft != nil {
		return usagef("%s holds a trust root already; change it with pinnace trust rotate, or name another --dir", change.dir)
	}
	spec := trustroot.Spec{Threshold: 1}
	return s.nextTrust(folder, spec, change)
}

func newTrustRotateCommand(s *session) *cobra.Command {
	var change trustChange
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Write the next version of a trust root",
		Long: `Write the next version of a trust root, with keys added, replaced or removed, or only with a later expiry. It must be
signed by enough root keys of the version before and of its own.

--release-key, --bundle-key and --role replace the role's keys and patterns; what is not named stays. Agents that were
off follow all versions in between: never leave one out.`,
		Example: `  # Another key for releases; the one before is dead at the agents' next sync
  pinnace trust rotate --release-key release-2027.pub

  # Somebody joins those who decide, somebody leaves
  pinnace trust rotate --root-key dee.pub --remove-root-key ada.pub`,
		Args: arguments(0, 0, "no argument"),
		RunE: func(*cobra.Command, []string) error {
			folder, spec, err := change.last()
			if err != nil {
				return err
			}
			return s.nextTrust(folder, spec, change)
		},
	}
	change.register(cmd)
	cmd.Flags().StringArrayVar(&change.removeKeys, "remove-root-key", nil, "public key of somebody who decides no longer: a file, or the name that show prints; may be repeated")
	return cmd
}

func newTrustRevokeCommand(s *session) *cobra.Command {
	var change trustChange
	cmd := &cobra.Command{
		Use:   "revoke KEY",
		Short: "Write the next version of a trust root, without a key",
		Long: `Write the next version of a trust root in which a key may sign nothing. A role that would have too few keys left needs
another one: use rotate. The key is named by its public key's file, or as show prints it.`,
		Example: `  # A stolen CI key
  pinnace trust revoke ci.pub

  # By the name that show prints
  pinnace trust revoke 3fa2c01b`,
		Args: arguments(1, 1, "one key"),
		RunE: func(_ *cobra.Command, args []string) error {
			folder, spec, err := change.last()
			if err != nil {
				return err
			}
			removed := 0
			spec.Keys, removed = dropKey(spec.Keys, args[0], removed)
			for i := range spec.Roles {
				spec.Roles[i].Keys, removed = dropKey(spec.Roles[i].Keys, args[0], removed)
			}
			if removed == 0 {
				return usagef("key %s is in no role of version %d; see pinnace trust show", args[0], spec.Version)
			}
			return s.nextTrust(folder, spec, change)
		},
	}
	change.trustFolder.register(cmd)
	cmd.Flags().DurationVar(&change.expires, "expires-in", defaultTrustValidity, "how long the version stays fresh")
	return cmd
}

// last returns the newest version of the folder, which a new one is made from.
func (c *trustChange) last() (*trustroot.Folder, trustroot.Spec, error) {
	folder, err := c.open()
	if err != nil {
		return nil, trustroot.Spec{}, err
	}
	if folder.Last() == nil {
		return nil, trustroot.Spec{}, usagef("%s: version 1 has too few signatures yet; sign it first, or remove the folder and begin anew", c.dir)
	}
	spec, err := folder.Last().Spec()
	return folder, spec, err
}

// nextTrust writes the version after the one that spec describes, changed. A draft that was there is replaced: it was
// not in force anywhere.
func (s *session) nextTrust(folder *trustroot.Folder, spec trustroot.Spec, change trustChange) error {
	spec.Version++
	spec.Expires = time.Now().Add(change.expires)
	if change.threshold > 0 {
		spec.Threshold = change.threshold
	}
	for _, name := range change.removeKeys {
		var removed int
		if spec.Keys, removed = dropKey(spec.Keys, name, 0); removed == 0 {
			return usagef("--remove-root-key %s: it is no root key of version %d; see pinnace trust show", name, spec.Version-1)
		}
	}
	added, err := readPublicKeys(change.rootKeys)
	if err != nil {
		return err
	}
	spec.Keys = append(spec.Keys, added...)
	if err := change.setRoles(&spec); err != nil {
		return err
	}
	draft, err := trustroot.NewDraft(spec)
	if err != nil {
		return usagef("%w", err)
	}
	if err := folder.Save(draft); err != nil {
		return err
	}
	s.tellTrust(folder)
	return nil
}

// setRoles replaces the roles that flags name.
func (c *trustChange) setRoles(spec *trustroot.Spec) error {
	release, err := readPublicKeys(c.release)
	if err != nil {
		return err
	}
	bundle, err := readPublicKeys(c.bundle)
	if err != nil {
		return err
	}
	named := slices.DeleteFunc(trustroot.DefaultRoles(release, bundle), func(role trustroot.Role) bool { return len(role.Keys) == 0 })
	for _, text := range c.roles {
		parts := strings.Split(text, "=")
		if len(parts) != 3 {
			return usagef("--role %q: want NAME=PATTERN[,PATTERN…]=KEYFILE[,KEYFILE…]", text)
		}
		keys, err := readPublicKeys(strings.Split(parts[2], ","))
		if err != nil {
			return err
		}
		named = append(named, trustroot.Role{Name: parts[0], Paths: strings.Split(parts[1], ","), Keys: keys, Threshold: 1})
	}
	for _, role := range named {
		at := slices.IndexFunc(spec.Roles, func(other trustroot.Role) bool { return other.Name == role.Name })
		if at < 0 {
			spec.Roles = append(spec.Roles, role)
			continue
		}
		role.Threshold = min(spec.Roles[at].Threshold, len(role.Keys))
		spec.Roles[at] = role
	}
	return nil
}

func readPublicKeys(files []string) ([]string, error) {
	var keys []string
	for _, file := range files {
		data, err := readSmallFile(file)
		if err != nil {
			return nil, fmt.Errorf("public key: %w", err)
		}
		if _, err := trustroot.KeyID(string(data)); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		keys = append(keys, string(data))
	}
	return keys, nil
}

// dropKey removes a key that is named by its file or by the begin of its name.
func dropKey(keys []string, name string, removed int) ([]string, int) {
	id := name
	if data, err := readSmallFile(name); err == nil {
		if id, err = trustroot.KeyID(string(data)); err != nil {
			return keys, removed
		}
	}
	const enough = 8 // characters of a name that are not there by chance
	kept := slices.DeleteFunc(slices.Clone(keys), func(key string) bool {
		known, err := trustroot.KeyID(key)
		return err == nil && len(id) >= enough && strings.HasPrefix(known, id)
	})
	return kept, removed + len(keys) - len(kept)
}
