package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"pinnace.dev/pinnace/pkg/oci/signing/trustroot"
)

type trustSignOptions struct {
	trustFolder
	key          string
	passwordFile string
}

func newTrustSignCommand(s *session) *cobra.Command {
	var opts trustSignOptions
	cmd := &cobra.Command{
		Use:   "sign",
		Short: "Sign the next version of a trust root with a root key",
		Long: `Sign the newest version of a trust root that lacks signatures. Look at it first with show: whoever signs says that these
keys may sign for the whole fleet. Nothing is asked of any network.`,
		Example: `  # On a machine without a network, on a copy of the folder
  pinnace trust sign --dir /media/stick/trust --key ada.key

  # With a key in a KMS
  pinnace trust sign --key awskms:///alias/root`,
		Args: arguments(0, 0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error { return runTrustSign(cmd.Context(), s, opts) },
	}
	opts.register(cmd)
	cmd.Flags().StringVar(&opts.key, "key", "", "private root key: a file, env://VARIABLE, or a key in a KMS")
	cmd.Flags().StringVar(&opts.passwordFile, "password-file", "", "file with the key's password in its first line; COSIGN_PASSWORD when empty")
	return cmd
}

func runTrustSign(ctx context.Context, s *session, opts trustSignOptions) error {
	folder, err := opts.open()
	if err != nil {
		return err
	}
	if folder.Draft == nil {
		return usagef("%s: version %d has enough signatures, and there is no draft of the next; make one with pinnace trust rotate", opts.dir, folder.Last().Version())
	}
	if opts.key == "" {
		return usagef("name the root key with --key")
	}
	signer, err := s.openKey(ctx, opts.key, opts.passwordFile)
	if err != nil {
		return err
	}
	key, ok := signer.RawKey()
	if !ok {
		return usagef("a trust root is signed with keys, not by identities")
	}
	id, err := folder.Draft.Sign(key, folder.Last())
	if err != nil {
		return err
	}
	version := folder.Draft.Version()
	if err := folder.Save(folder.Draft); err != nil {
		return err
	}
	s.message(markDone, "version %d is signed by %s", version, id[:8])
	s.tellTrust(folder)
	return nil
}

func newTrustCombineCommand(s *session) *cobra.Command {
	var opts trustFolder
	cmd := &cobra.Command{
		Use:   "combine FOLDER…",
		Short: "Bring the signatures of copies of a trust root together",
		Long: `Add the signatures that copies of the folder carry to the folder's own draft. Copies that say something else are
refused.`,
		Example: `  # Back from two machines
  pinnace trust combine /media/ada/trust /media/bo/trust

  # Into another folder
  pinnace trust combine --dir fleet/trust /media/ada/trust`,
		Args: arguments(1, maxCopies, "the copies' folders"),
		RunE: func(_ *cobra.Command, args []string) error { return runTrustCombine(s, opts, args) },
	}
	opts.register(cmd)
	return cmd
}

// maxCopies is more than any threshold.
const maxCopies = 256

func runTrustCombine(s *session, opts trustFolder, copies []string) error {
	folder, err := opts.open()
	if err != nil {
		return err
	}
	if folder.Draft == nil {
		return usagef("%s: version %d has enough signatures already", opts.dir, folder.Last().Version())
	}
	draft := folder.Draft
	for _, dir := range copies {
		other, err := trustroot.OpenFolder(dir)
		if err != nil {
			return err
		}
		theirs := other.Draft
		if theirs == nil && int64(len(other.Versions)) >= draft.Version() {
			if theirs, err = trustroot.ParseDraft(other.Versions[draft.Version()-1].Documents()); err != nil {
				return err
			}
		}
		if theirs == nil {
			return usagef("%s: there is no version %d", dir, draft.Version())
		}
		if err := draft.Combine(theirs); err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
	}
	if err := folder.Save(draft); err != nil {
		return err
	}
	s.tellTrust(folder)
	return nil
}
