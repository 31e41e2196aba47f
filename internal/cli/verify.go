package cli

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
)

type verifyOptions struct {
	reference string
	prefix    string
	policy    string
	key       string
	image     bool
	registry  registryFlags
	output    output
}

type verifyResult struct {
	resultMeta
	Reference string `json:"reference"`
	signing.Report
}

func newVerifyCommand(s *session) *cobra.Command {
	var opts verifyOptions
	cmd := &cobra.Command{
		Use:   "verify REFERENCE",
		Short: "Verify an artifact's signatures, and show which count and why",
		Long: `Verify the signatures of an artifact in a registry, by the trust policy that agents have, or by one public key.
Every signature and attestation is shown: who signed, and why one doesn't count. It exits with 6 when they don't suffice.
Nothing but the registry is asked: keys and trusted roots are files. A policy's root of trust (spec.root) is followed in
that registry first, as agents do.

A policy's rules match the repository's name below the fleet's prefix. The prefix is what stands before bundles/,
targets/ or fleet; name it with --prefix where that doesn't fit.`,
		Example: `  # What an agent would say
  pinnace verify registry.example.com/fleet/targets/factory-01:current --policy trust.yaml

  # By one key
  pinnace verify registry.example.com/fleet/bundles/shop@sha256:4c1e… --key cosign.pub

  # A container image, by the policy's rules that begin with images://
  pinnace verify ghcr.io/acme/app@sha256:9f2c… --policy trust.yaml --image`,
		Args: arguments(1, 1, "one reference"),
		RunE: func(cmd *cobra.Command, args []string) error {
			opts.reference = args[0]
			return runVerify(cmd.Context(), s, opts)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.policy, "policy", "", "trust policy, a TrustPolicy document")
	flags.StringVar(&opts.key, "key", "", "public key, PEM, that must have signed")
	flags.StringVar(&opts.prefix, "prefix", "", "the fleet's prefix: host[:port]/path")
	flags.BoolVar(&opts.image, "image", false, "the reference is a container image, for the policy's rules that begin with images://")
	opts.registry.register(cmd)
	opts.output.register(cmd)
	return cmd
}

func runVerify(ctx context.Context, s *session, opts verifyOptions) error {
	if err := opts.output.check(); err != nil {
		return err
	}
	place, err := opts.place(s)
	if err != nil {
		return err
	}
	inspect, err := opts.inspector(ctx, s, place)
	if err != nil {
		return err
	}
	desc, err := place.repo.Resolve(ctx, place.reference)
	if err != nil {
		return fmt.Errorf("resolve %s: %w", opts.reference, err)
	}
	report, enforced, err := inspect(ctx, place.repo, place.name, desc)
	if err != nil {
		return err
	}
	result := verifyResult{resultMeta: newResultMeta("VerifyResult"), Reference: opts.reference, Report: report}
	if err := opts.output.print(s.Out, verifyView(result)); err != nil {
		return err
	}
	refusal := report.Refusal()
	switch {
	case refusal == nil && report.Threshold == 0:
		s.message(markWarning, "rule %q of the policy takes it without any signature", report.Rule)
	case refusal == nil:
		s.message(markDone, "%s by rule %q: signed by %s", report.Digest, report.Rule, strings.Join(report.Signers, ", "))
	case !enforced:
		s.message(markWarning, "the policy's mode is warn: it would be taken, although: %v", refusal)
	default:
		return refusal
	}
	return nil
}

// verifyPlace is where an artifact is: name is the repository's as the policy's rules match it.
type verifyPlace struct {
	registry        oci.Registry
	repo            oci.Repository
	name, reference string
}

// place finds the repository. It does not touch the network.
func (o verifyOptions) place(s *session) (place verifyPlace, err error) {
	if o.image {
		host, repository, reference, err := takeApart(o.reference)
		if err != nil {
			return place, err
		}
		if place.registry, err = oci.OpenHost(host, o.registry.options(s)); err != nil {
			return place, ofInput(err)
		}
		place.name, place.reference = v1alpha1.ImageScheme+host+"/"+repository, reference
		place.repo, err = place.registry.Repository(repository)
		return place, ofInput(err)
	}
	var prefix string
	if prefix, place.name, place.reference, err = splitReference(o.reference, o.prefix); err != nil {
		return place, err
	}
	if place.registry, err = o.registry.open(s, prefix); err != nil {
		return place, err
	}
	place.repo, err = place.registry.Repository(place.name)
	return place, err
}

// inspector goes by the policy as agents do: a root of trust is followed in the registry first. Images are the business
// of the policy's own rules.
func (o verifyOptions) inspector(ctx context.Context, s *session, place verifyPlace) (
	func(ctx context.Context, repo oci.Repository, name string, desc ocispec.Descriptor) (report signing.Report, enforced bool, err error), error,
) {
	verifier := &mirrorVerifier{}
	var err error
	if o.policy != "" && o.key == "" {
		verifier, err = loadMirrorPolicy(s, o.policy)
	} else {
		verifier.local, err = loadVerifier(s, o.policy, o.key)
	}
	switch {
	case err != nil:
		return nil, err
	case verifier.rooted != nil && !o.image:
		return verifier.rooted.Inspect, verifier.Follow(ctx, place.registry)
	case verifier.local == nil:
		return nil, usagef("%s: it delegates everything to its root, which says nothing of images; add rules that begin with %s", o.policy, v1alpha1.ImageScheme)
	}
	return func(ctx context.Context, repo oci.Repository, name string, desc ocispec.Descriptor) (signing.Report, bool, error) {
		report, err := verifier.local.Inspect(ctx, repo, name, desc)
		return report, verifier.local.Enforces(), err
	}, nil
}

// verifyView has one row for each signature and attestation.
func verifyView(result verifyResult) view {
	v := view{
		data:    result,
		columns: columns("SIGNER", "COUNTS", "WHAT", "FORMAT", "WHY", "+MANIFEST"),
		names:   []string{result.Repository + "@" + result.Digest.String()},
	}
	for _, finding := range result.Findings {
		who := cmp.Or(finding.Signer, finding.Identity, "?")
		if finding.Identity != "" && finding.Signer != "" && finding.Signer != finding.Identity {
			who += " = " + finding.Identity
		}
		counts, why := "no", finding.Message
		if finding.Counts {
			counts = "yes"
		}
		if finding.Reason != "" {
			why = string(finding.Reason) + ": " + why
		}
		v.rows = append(v.rows, []string{
			who, counts, cmp.Or(finding.Predicate, "signature"), string(finding.Format), why, finding.Manifest.String(),
		})
	}
	return v
}

// loadVerifier takes a policy or a key: exactly one.
func loadVerifier(s *session, policyFile, keyFile string) (*signing.Verifier, error) {
	switch {
	case policyFile != "" && keyFile != "":
		return nil, usagef("--policy and --key exclude each other; give one")
	case keyFile != "":
		public, err := readSmallFile(keyFile)
		if err != nil {
			return nil, fmt.Errorf("public key: %w", err)
		}
		verifier, err := signing.NewKeyVerifier(filepath.Base(keyFile), public)
		if err != nil {
			return nil, usagef("public key %s: %w; name the .pub file of a key pair", keyFile, err)
		}
		return verifier, nil
	case policyFile != "":
		verifier, err := loadRules(s, policyFile)
		if err == nil && verifier.Rooted() {
			s.message(markWarning, "%s: this command goes by the policy's rules alone; its root (spec.root) is followed by agents, verify and mirror", policyFile)
		}
		return verifier, err
	}
	return nil, usagef("say whom to trust: --policy trust.yaml, or --key cosign.pub")
}

// loadRules reads a policy's own rules.
func loadRules(s *session, policyFile string) (*signing.Verifier, error) {
	verifier, err := signing.LoadPolicy(policyFile, signing.Options{
		Warn: func(refused *signing.Error) { s.message(markWarning, "%v", refused) },
	})
	return verifier, ofInput(err)
}

// splitReference takes host/path/name:tag or host/path/name@digest apart. Without a prefix, it ends before the last
// element that begins a repository of a fleet.
func splitReference(full, prefix string) (registry, name, reference string, err error) {
	rest := strings.TrimPrefix(full, "oci://")
	repository, reference, digested := strings.Cut(rest, "@")
	if !digested {
		if i := strings.LastIndexByte(rest, ':'); i > strings.LastIndexByte(rest, '/') {
			repository, reference = rest[:i], rest[i+1:]
		} else {
			reference = v1alpha1.TagCurrent
		}
	} else if i := strings.LastIndexByte(repository, ':'); i > strings.LastIndexByte(repository, '/') {
		repository = repository[:i] // name:tag@digest: the digest holds
	}
	if prefix != "" {
		prefix = strings.Trim(strings.TrimPrefix(prefix, "oci://"), "/")
		name, ok := strings.CutPrefix(repository, prefix+"/")
		if !ok {
			return "", "", "", usagef("%s is not below --prefix %s", full, prefix)
		}
		return prefix, name, reference, nil
	}
	elements := strings.Split(repository, "/")
	for i := len(elements) - 1; i >= 2; i-- {
		if fleetElement(elements, i) {
			return strings.Join(elements[:i], "/"), strings.Join(elements[i:], "/"), reference, nil
		}
	}
	return "", "", "", usagef("%s has none of bundles/…, targets/…, status/… and fleet below a prefix; name the prefix with --prefix", full)
}

func fleetElement(elements []string, i int) bool {
	switch elements[i] {
	case "bundles", "targets", "status":
		return i == len(elements)-2
	case v1alpha1.RepositoryFleet:
		return i == len(elements)-1
	}
	return false
}
