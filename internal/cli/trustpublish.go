package cli

import (
	"context"

	"github.com/spf13/cobra"

	"pinnace.dev/pinnace/pkg/oci/signing/trustroot"
)

type trustRemoteOptions struct {
	trustFolder
	prefix   string
	registry registryFlags
	output   output
}

func newTrustPublishCommand(s *session) *cobra.Command {
	var opts trustRemoteOptions
	cmd := &cobra.Command{
		Use:   "publish",
		Short: "Push the versions of a trust root to a registry",
		Long: `Push every version that has enough signatures to the repository trust below the prefix, each under v<n>, and move current
last. A version that agents may have followed is never replaced.`,
		Example: `  # Below the fleet's prefix
  pinnace trust publish --registry registry.example.com/fleet

  # Into a registry on loopback
  pinnace trust publish --registry 127.0.0.1:5000/fleet --plain-http`,
		Args: arguments(0, 0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error { return runTrustPublish(cmd.Context(), s, opts) },
	}
	opts.trustFolder.register(cmd)
	cmd.Flags().StringVar(&opts.prefix, "registry", "", "the fleet's prefix: host[:port]/path")
	opts.registry.register(cmd)
	return cmd
}

func runTrustPublish(ctx context.Context, s *session, opts trustRemoteOptions) error {
	folder, err := opts.open()
	if err != nil {
		return err
	}
	if folder.Last() == nil {
		s.tellTrust(folder)
		return usagef("%s: no version has enough signatures yet", opts.dir)
	}
	if opts.prefix == "" {
		return usagef("name the fleet's prefix with --registry")
	}
	registry, err := opts.registry.open(s, opts.prefix)
	if err != nil {
		return err
	}
	pushed, err := trustroot.Publish(ctx, registry, folder.Versions)
	if err != nil {
		return err
	}
	if len(pushed) == 0 {
		s.message(markDone, "nothing to push: %s has version %d", registry, folder.Last().Version())
	} else {
		s.message(markDone, "%s has version %d; agents follow it before they take their next target", registry, folder.Last().Version())
	}
	if folder.Draft != nil {
		s.tellTrust(folder)
	}
	return nil
}

func newTrustShowCommand(s *session) *cobra.Command {
	var opts trustRemoteOptions
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show who may sign what, and which signatures are missing",
		Long: `Show the versions of a trust root: the root keys, the roles and what they may sign, and for a draft who has signed and
who can still. With --registry, those that were published, each verified by the one before.`,
		Example: `  # What is to be signed
  pinnace trust show --dir /media/stick/trust

  # What agents follow
  pinnace trust show --registry registry.example.com/fleet -o yaml`,
		Args: arguments(0, 0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error { return runTrustShow(cmd.Context(), s, opts) },
	}
	opts.trustFolder.register(cmd)
	cmd.Flags().StringVar(&opts.prefix, "registry", "", "show what is published below this prefix, instead of a folder")
	opts.registry.register(cmd)
	opts.output.register(cmd)
	return cmd
}

func runTrustShow(ctx context.Context, s *session, opts trustRemoteOptions) error {
	if err := opts.output.check(); err != nil {
		return err
	}
	folder := &trustroot.Folder{Dir: opts.dir}
	if opts.prefix == "" {
		var err error
		if folder, err = opts.open(); err != nil {
			return err
		}
	} else {
		registry, err := opts.registry.open(s, opts.prefix)
		if err != nil {
			return err
		}
		if folder.Versions, err = trustroot.Fetch(ctx, registry); err != nil {
			return err
		}
	}
	var versions []trustVersion
	for i, trust := range folder.Versions {
		spec, err := trust.Spec()
		if err != nil {
			return err
		}
		state := "superseded"
		if i == len(folder.Versions)-1 {
			state = "signed"
		}
		version, err := describeTrust(spec, state)
		if err != nil {
			return err
		}
		versions = append(versions, version)
	}
	if folder.Draft != nil {
		spec, err := folder.Draft.Spec()
		if err != nil {
			return err
		}
		version, err := describeTrust(spec, "draft")
		if err != nil {
			return err
		}
		version.Needs = folder.Draft.Needs(folder.Last())
		versions = append(versions, version)
	}
	if err := opts.output.print(s.Out, trustView(versions)); err != nil {
		return err
	}
	if folder.Draft != nil {
		s.tellTrust(folder)
	}
	return nil
}
