// Command trust measures signing and verifying on this machine, beside the stock libraries in the same run, and counts
// the attacks that an agent refuses. It prints "name value unit" lines; a ratio above 1 means that Pinnace is faster.
// Arguments choose among verify, requests, sign, memory and attacks; everything is measured without any.
package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"pinnace.dev/pinnace/hack/bench/figures"
	"pinnace.dev/pinnace/pkg/oci/signing"
	"pinnace.dev/pinnace/pkg/oci/signing/signingtest"
)

func main() { figures.Main(run) }

// bench is one run: who signs, and whom is trusted.
type bench struct {
	sigstore *signingtest.Sigstore
	key      *signing.Signer
	identity *signing.Signer
}

func run(ctx context.Context, args []string) error {
	if len(args) == 4 && args[0] == memoryChild {
		return verifyInChild(ctx, args[1], args[2], args[3])
	}
	b, err := newBench()
	if err != nil {
		return err
	}
	defer b.sigstore.Close()
	var problems error
	for _, measure := range []struct {
		name string
		run  func(context.Context) error
	}{{"verify", b.verify}, {"requests", b.requests}, {"sign", b.sign}, {"memory", b.memory}, {"attacks", b.attacks}} {
		if len(args) > 0 && !slices.Contains(args, measure.name) {
			continue
		}
		if err := measure.run(ctx); err != nil {
			problems = errors.Join(problems, fmt.Errorf("%s: %w", measure.name, err))
		}
	}
	return problems
}
