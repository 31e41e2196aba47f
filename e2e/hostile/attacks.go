package hostile

import "slices"

// Attacks is the whole table.
func Attacks() []Attack {
	return slices.Concat(signatureAttacks(), targetAttacks(), documentAttacks(), bundleAttacks(), archiveAttacks(), byteAttacks(), networkAttacks(), secretAttacks())
}
