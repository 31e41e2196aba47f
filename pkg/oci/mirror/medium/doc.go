// Package medium keeps closures on removable media.
//
// [Export] writes a folder: volumes, each a tar that is an OCI layout by itself, and one signed [Index] that says what is
// in which volume at which byte, what was left out because the receiver has it, and how old the whole is. [Open] takes
// such folders and verifies the index; [Medium.Verify] checks every byte; [Import] brings it to a registry.
//
// Nothing on a medium is trusted but the index, once its signature is verified. Volumes are never unpacked: blobs are
// read at the places that the index names and hashed on the way.
package medium
