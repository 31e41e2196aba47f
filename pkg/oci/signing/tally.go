package signing

import (
	"fmt"
	"slices"
	"strings"

	"pinnace.dev/pinnace/pkg/oci/signing/evidence"
)

// tally counts, for one rule, who signed. It is pure: what is counted was checked before.
type tally struct {
	rule     *rule
	findings []Finding
	signers  []signer // different ones
	counted  []int    // parties that are met, in the rule's order
	met      []bool   // attestations
	refused  []string // why attestations that are there don't hold
}

func newTally(r *rule) *tally {
	return &tally{rule: r, met: make([]bool, len(r.attestations)), refused: make([]string, len(r.attestations))}
}

// done says that nothing further can change the verdict for the better.
func (t *tally) done() bool {
	return len(t.counted) >= t.rule.threshold && !slices.Contains(t.met, false)
}

func (t *tally) add(finding Finding, by *signer, proof *evidence.Proof) {
	switch {
	case by == nil:
	case finding.Predicate == "":
		finding = t.addSigner(finding, *by)
	default:
		finding = t.addAttestation(finding, proof)
	}
	t.findings = append(t.findings, finding)
}

func (t *tally) addSigner(finding Finding, by signer) Finding {
	if slices.ContainsFunc(t.signers, func(s signer) bool { return s.id == by.id }) {
		finding.Message = "the same signer again, which counts once"
		return finding
	}
	t.signers = append(t.signers, by)
	before := len(t.counted)
	t.counted = assign(t.signers, len(t.rule.parties))
	if finding.Counts = len(t.counted) > before; !finding.Counts {
		finding.Message = "another signer stands for that entry of the rule already"
	}
	return finding
}

func (t *tally) addAttestation(finding Finding, proof *evidence.Proof) Finding {
	for i, wanted := range t.rule.attestations {
		if wanted.predicate != finding.Predicate {
			continue
		}
		if err := wanted.refuses(proof.Statement().Predicate); err != nil {
			t.refused[i] = err.Error()
			if !finding.Counts {
				finding.Reason, finding.Message = AttestationRefused, err.Error()
			}
			continue
		}
		t.met[i] = true
		finding.Counts, finding.Reason, finding.Message = true, "", ""
	}
	return finding
}

// assign gives each signer at most one party and each party at most one signer, as many as possible, so that one who
// fits two entries of a rule counts once. It returns the parties that are met, in order.
func assign(signers []signer, parties int) []int {
	holder := make([]int, parties) // the signer that stands for a party, from 1
	var place func(who int, seen []bool) bool
	place = func(who int, seen []bool) bool {
		for _, party := range signers[who-1].parties {
			if seen[party] {
				continue
			}
			seen[party] = true
			if holder[party] == 0 || place(holder[party], seen) {
				holder[party] = who
				return true
			}
		}
		return false
	}
	for i := range signers {
		place(i+1, make([]bool, parties))
	}
	var met []int
	for party, who := range holder {
		if who > 0 {
			met = append(met, party)
		}
	}
	return met
}

// conclude writes the verdict: whether it is verified, and otherwise the reason and what mends it.
func (t *tally) conclude(report *Report) {
	report.Findings = t.findings
	for _, party := range t.counted {
		report.Signers = append(report.Signers, t.rule.parties[party].name)
	}
	mend := "sign it with " + t.rule.signers() + " (pinnace sign)"
	signatures := 0
	for _, finding := range t.findings {
		if finding.Predicate == "" {
			signatures++
		}
	}
	switch {
	case len(t.counted) >= t.rule.threshold:
		t.concludeAttestations(report)
	case len(t.counted) > 0:
		report.Reason = ThresholdNotMet
		report.Message = fmt.Sprintf("%d of %d needed signers (%s); sign it with another of %s (pinnace sign)",
			len(t.counted), t.rule.threshold, strings.Join(report.Signers, ", "), t.rule.signers())
	case signatures == 0:
		report.Reason, report.Message = SignatureMissing, mend
	default:
		worst := t.telling()
		report.Reason = worst.Reason
		report.Message = fmt.Sprintf("%s, none counts: %s; %s", count(signatures), worst.Message, mend)
	}
}

func count(signatures int) string {
	if signatures == 1 {
		return "1 signature"
	}
	return fmt.Sprintf("%d signatures", signatures)
}

func (t *tally) concludeAttestations(report *Report) {
	missing := slices.Index(t.met, false)
	if missing < 0 {
		report.Verified = true
		return
	}
	wanted := t.rule.attestations[missing]
	if why := t.refused[missing]; why != "" {
		report.Reason = AttestationRefused
		report.Message = fmt.Sprintf("attestation %s: %s; build it as the rule wants, or change the rule's expression", wanted.predicate, why)
		return
	}
	report.Reason = AttestationMissing
	report.Message = fmt.Sprintf("no attestation %s by %s; add one with cosign attest --type %[1]s", wanted.predicate, t.rule.signers())
}

// telling returns the signature whose reason says most: nearest to being right.
func (t *tally) telling() Finding {
	order := []Reason{KeyNotTrusted, IdentityNotTrusted, SignatureBroken, CertificateInvalid, TransparencyMissing, SignatureMismatch}
	var best Finding
	for _, finding := range t.findings {
		if finding.Predicate == "" && (best.Reason == "" || slices.Index(order, finding.Reason) > slices.Index(order, best.Reason)) {
			best = finding
		}
	}
	return best
}
