package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"

	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/mirror"
	"pinnace.dev/pinnace/pkg/oci/mirror/medium"
	"pinnace.dev/pinnace/pkg/oci/signing"
)

// left is what the receiver has.
func (o *mirrorExportOptions) left(ctx context.Context, s *session, signer *signing.Signer) (*mirror.Holdings, *medium.Base, error) {
	switch {
	case o.have != "" && o.base != "":
		return nil, nil, usagef("--have and --base exclude each other; the have knows more")
	case o.have != "":
		return o.readHave()
	case o.base != "":
		verifier, err := o.source.trust.verifier(ctx, s, signer)
		if err != nil {
			return nil, nil, err
		}
		return readBase(ctx, o.base, verifier.trustIndex())
	}
	return nil, nil, nil
}

func (o *mirrorExportOptions) readHave() (*mirror.Holdings, *medium.Base, error) {
	data, err := readFileBounded(o.have, 2*mirror.MaxHave)
	if err != nil {
		return nil, nil, fmt.Errorf("have: %w", err)
	}
	var payload []byte
	if o.haveKey == "" {
		payload, err = mirror.UnwrapUnsafe(data)
	} else {
		public, readErr := readSmallFile(o.haveKey)
		if readErr != nil {
			return nil, nil, fmt.Errorf("public key: %w", readErr)
		}
		payload, err = signing.OpenEnvelope(public, mirror.MediaTypeHave, data)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("have %s: %w", o.have, err)
	}
	have, err := mirror.DecodeHave(payload)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", o.have, err)
	}
	base := &medium.Base{Digest: digest.FromBytes(payload), Registry: have.Registry}
	if o.haveKey != "" {
		// Of one that nobody signed no sequence is believed: a huge one would end the stream.
		base.Sequence = have.Imported[cmp.Or(o.stream, medium.ContentFleet)].Sequence
	}
	holdings, err := have.Holdings()
	return holdings, base, err
}

// readBase takes everything that an earlier export carried, or left out, as held.
func readBase(ctx context.Context, file string, trust medium.Trust) (*mirror.Holdings, *medium.Base, error) {
	m, err := medium.Open(ctx, []string{filepath.Dir(file)}, trust)
	if err != nil {
		return nil, nil, fmt.Errorf("base: %w", err)
	}
	defer func() { _ = m.Close() }()
	holdings, err := m.Index().Holdings()
	return holdings, &medium.Base{Digest: m.Digest(), Sequence: m.Index().Sequence}, err
}

func readFileBounded(file string, limit int64) ([]byte, error) {
	in, err := os.Open(filepath.Clean(file))
	if err != nil {
		return nil, err
	}
	defer func() { _ = in.Close() }()
	data, err := io.ReadAll(io.LimitReader(in, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = errors.Join(oci.ErrTooLarge, fmt.Errorf("%s has more than %d bytes", file, limit))
	}
	return data, err
}
