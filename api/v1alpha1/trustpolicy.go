package v1alpha1

// TrustPolicy says whose signatures count for which repository. It is a local file, never taken from the registry.
type TrustPolicy struct {
	TypeMeta `json:",inline"`
	Spec     TrustPolicySpec `json:"spec"`
}

// Policy modes.
const (
	PolicyEnforce = "enforce"
	PolicyWarn    = "warn"
)

type TrustPolicySpec struct {
	// Mode is "enforce" (default) or "warn": what would be refused is taken, and said loudly.
	Mode string `json:"mode,omitempty" jsonschema:"enum=enforce,enum=warn"`
	// Rules: the most specific pattern wins; no match is refused. They may be left out where a root of trust decides.
	Rules []TrustRule `json:"rules,omitempty"`
	// Root is the fleet's trust root, by which keys change without a visit.
	Root *RootOfTrust `json:"root,omitempty"`
	// TrustedRoot is a file in sigstore's trusted_root.json format for keyless signers that name none, and for
	// transparency of keys. Paths are relative to the policy.
	TrustedRoot string `json:"trustedRoot,omitempty"`
	// Transparency says whether signatures must be in a transparency log.
	Transparency Transparency `json:"transparency,omitempty"`
}

// ImageScheme begins patterns of rules for container images that bundles name: images://ghcr.io/acme/**.
const ImageScheme = "images://"

type TrustRule struct {
	// Match is a pattern over the repository relative to the fleet's prefix: * within a segment, ** across. One that
	// begins with images:// is over the repositories of container images that bundles name; as soon as there is one,
	// an image that no rule matches is refused.
	Match   string  `json:"match"`
	Signers Signers `json:"signers"`
	// Attestations must all be there, by signers of this rule.
	Attestations []Attestation `json:"attestations,omitempty"`
	// UnsafeAllowUnsigned takes container images without any signature, where Match begins with images://.
	UnsafeAllowUnsigned bool `json:"unsafeAllowUnsigned,omitempty"`
}

type Signers struct {
	// Threshold is how many different signers must have signed; 1 when zero. One key or identity counts once.
	Threshold int         `json:"threshold,omitempty"`
	Keys      []PublicKey `json:"keys,omitempty"`
	Keyless   []Identity  `json:"keyless,omitempty"`
}

type PublicKey struct {
	Name string `json:"name"`
	// PublicKey is PEM; File a path to PEM, relative to the policy. Exactly one is set.
	PublicKey string `json:"publicKey,omitempty"`
	File      string `json:"file,omitempty"`
}

// Identity is who a short-lived certificate was issued to, and by whose word.
type Identity struct {
	// Name appears in refusals and reports; the identity or its pattern when empty.
	Name string `json:"name,omitempty"`
	// Issuer is the OIDC issuer; IssuerRegExp a pattern that must match all of it. Exactly one is set.
	Issuer       string `json:"issuer,omitempty"`
	IssuerRegExp string `json:"issuerRegExp,omitempty"`
	// Identity is the certificate's subject: a workflow's URL or an email address; IdentityRegExp a pattern that must
	// match all of it, with or without ^ and $. Exactly one is set.
	Identity       string `json:"identity,omitempty"`
	IdentityRegExp string `json:"identityRegExp,omitempty"`
	// TrustedRoot is a file in sigstore's trusted_root.json format, relative to the policy; the policy's when empty.
	TrustedRoot string `json:"trustedRoot,omitempty"`
}

// Attestation is a signed statement about an artifact that must be there.
type Attestation struct {
	// Type is the predicate's, such as https://slsa.dev/provenance/v1.
	Type string `json:"type"`
	// Expression is CEL over predicate, the statement's content; it must be true. Any predicate will do when empty.
	Expression string `json:"expression,omitempty"`
}

// Transparency says whether signatures must be in a transparency log: "required" or "ignore".
type Transparency struct {
	// Keyless is "required" when empty; with "ignore", a signed timestamp must prove the time instead.
	Keyless string `json:"keyless,omitempty" jsonschema:"enum=required,enum=ignore"`
	// Keys is "ignore" when empty.
	Keys string `json:"keys,omitempty" jsonschema:"enum=required,enum=ignore"`
}

// Whether signatures must be in a transparency log.
const (
	TransparencyRequired = "required"
	TransparencyIgnore   = "ignore"
)
