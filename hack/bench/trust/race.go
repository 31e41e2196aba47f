package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"runtime"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"pinnace.dev/pinnace/hack/bench/figures"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
	"pinnace.dev/pinnace/pkg/oci/signing/evidence"
	"pinnace.dev/pinnace/pkg/oci/signing/signingtest"
)

// processRounds are many, since each is short: the median stands for a machine that does other things, too.
const processRounds = 61

// speeds are medians: verifications per second, and of the rounds' ratios.
type speeds struct{ ours, theirs, ratio float64 }

// clock is what a round is measured by.
type clock func() time.Duration

var started = time.Now()

func wall() time.Duration { return time.Since(started) }

// processor is the time that this process computed for, on all processors: without a network nothing else takes time.
func processor() time.Duration {
	var spent unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &spent); err != nil {
		panic(err) // every Linux has it
	}
	return time.Duration(spent.Nano())
}

// race verifies all artifacts in turns. A verifier that is new in each round remembers nothing.
func (c contest) race(ctx context.Context, all []artifact, rounds int, now clock, stock func(artifact) error) (speeds, error) {
	var ours, theirs, ratios []float64
	for round := range rounds + 1 {
		verifier, err := c.policy()
		if err != nil {
			return speeds{}, err
		}
		mine, err := perSecond(all, now, func(one artifact) error {
			_, err := verifier.Verify(ctx, one.repo, one.name, one.desc)
			return err
		})
		if err != nil {
			return speeds{}, fmt.Errorf("ours: %w", err)
		}
		other, err := perSecond(all, now, stock)
		if err != nil {
			return speeds{}, fmt.Errorf("stock: %w", err)
		}
		if round > 0 { // the first one opens connections
			ours, theirs, ratios = append(ours, mine), append(theirs, other), append(ratios, mine/other)
		}
	}
	return speeds{figures.Median(ours), figures.Median(theirs), figures.Median(ratios)}, nil
}

func perSecond(all []artifact, now clock, verify func(artifact) error) (float64, error) {
	runtime.GC() // what the other one left is not this one's
	before := now()
	for _, one := range all {
		if err := verify(one); err != nil {
			return 0, fmt.Errorf("%s: %w", one.reference(), err)
		}
	}
	return float64(len(all)) / (now() - before).Seconds(), nil
}

// inProcess compares the same with the artifacts in memory: against the stock library that gets the same, a repository and
// a digest, and against one that is handed what was found there and read before.
func (c contest) inProcess(ctx context.Context, signer *signing.Signer, stock *signingtest.Stock) error {
	all, err := signedBy(ctx, oci.NewMemory(), signer)
	if err != nil {
		return err
	}
	same, err := c.race(ctx, all, processRounds, processor, func(one artifact) error {
		found, err := c.find(ctx, one)
		if err != nil {
			return err
		}
		return c.verifyBare(ctx, stock, one, found)
	})
	if err != nil {
		return err
	}
	figures.Report("verify_"+c.name+"_in_process_per_second", same.ours, "1/s")
	figures.Report("verify_"+c.name+"_in_process_ratio", same.ratio, "ratio")

	kept := map[string]signature{}
	for _, one := range all {
		if kept[one.name], err = c.find(ctx, one); err != nil {
			return err
		}
	}
	handed, err := c.race(ctx, all, processRounds, processor, func(one artifact) error {
		return c.verifyBare(ctx, stock, one, kept[one.name])
	})
	if err != nil {
		return err
	}
	figures.Report("verify_"+c.name+"_in_process_handed_ratio", handed.ratio, "ratio")
	return nil
}

// signature is what the stock library verifies: a payload with its signature, or a sigstore bundle.
type signature struct{ payload, raw []byte }

// find reads an artifact's signature as any program must: what is named by tag or index, each digest checked.
func (c contest) find(ctx context.Context, one artifact) (signature, error) {
	var manifest ocispec.Manifest
	switch c.format {
	case evidence.FormatTag:
		_, data, err := oci.FetchTagged(ctx, one.repo, oci.SignatureTag(one.desc.Digest))
		if err != nil {
			return signature{}, err
		}
		if err := json.Unmarshal(data, &manifest); err != nil {
			return signature{}, err
		}
	default:
		referrers, err := oci.Referrers(ctx, one.repo, one.desc)
		if err != nil {
			return signature{}, err
		}
		if manifest, _, err = oci.ReadManifest(ctx, one.repo, referrers[0]); err != nil {
			return signature{}, err
		}
	}
	layer := manifest.Layers[0]
	payload, err := oci.ReadAll(ctx, one.repo, layer, oci.MaxManifest)
	if err != nil {
		return signature{}, err
	}
	raw, err := base64.StdEncoding.DecodeString(layer.Annotations["dev.cosignproject.cosign/signature"])
	return signature{payload, raw}, err
}

func (c contest) verifyBare(ctx context.Context, stock *signingtest.Stock, one artifact, found signature) error {
	if c.format == evidence.FormatTag {
		return stock.Signature(ctx, one.desc.Digest, found.payload, found.raw)
	}
	return stock.Bundle(one.desc.Digest, found.payload)
}
