package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"pinnace.dev/pinnace/internal/exitcode"
	"pinnace.dev/pinnace/pkg/oci/mirror"
	"pinnace.dev/pinnace/pkg/oci/mirror/medium"
)

type mirrorVerifyOptions struct {
	dirs   []string
	trust  mirrorTrust
	output output
}

type mirrorVerifyResult struct {
	resultMeta
	Stream   string           `json:"stream"`
	Sequence int64            `json:"sequence"`
	Signers  []string         `json:"signers"`
	Volumes  []volumeVerdict  `json:"volumes"`
	Refused  []mirror.Problem `json:"refused,omitempty"`
	Base     *medium.Base     `json:"base,omitempty"`
	LeftOut  int              `json:"leftOut"`
}

type volumeVerdict struct {
	Name  string `json:"name"`
	Size  int64  `json:"size"`
	Error string `json:"error,omitempty"`

	missing bool
}

func newMirrorVerifyCommand(s *session) *cobra.Command {
	var opts mirrorVerifyOptions
	cmd := &cobra.Command{
		Use:   "verify FOLDER...",
		Short: "Verify an export, without a network",
		Long: `Verify the folder of an export: the signature of its index, every byte of every volume, and the signatures of targets
and bundles that it carries whole. What an export left out because the site has it is checked by the import.

It exits with 6 when a signature does not suffice, and with 7 when a volume is damaged or missing.`,
		Example: `  # After burning
  pinnace mirror verify /media/dvd --policy trust.yaml

  # Volumes on several media
  pinnace mirror verify /media/dvd1 /media/dvd2 --public-key cosign.pub`,
		Args: arguments(1, maxReferences, "the folder of an export, or several"),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.dirs = args
			return runMirrorVerify(cmd.Context(), s, opts)
		},
	}
	opts.trust.register(cmd)
	opts.output.register(cmd)
	return cmd
}

func runMirrorVerify(ctx context.Context, s *session, opts mirrorVerifyOptions) error {
	if err := opts.output.check(); err != nil {
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
	index := m.Index()
	result := mirrorVerifyResult{
		resultMeta: newResultMeta("MirrorVerifyResult"), Stream: index.Stream, Sequence: index.Sequence, Signers: m.Signers(), Base: index.Base,
		LeftOut: len(index.Held),
	}
	for _, volume := range index.Volumes {
		result.Volumes = append(result.Volumes, volumeVerdict{Name: volume.Name, Size: volume.Size})
	}
	damaged := m.Verify(ctx, nil)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	for _, err := range damaged {
		volume := (*medium.VolumeError)(nil)
		for i := range result.Volumes {
			if errors.As(err, &volume) && volume.Volume == result.Volumes[i].Name {
				result.Volumes[i].Error, result.Volumes[i].missing = err.Error(), volume.Missing
			}
		}
	}
	if index.Content == medium.ContentFleet && len(damaged) == 0 && len(index.Held)+len(index.Kept) == 0 {
		if result.Refused, err = m.VerifySignatures(ctx, verifier); err != nil {
			return err
		}
	}
	if err := opts.output.print(s.Out, mirrorVerifyView(result)); err != nil {
		return err
	}
	s.tellProblems(result.Refused, nil, nil)
	switch {
	case len(damaged) > 0:
		return exitcode.With(exitcode.Damaged, errors.Join(damaged...))
	case len(result.Refused) > 0:
		return codef(exitcode.Refused, "%d artifacts are refused by the policy", len(result.Refused))
	}
	text := ""
	if len(index.Held) > 0 {
		text = fmt.Sprintf("; the %d blobs that it leaves out, and signatures, are checked by the import", len(index.Held))
	}
	s.message(markDone, "sequence %d of %s, signed by %s, is whole%s", index.Sequence, index.Stream, strings.Join(m.Signers(), ", "), text)
	return nil
}

func mirrorVerifyView(result mirrorVerifyResult) view {
	v := view{data: result, columns: columns("VOLUME", "SIZE", "VERDICT")}
	for _, volume := range result.Volumes {
		verdict := "whole"
		switch { // why, the error says
		case volume.missing:
			verdict = "missing"
		case volume.Error != "":
			verdict = "damaged"
		}
		v.rows = append(v.rows, []string{volume.Name, showBytes(volume.Size), verdict})
		v.names = append(v.names, volume.Name)
	}
	return v
}
