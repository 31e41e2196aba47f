package signing

import (
	"context"
	"errors"
	"slices"

	"pinnace.dev/pinnace/pkg/oci/signing/evidence"
)

// signer is who proved to have signed: the same one always has the same id.
type signer struct {
	id      string
	parties []int // of the rule, that it may stand for
}

// judge says who signed, and whether the rule names them. An error is one of transport.
func (r *rule) judge(ctx context.Context, proof *evidence.Proof) (Finding, *signer, error) {
	finding := Finding{Format: proof.Format, Manifest: proof.Manifest.Descriptor.Digest}
	if err := proof.Read(ctx); err != nil {
		if !errors.Is(err, evidence.ErrBroken) {
			return finding, nil, err
		}
		finding.Reason, finding.Message = SignatureBroken, err.Error()
		return finding, nil, nil
	}
	if predicate := proof.Predicate(); predicate != evidence.PredicateSign {
		finding.Predicate = predicate
	}
	if proof.Keyless() {
		return r.judgeCertificate(ctx, proof, finding)
	}
	return r.judgeKey(ctx, proof, finding)
}

func (r *rule) judgeKey(ctx context.Context, proof *evidence.Proof, finding Finding) (Finding, *signer, error) {
	finding.Reason, finding.Message = KeyNotTrusted, "signed by a key that the rule doesn't name"
	for i, party := range r.parties {
		if party.key == nil {
			continue
		}
		err := proof.ByKey(ctx, party.key)
		if err == nil {
			finding.Signer, finding.Reason, finding.Message = party.name, "", ""
			return finding, &signer{id: party.key.PEM(), parties: []int{i}}, nil
		}
		if !errors.Is(err, evidence.ErrOtherSigner) {
			finding.Reason, finding.Message = reasonOf(err), "signature by "+party.name+": "+err.Error()
			return finding, nil, nil
		}
	}
	return finding, nil, nil
}

func (r *rule) judgeCertificate(ctx context.Context, proof *evidence.Proof, finding Finding) (Finding, *signer, error) {
	finding.Reason, finding.Message = IdentityNotTrusted, "signed keyless, and the rule names keys only"
	var tried []*evidence.Root
	for _, one := range r.parties {
		if one.identity == nil || slices.Contains(tried, one.identity.root) {
			continue
		}
		tried = append(tried, one.identity.root)
		who, err := proof.ByCertificate(ctx, one.identity.root)
		if err != nil {
			finding.Reason, finding.Message = reasonOf(err), err.Error()
			continue
		}
		finding.Identity = who.String()
		found := &signer{id: who.String()}
		for i, party := range r.parties {
			if party.identity != nil && party.identity.root == one.identity.root && party.identity.matches(who) {
				found.parties = append(found.parties, i)
			}
		}
		if len(found.parties) == 0 {
			finding.Reason, finding.Message = IdentityNotTrusted, "signed by "+who.String()+", whom the rule doesn't name"
			return finding, nil, nil
		}
		finding.Signer, finding.Reason, finding.Message = r.parties[found.parties[0]].name, "", ""
		return finding, found, nil
	}
	return finding, nil, nil
}

func reasonOf(err error) Reason {
	switch {
	case errors.Is(err, evidence.ErrOtherSubject):
		return SignatureMismatch
	case errors.Is(err, evidence.ErrTransparency):
		return TransparencyMissing
	case errors.Is(err, evidence.ErrCertificate):
		return CertificateInvalid
	}
	return SignatureBroken
}
