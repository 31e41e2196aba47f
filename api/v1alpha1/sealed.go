package v1alpha1

// Secret values in free data: a mapping with nothing but these two keys is one value that only its clusters may read.
//
//	password: {secret: true, value: hunter2}
//
// The publish seals it to the cluster's recipients. A text that was sealed before (pinnace seal) needs no mark.
const (
	SecretKey      = "secret"
	SecretValueKey = "value"
)

// SealedValues are values that only the cluster can read: an age file for the cluster's recipients. Fleet-wide nothing
// else of them is known than where they belong.
type SealedValues struct {
	// Paths are JSON pointers to where the values belong, in the order of the plaintext: /values/… of the release, or
	// /variables/NAME.
	Paths []string `json:"paths"`
	// ID is a keyed hash of the values, their binding and the recipients: a publish with the same one keeps the
	// ciphertext. Empty for what was sealed before the publish.
	ID string `json:"id,omitempty"`
	// Data is the age file.
	Data []byte `json:"data"`
}
