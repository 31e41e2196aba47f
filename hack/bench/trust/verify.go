package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"pinnace.dev/pinnace/hack/bench/figures"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/registrytest"
	"pinnace.dev/pinnace/pkg/oci/signing"
	"pinnace.dev/pinnace/pkg/oci/signing/evidence"
	"pinnace.dev/pinnace/pkg/oci/signing/signingtest"
)

// How much is verified: each round verifies every artifact once by us and once by the stock library, in turn.
const (
	verified = 60
	rounds   = 9
)

// contest is one way of signing, verified by us and by the stock library.
type contest struct {
	name   string
	signer func() (*signing.Signer, error)
	policy func() (*signing.Verifier, error)
	stock  func() (*signingtest.Stock, error)
	format evidence.Format
}

func (b *bench) contests() []contest {
	byKey := func() (*signingtest.Stock, error) { return signingtest.StockByKey(b.key.PublicKey()) }
	return []contest{
		{
			"key", func() (*signing.Signer, error) { return b.in(evidence.FormatTag) }, b.keyPolicy, byKey, evidence.FormatTag,
		}, {
			"keyless", func() (*signing.Signer, error) { return b.identity, nil }, b.identityPolicy,
			func() (*signingtest.Stock, error) {
				return signingtest.StockByIdentity(b.sigstore.TrustedRoot, subject, issuer)
			}, evidence.FormatBundle,
		}, {
			"bundle", func() (*signing.Signer, error) { return b.in(evidence.FormatBundle) }, b.keyPolicy, byKey, evidence.FormatBundle,
		},
	}
}

// verify compares verifications per second, from the registry and from memory.
func (b *bench) verify(ctx context.Context) error {
	for _, one := range b.contests() {
		if err := b.contest(ctx, one); err != nil {
			return fmt.Errorf("%s: %w", one.name, err)
		}
	}
	return nil
}

func (b *bench) contest(ctx context.Context, c contest) (err error) {
	signer, err := c.signer()
	if err != nil {
		return err
	}
	stock, err := c.stock()
	if err != nil {
		return err
	}
	remote, err := newSite()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remote.close()) }()
	fromRegistry := func(one artifact) error {
		if c.format == evidence.FormatTag {
			return stock.Tagged(ctx, one.reference())
		}
		return stock.Bundled(ctx, one.reference())
	}
	all, err := signedBy(ctx, remote.registry, signer)
	if err != nil {
		return err
	}
	ours, theirs, err := race(ctx, c, all, fromRegistry)
	if err != nil {
		return err
	}
	figures.Report("verify_"+c.name+"_per_second", ours, "1/s")
	figures.Report("verify_"+c.name+"_stock_per_second", theirs, "1/s")
	figures.Report("verify_"+c.name+"_ratio", ours/theirs, "ratio")

	if all, err = signedBy(ctx, oci.NewMemory(), signer); err != nil {
		return err
	}
	inMemory, err := readBare(ctx, c, all, stock)
	if err != nil {
		return err
	}
	if ours, theirs, err = race(ctx, c, all, inMemory); err != nil {
		return err
	}
	figures.Report("verify_"+c.name+"_in_process_per_second", ours, "1/s")
	figures.Report("verify_"+c.name+"_in_process_ratio", ours/theirs, "ratio")
	return nil
}

func signedBy(ctx context.Context, reg oci.Registry, signer *signing.Signer) ([]artifact, error) {
	all, err := push(ctx, reg, verified)
	if err != nil {
		return nil, err
	}
	for _, one := range all {
		if _, err := signer.Sign(ctx, one.repo, one.desc); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// race verifies all artifacts in turns and returns the medians of verifications per second.
func race(ctx context.Context, c contest, all []artifact, stock func(artifact) error) (ours, theirs float64, err error) {
	var a, b []float64
	for round := range rounds + 1 {
		verifier, err := c.policy()
		if err != nil {
			return 0, 0, err
		}
		mine, err := perSecond(all, func(one artifact) error {
			_, err := verifier.Verify(ctx, one.repo, one.name, one.desc)
			return err
		})
		if err != nil {
			return 0, 0, fmt.Errorf("ours: %w", err)
		}
		other, err := perSecond(all, stock)
		if err != nil {
			return 0, 0, fmt.Errorf("stock: %w", err)
		}
		if round > 0 { // the first one opens connections
			a, b = append(a, mine), append(b, other)
		}
	}
	return figures.Median(a), figures.Median(b), nil
}

func perSecond(all []artifact, verify func(artifact) error) (float64, error) {
	started := time.Now()
	for _, one := range all {
		if err := verify(one); err != nil {
			return 0, fmt.Errorf("%s: %w", one.reference(), err)
		}
	}
	return float64(len(all)) / time.Since(started).Seconds(), nil
}

// readBare reads every signature beforehand, so that the stock library does nothing but verify.
func readBare(ctx context.Context, c contest, all []artifact, stock *signingtest.Stock) (func(artifact) error, error) {
	type bare struct{ payload, raw []byte }
	kept := map[string]bare{}
	for _, one := range all {
		attached, err := oci.ListAttached(ctx, one.repo, one.desc)
		if err != nil || len(attached) != 1 {
			return nil, fmt.Errorf("%d signatures on %s: %w", len(attached), one.name, err)
		}
		manifest, _, err := oci.ReadManifest(ctx, one.repo, attached[0].Descriptor)
		if err != nil {
			return nil, err
		}
		payload, err := oci.ReadAll(ctx, one.repo, manifest.Layers[0], 1<<20)
		if err != nil {
			return nil, err
		}
		raw, err := base64.StdEncoding.DecodeString(manifest.Layers[0].Annotations["dev.cosignproject.cosign/signature"])
		if err != nil {
			return nil, err
		}
		kept[one.name] = bare{payload, raw}
	}
	return func(one artifact) error {
		if c.format == evidence.FormatTag {
			return stock.Signature(ctx, one.desc.Digest, kept[one.name].payload, kept[one.name].raw)
		}
		return stock.Bundle(one.desc.Digest, kept[one.name].payload)
	}, nil
}

// requests counts what one verification asks of the registry: of an artifact that was not verified before, the most that
// any way of signing costs, and of one that was. That the registry has no referrers API is asked once an hour.
func (b *bench) requests(ctx context.Context) error {
	most, warm := 0, 0
	for _, one := range b.contests() {
		cold, again, err := one.requests(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", one.name, err)
		}
		figures.Report("verify_"+one.name+"_requests_cold", float64(cold), "requests")
		most, warm = max(most, cold), max(warm, again)
	}
	figures.Report("verify_requests_cold", float64(most), "requests")
	figures.Report("verify_requests_warm", float64(warm), "requests")
	return nil
}

func (c contest) requests(ctx context.Context) (cold, warm int, err error) {
	remote, err := newSite()
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, remote.close()) }()
	all, err := push(ctx, remote.registry, 1)
	if err != nil {
		return 0, 0, err
	}
	signer, err := c.signer()
	if err != nil {
		return 0, 0, err
	}
	if _, err := signer.Sign(ctx, all[0].repo, all[0].desc); err != nil {
		return 0, 0, err
	}
	if _, err := oci.Referrers(ctx, all[0].repo, all[0].desc); err != nil {
		return 0, 0, err
	}
	verifier, err := c.policy()
	if err != nil {
		return 0, 0, err
	}
	for _, into := range []*int{&cold, &warm} {
		remote.proxy.Reset()
		if _, err := verifier.Verify(ctx, all[0].repo, all[0].name, all[0].desc); err != nil {
			return 0, 0, err
		}
		*into = remote.proxy.Count(registrytest.Match{})
	}
	return cold, warm, nil
}
