package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/hack/bench/figures"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
)

// memoryChild is the argument that makes this program verify and tell its memory, as an agent that has nothing else to
// do: ADDRESS of the registry, FOLDER with the policy, and how many bundles.
const memoryChild = "memory-child"

// bundles that an agent verifies at once: half of them signed by key, half as an identity.
const bundles = 150

// memory measures how much more an agent's memory grows while it verifies all bundles of a large target.
func (b *bench) memory(ctx context.Context) (err error) {
	remote, err := newSite()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remote.close()) }()
	all, err := push(ctx, remote.registry, bundles)
	if err != nil {
		return err
	}
	for i, one := range all {
		signer := b.key
		if i%2 == 1 {
			signer = b.identity
		}
		if _, err := signer.Sign(ctx, one.repo, one.desc); err != nil {
			return err
		}
	}
	for name, data := range map[string][]byte{
		"release.pub": b.key.PublicKey(), "trusted_root.json": b.sigstore.TrustedRoot, "trust.yaml": []byte(policyOfBoth),
	} {
		if err := os.WriteFile(filepath.Join(remote.dir, name), data, 0o600); err != nil {
			return err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self, memoryChild, remote.addr, remote.dir, strconv.Itoa(bundles))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return err
	}
	var idle, peak float64
	if _, err := fmt.Sscanf(string(out), "%f %f", &idle, &peak); err != nil {
		return fmt.Errorf("%q: %w", out, err)
	}
	figures.Report("verify_150_idle_mib", idle, "MiB")
	figures.Report("verify_150_peak_extra_mib", peak-idle, "MiB")
	return nil
}

const policyOfBoth = `apiVersion: pinnace.dev/v1alpha1
kind: TrustPolicy
spec:
  trustedRoot: trusted_root.json
  rules:
    - match: "**"
      signers:
        keys: [{name: release, file: release.pub}]
        keyless: [{name: ci, issuer: "` + issuer + `", identity: "` + subject + `"}]
`

// verifyInChild prints the resident memory before and the highest one while verifying, in MiB.
func verifyInChild(ctx context.Context, addr, dir, count string) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	reg, err := oci.Open(addr+"/fleet", oci.Options{PlainHTTP: true})
	if err != nil {
		return err
	}
	verifier, err := signing.LoadPolicy(filepath.Join(dir, "trust.yaml"), signing.Options{})
	if err != nil {
		return err
	}
	debug.FreeOSMemory()
	idle, err := status("VmRSS:")
	if err != nil {
		return err
	}
	// The highest one is counted from here on.
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0o600); err != nil {
		return err
	}
	for i := range n {
		name := v1alpha1.TargetRepository(fmt.Sprintf("cluster-%04d", i))
		repo, err := reg.Repository(name)
		if err != nil {
			return err
		}
		content := fmt.Appendf(nil, `{"cluster":"cluster-%04d"}`, i)
		desc := oci.Artifact{
			Type: v1alpha1.ArtifactTypeTarget, Layers: []oci.Blob{{MediaType: v1alpha1.MediaTypeTarget, Data: content}},
		}.Descriptor()
		if _, err := verifier.Verify(ctx, repo, name, desc); err != nil {
			return err
		}
	}
	peak, err := status("VmHWM:")
	if err != nil {
		return err
	}
	_, err = fmt.Printf("%f %f\n", idle, peak)
	return err
}

// status reads one line of /proc/self/status, in MiB.
func status(field string) (float64, error) {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, fmt.Errorf("memory is measured on Linux only: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, field); ok {
			kib, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 64)
			return kib / 1024, err
		}
	}
	return 0, fmt.Errorf("/proc/self/status has no %s", field)
}
