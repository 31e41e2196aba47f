package signing_test

import (
	"testing"

	"pinnace.dev/pinnace/api/document"
	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci/signing"
)

// FuzzPolicy reads trust policies as people and machines write them; what is taken must never be without a rule.
func FuzzPolicy(f *testing.F) {
	const head = "apiVersion: pinnace.dev/v1alpha1\nkind: TrustPolicy\nspec:\n"
	for _, spec := range []string{
		"  rules: [{match: '**', signers: {keys: [{name: a, publicKey: x}]}}]\n",
		"  mode: warn\n  rules: [{match: targets/*, signers: {threshold: -1}}]\n",
		"  rules: [{match: '[', signers: {keyless: [{issuer: x, identityRegExp: '('}]}}]\n",
		"  root: {file: root.json, delegate: true}\n",
	} {
		f.Add([]byte(head + spec))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		policy, _, err := document.Decode[v1alpha1.TrustPolicy]("trust.yaml", data, v1alpha1.KindTrustPolicy)
		if err != nil {
			return
		}
		for i := range policy.Spec.Rules { // names of files are not for a fuzzer
			for k := range policy.Spec.Rules[i].Signers.Keys {
				policy.Spec.Rules[i].Signers.Keys[k].File = ""
			}
		}
		policy.Spec.TrustedRoot = ""
		verifier, err := signing.NewVerifier(policy, signing.Options{Dir: t.TempDir()})
		if err == nil && (verifier == nil || len(policy.Spec.Rules) == 0) {
			t.Error("a policy without rules was taken")
		}
	})
}

// FuzzEnvelope opens status reports' envelopes: nothing that the key didn't sign is opened.
func FuzzEnvelope(f *testing.F) {
	private, public, err := signing.GenerateKey(nil)
	if err != nil {
		f.Fatal(err)
	}
	signer, err := signing.LoadSigner(private, nil)
	if err != nil {
		f.Fatal(err)
	}
	envelope, err := signer.SignEnvelope(f.Context(), v1alpha1.MediaTypeStatus, []byte(`{"ready":true}`))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(envelope)
	f.Add([]byte(`{"payloadType":"` + v1alpha1.MediaTypeStatus + `","payload":"e30=","signatures":[]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		payload, err := signing.OpenEnvelope(public, v1alpha1.MediaTypeStatus, data)
		if err == nil && string(payload) != `{"ready":true}` {
			t.Errorf("opened %q, which nobody signed", payload)
		}
	})
}
