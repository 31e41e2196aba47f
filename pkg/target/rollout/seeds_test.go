//go:build !race

package rollout_test

// simSeeds is how many fleets are simulated.
const simSeeds = 1000
