package main

import (
	"context"
	"errors"
	"fmt"

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
	found, err := c.race(ctx, all, rounds, wall, fromRegistry)
	if err != nil {
		return err
	}
	figures.Report("verify_"+c.name+"_per_second", found.ours, "1/s")
	figures.Report("verify_"+c.name+"_stock_per_second", found.theirs, "1/s")
	figures.Report("verify_"+c.name+"_ratio", found.ratio, "ratio")
	return c.inProcess(ctx, signer, stock)
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
