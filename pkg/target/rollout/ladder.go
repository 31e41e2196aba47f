package rollout

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// Names of the steps that no wave names.
const (
	canaryStep = "canaries"
	restStep   = "rest"
	lateStep   = "late"
)

// Place is where a cluster stands on the ladder.
type Place struct{ Wave, Bucket int }

// Ladder gives each cluster its place and makes the plan's steps. selects tells whether a wave's selector or group
// takes a cluster. The order within a wave is by a hash over seed, so that not the same clusters come first each time;
// places are spread evenly, so that 10 % are 10 % of any number.
func Ladder(strategy v1alpha1.Rollout, seed string, clusters []string, selects func(wave int, cluster string) bool) (steps []v1alpha1.RolloutStep, places map[string]Place) {
	places = make(map[string]Place, len(clusters))
	left := slices.Clone(clusters)
	wave := 0
	take := func(name string, members []string, step v1alpha1.RolloutStep) {
		if len(members) == 0 {
			return
		}
		for rank, member := range byHash(seed, members) {
			places[member] = Place{Wave: wave, Bucket: rank * v1alpha1.MaxBucket / len(members)}
		}
		step.Name, step.Wave, step.Bucket, step.Clusters = name, wave, v1alpha1.MaxBucket, len(members)
		steps = append(steps, step)
		left = slices.DeleteFunc(left, func(cluster string) bool { _, placed := places[cluster]; return placed })
		wave++
	}
	take(canaryStep, filter(left, func(cluster string) bool { return slices.Contains(strategy.Canaries, cluster) }),
		v1alpha1.RolloutStep{Bake: strategy.Bake, Canary: true})
	var percentages []int // of waves
	for i, one := range strategy.Waves {
		if one.Percent != 0 {
			percentages = append(percentages, i)
			continue
		}
		take(waveName(one, i), filter(left, func(cluster string) bool { return selects(i, cluster) }), stepOf(strategy, one))
	}
	rest := len(left)
	take(restStep, left, v1alpha1.RolloutStep{Bake: strategy.Bake})
	if rest > 0 {
		steps = slices.Concat(steps[:len(steps)-1], split(strategy, percentages, steps[len(steps)-1]))
	}
	for i := range steps {
		steps[i].Approval = i > 0 && needsApproval(strategy, steps[i].Name)
	}
	// Nobody is placed here now: those that join, or return, while the rollout is under way.
	return append(steps, v1alpha1.RolloutStep{
		Name: lateStep, Wave: wave, Bucket: v1alpha1.MaxBucket, Approval: strategy.Approval != nil && slices.Contains(strategy.Approval.Before, lateStep),
	}), places
}

// split cuts the last wave into percentages.
func split(strategy v1alpha1.Rollout, percentages []int, whole v1alpha1.RolloutStep) []v1alpha1.RolloutStep {
	var steps []v1alpha1.RolloutStep
	before := 0
	for _, i := range percentages {
		step := stepOf(strategy, strategy.Waves[i])
		step.Name, step.Wave = waveName(strategy.Waves[i], i), whole.Wave
		step.Bucket = strategy.Waves[i].Percent * v1alpha1.MaxBucket / 100
		upTo := below(step.Bucket, whole.Clusters)
		step.Clusters = upTo - before
		before = upTo
		if step.Clusters > 0 {
			steps = append(steps, step)
		}
	}
	if before < whole.Clusters {
		whole.Clusters -= before
		steps = append(steps, whole)
	}
	return steps
}

// below is how many of n ranks have a bucket below the one that is given.
func below(bucket, n int) int {
	return min(n, (bucket*n+v1alpha1.MaxBucket-1)/v1alpha1.MaxBucket)
}

func stepOf(strategy v1alpha1.Rollout, wave v1alpha1.RolloutWave) v1alpha1.RolloutStep {
	step := v1alpha1.RolloutStep{Bake: strategy.Bake}
	if wave.Bake != nil {
		step.Bake = *wave.Bake
	}
	return step
}

func needsApproval(strategy v1alpha1.Rollout, step string) bool {
	return strategy.Approval != nil && (len(strategy.Approval.Before) == 0 || slices.Contains(strategy.Approval.Before, step))
}

// Peopled counts the steps that begin with clusters: the last is for those that join meanwhile.
func Peopled(steps []v1alpha1.RolloutStep) int {
	count := 0
	for i := range steps {
		if steps[i].Clusters > 0 {
			count++
		}
	}
	return count
}

// LateWave is the plan's last wave.
func LateWave(steps []v1alpha1.RolloutStep) int {
	if len(steps) == 0 {
		return 0
	}
	return steps[len(steps)-1].Wave
}

// LatePlace is the place of a cluster that joins while a rollout is under way.
func LatePlace(steps []v1alpha1.RolloutStep, seed, cluster string) Place {
	return Place{Wave: LateWave(steps), Bucket: int(hash(seed, cluster) % v1alpha1.MaxBucket)}
}

// Seed of a plan's order.
func Seed(fleet, name string, plan int64) string { return fmt.Sprintf("%s/%s/%d", fleet, name, plan) }

func byHash(seed string, names []string) []string {
	type hashed struct {
		name string
		sum  uint64
	}
	list := make([]hashed, len(names))
	for i, name := range names {
		list[i] = hashed{name, hash(seed, name)}
	}
	slices.SortFunc(list, func(a, b hashed) int { return cmp.Or(cmp.Compare(a.sum, b.sum), cmp.Compare(a.name, b.name)) })
	out := make([]string, len(list))
	for i := range list {
		out[i] = list[i].name
	}
	return out
}

func hash(seed, name string) uint64 {
	sum := sha256.Sum256([]byte(seed + "\x00" + name))
	return binary.BigEndian.Uint64(sum[:8])
}

func filter(names []string, keep func(string) bool) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !keep(name) })
}
