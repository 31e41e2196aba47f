package signing

import (
	"context"
	"errors"
	"fmt"
	"slices"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/internal/verified"
	"pinnace.dev/pinnace/pkg/oci/signing/evidence"
)

// Verify checks the manifest's signatures in repo against the policy. name is the repository's name relative to the
// fleet's prefix, which the rules match. A refusal is an [*Error]; any other error means that the signatures could not
// be read. It stops at the first signatures that suffice, and asks for nothing when this verifier accepted the digest
// there before.
func (v *Verifier) Verify(ctx context.Context, repo oci.Repository, name string, desc ocispec.Descriptor) (oci.Verified, error) {
	rules := v.current.Load()
	if rules.trustAll {
		return verified.New(desc, "unsafe: everything is trusted", nil, nil), nil
	}
	key := cacheKey{repo.String(), name, desc.Digest}
	if found, ok := rules.cache.get(key); ok {
		return verified.New(desc, found.rule, found.signers, found.evidence), nil
	}
	report, proof, err := rules.examine(ctx, repo, name, desc, false)
	if err != nil {
		return oci.Verified{}, fmt.Errorf("verify %s@%s: %w", repo, desc.Digest, err)
	}
	if refusal := report.Refusal(); refusal != nil {
		if rules.warn == nil {
			return oci.Verified{}, refusal
		}
		rules.warn(refusal)
		return verified.New(desc, "warn: "+refusal.Error(), nil, proof), nil
	}
	found := acceptance{rule: report.Rule, signers: report.Signers, evidence: proof}
	rules.cache.put(key, found)
	return verified.New(desc, found.rule, found.signers, found.evidence), nil
}

// Inspect looks at every signature and attestation, also at those that Verify needn't look at, and says why they count
// or don't. An error means that they could not be read; a refusal stands in the report.
func (v *Verifier) Inspect(ctx context.Context, repo oci.Repository, name string, desc ocispec.Descriptor) (Report, error) {
	rules := v.current.Load()
	if rules.trustAll {
		return Report{Repository: name, Digest: desc.Digest, Verified: true, Rule: "unsafe: everything is trusted"}, nil
	}
	report, _, err := rules.examine(ctx, repo, name, desc, true)
	if err != nil {
		return report, fmt.Errorf("verify %s@%s: %w", repo, desc.Digest, err)
	}
	return report, nil
}

// examine asks one set of rules after the other until one is satisfied; the last one's word is told otherwise.
func (v *rules) examine(ctx context.Context, repo oci.Repository, name string, desc ocispec.Descriptor, all bool) (Report, []oci.Attached, error) {
	for {
		report, proof, err := v.examineAlone(ctx, repo, name, desc, all)
		if err != nil || report.Verified || v.or == nil {
			return report, proof, err
		}
		v = v.or
	}
}

// examineAlone gathers proofs, place by place, and decides. all looks further than needed.
func (v *rules) examineAlone(ctx context.Context, repo oci.Repository, name string, desc ocispec.Descriptor, all bool) (Report, []oci.Attached, error) {
	report := Report{Repository: name, Digest: desc.Digest}
	rule := v.rule(name)
	if rule == nil {
		report.Reason, report.Message = NoRule, fmt.Sprintf("no rule of the trust policy matches; add one with match: %s", name)
		return report, nil, nil
	}
	report.Rule, report.Threshold = rule.match.text, rule.threshold
	if rule.unsigned {
		report.Verified, report.Threshold = true, 0
		return report, nil, nil
	}
	wanted := rule.wants
	if all {
		wanted = nil
	}
	reader := evidence.NewReader(repo, desc, wanted)
	tally := newTally(rule)
	places := []func(context.Context) ([]*evidence.Proof, error){reader.Tagged, reader.Referrers}
	// Referrers, the tag's manifest or that of a bundle, and the bundle: no verification asks more than three times.
	referrersFirst := !all && !v.cache.tagged(rule)
	if referrersFirst {
		slices.Reverse(places)
	}
	if all || len(rule.attestations) > 0 {
		places = append(places, reader.TaggedAttestations)
	}
	var unread []error // what could not be read hides nothing else
	asked := 0
	for _, place := range places {
		if !all && tally.done() {
			break
		}
		asked++
		proofs, err := place(ctx)
		if err != nil {
			unread = append(unread, err)
		}
		for _, proof := range proofs {
			if !all && tally.done() {
				break
			}
			finding, signer, err := rule.judge(ctx, proof)
			if err != nil {
				unread = append(unread, err)
				continue
			}
			tally.add(finding, signer, proof)
		}
	}
	if asked == 2 && tally.done() {
		v.cache.setTagged(rule, referrersFirst) // the next artifact's are there, too
	}
	tally.conclude(&report)
	// What was read decides, unless more may be there than could be read.
	if !report.Verified && len(unread) > 0 && (slices.ContainsFunc(unread, transient) || len(report.Findings) == 0) {
		return report, nil, fmt.Errorf("read signatures: %w", errors.Join(unread...))
	}
	return report, reader.Evidence(), nil
}

// transient says that another attempt may read what this one couldn't.
func transient(err error) bool {
	return !errors.Is(err, oci.ErrDamaged) && !errors.Is(err, oci.ErrTooLarge) && !errors.Is(err, oci.ErrNotFound)
}
