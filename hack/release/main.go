// Command release makes what is released: for each platform the binaries with an SBOM of what was linked into each, the
// checksums of all, and a provenance statement; with a key it signs the checksums as cosign sign-blob does, and the
// provenance as a DSSE envelope. With a repository, it pushes the agent's image for all platforms and signs it. The same commit gives the same binaries, SBOMs and checksums on every machine.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"pinnace.dev/pinnace/pkg/oci/signing"
)

var (
	programs  = []string{"pinnace", "pinnace-agent"}
	platforms = []string{"linux/amd64", "linux/arm64"}
)

type options struct {
	dir, version, commit, repository, key string
	platforms                             string

	image, roots string
	plainHTTP    bool
}

func main() {
	var opts options
	flag.StringVar(&opts.dir, "o", "dist", "folder to write to")
	flag.StringVar(&opts.version, "version", "dev", "version of the release")
	flag.StringVar(&opts.commit, "commit", "", "commit that is built")
	flag.StringVar(&opts.repository, "repository", "https://pinnace.dev/pinnace", "where the commit is")
	flag.StringVar(&opts.key, "key", "", "private key to sign with, in cosign's format; its password is in COSIGN_PASSWORD")
	flag.StringVar(&opts.image, "image", "", "repository to push the agent's image to, such as registry.example.com/tools/pinnace-agent")
	flag.StringVar(&opts.roots, "roots", "", "PEM file with the certificate authorities that the image trusts")
	flag.BoolVar(&opts.plainHTTP, "plain-http", false, "reach that registry by http, without TLS")
	flag.StringVar(&opts.platforms, "platforms", strings.Join(platforms, ","), "what to build for")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := release(ctx, opts)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func release(ctx context.Context, opts options) error {
	if err := os.MkdirAll(opts.dir, 0o755); err != nil {
		return err
	}
	var files []string
	for platform := range strings.SplitSeq(opts.platforms, ",") {
		for _, program := range programs {
			built, err := build(ctx, opts, program, platform)
			if err != nil {
				return fmt.Errorf("build %s for %s: %w", program, platform, err)
			}
			bom, err := writeSBOM(opts.dir, built, opts.version)
			if err != nil {
				return fmt.Errorf("SBOM of %s: %w", built, err)
			}
			files = append(files, built, bom)
		}
	}
	sums, err := checksums(opts.dir, files)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(opts.dir, sumsFile), sums, 0o644); err != nil {
		return err
	}
	statement, err := provenance(opts, sums)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(opts.dir, "provenance.json"), statement, 0o644); err != nil {
		return err
	}
	switch {
	case opts.key == "" && opts.image != "":
		return errors.New("an image is always signed: name a key with -key")
	case opts.key == "":
		fmt.Fprintln(os.Stderr, "not signed: name a key with -key")
		return nil
	}
	signer, err := loadSigner(opts.key)
	if err != nil {
		return err
	}
	if err := sign(ctx, opts, signer, sums, statement); err != nil || opts.image == "" {
		return err
	}
	reference, err := pushImage(ctx, opts, signer)
	if err != nil {
		return fmt.Errorf("push image: %w", err)
	}
	return os.WriteFile(filepath.Join(opts.dir, "image.txt"), []byte(reference+"\n"), 0o644)
}

const sumsFile = "SHA256SUMS"

// build returns the binary's name in the folder.
func build(ctx context.Context, opts options, program, platform string) (string, error) {
	system, machine, ok := strings.Cut(platform, "/")
	if !ok {
		return "", errors.New("want a platform such as linux/amd64")
	}
	name := program + "-" + system + "-" + machine
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X main.version="+opts.version,
		"-o", filepath.Join(opts.dir, name), "./cmd/"+program)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+system, "GOARCH="+machine)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
	}
	return name, nil
}

// checksums lists files as sha256sum does, sorted.
func checksums(dir string, files []string) ([]byte, error) {
	slices.Sort(files)
	var out bytes.Buffer
	for _, name := range files {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(data)
		fmt.Fprintf(&out, "%s  %s\n", hex.EncodeToString(sum[:]), name)
	}
	return out.Bytes(), nil
}

func loadSigner(file string) (*signing.Signer, error) {
	private, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	signer, err := signing.LoadSigner(private, []byte(os.Getenv("COSIGN_PASSWORD")))
	if err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	return signer, nil
}

func sign(ctx context.Context, opts options, signer *signing.Signer, sums, statement []byte) error {
	key, ok := signer.RawKey()
	if !ok {
		return errors.New("signing key: it is none")
	}
	signature, err := key.SignMessage(bytes.NewReader(sums))
	if err != nil {
		return fmt.Errorf("sign checksums: %w", err)
	}
	encoded := base64.StdEncoding.EncodeToString(signature)
	if err := os.WriteFile(filepath.Join(opts.dir, sumsFile+".sig"), []byte(encoded), 0o644); err != nil {
		return err
	}
	envelope, err := signer.SignEnvelope(ctx, intotoPayload, statement)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(opts.dir, "provenance.intoto.jsonl"), append(envelope, '\n'), 0o644)
}
