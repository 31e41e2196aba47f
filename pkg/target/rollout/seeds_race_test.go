//go:build race

package rollout_test

// simSeeds is small: rules are pure, the race detector finds nothing in them and makes them ten times slower.
const simSeeds = 16
