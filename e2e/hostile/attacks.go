package hostile

import (
	"context"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// Attacks is the whole table.
func Attacks() []Attack {
	return slices.Concat(signatureAttacks(), targetAttacks(), documentAttacks(), bundleAttacks(), archiveAttacks(), byteAttacks(), networkAttacks(), secretAttacks())
}

// together is how many attacks run at the same time: most of their time they wait for what never comes.
const together = 8

// RunAll runs the whole table and counts what was refused as expected. report receives every attack that was not, also
// of several at once.
func RunAll(ctx context.Context, report func(name string, err error)) (refused, total int) {
	var (
		group errgroup.Group
		count atomic.Int64
	)
	group.SetLimit(together)
	attacks := Attacks()
	for _, attack := range attacks {
		group.Go(func() error {
			if _, err := attack.Run(ctx); err != nil {
				report(attack.Name, err)
				return nil
			}
			count.Add(1)
			return nil
		})
	}
	_ = group.Wait() // nothing of it returns an error
	return int(count.Load()), len(attacks)
}
