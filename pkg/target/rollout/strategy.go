package rollout

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/intstr"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// Defaults of a strategy.
const (
	DefaultDeadline   = 30 * time.Minute
	DefaultSeenWithin = time.Hour
	// minSeenWithin is twice an agent's heartbeat: less would make present clusters absent.
	minSeenWithin = time.Second
)

var (
	defaultMaxUnavailable = intstr.FromString("10%")
	defaultMinSuccess     = intstr.FromString("100%")
)

// Complete returns the strategy with every default set.
func Complete(strategy v1alpha1.Rollout) v1alpha1.Rollout {
	if strategy.MaxUnavailable == nil {
		strategy.MaxUnavailable = &defaultMaxUnavailable
	}
	if strategy.MinSuccess == nil {
		strategy.MinSuccess = &defaultMinSuccess
	}
	if strategy.Deadline.Duration <= 0 {
		strategy.Deadline.Duration = DefaultDeadline
	}
	if strategy.SeenWithin.Duration <= 0 {
		strategy.SeenWithin.Duration = DefaultSeenWithin
	}
	if strategy.OnFailure == "" {
		strategy.OnFailure = v1alpha1.RolloutAbort
	}
	if strategy.OnAbort == "" {
		strategy.OnAbort = v1alpha1.AbortRevert
	}
	if strategy.MaxFailure != nil && strategy.MaxFailure.MinSample < 1 {
		limit := *strategy.MaxFailure
		limit.MinSample = 1
		strategy.MaxFailure = &limit
	}
	return strategy
}

// Finding is something wrong in a strategy; Path is relative to it, such as waves[1].percent.
type Finding struct{ Path, Message string }

// Check finds what is wrong with a strategy. known tells which clusters and groups the inventory has.
func Check(strategy v1alpha1.Rollout, known Inventory) []Finding {
	c := &checker{known: known}
	for i, name := range strategy.Canaries {
		if !known.Cluster(name) {
			c.report(fmt.Sprintf("canaries[%d]", i), "cluster %q is not in the inventory", name)
		}
		if slices.Contains(strategy.Canaries[:i], name) {
			c.report(fmt.Sprintf("canaries[%d]", i), "cluster %q is named twice; remove one", name)
		}
	}
	c.waves(strategy)
	c.amounts(strategy)
	if d := strategy.SeenWithin.Duration; d != 0 && d < minSeenWithin {
		c.report("seenWithin", "%s is less than %s; it must be at least twice the agents' heartbeat", d, minSeenWithin)
	}
	for path, d := range map[string]time.Duration{"bake": strategy.Bake.Duration, "deadline": strategy.Deadline.Duration} {
		if d < 0 {
			c.report(path, "%s is negative", d)
		}
	}
	if strategy.Approval != nil {
		c.approval(strategy)
	}
	slices.SortStableFunc(c.findings, func(a, b Finding) int { return strings.Compare(a.Path, b.Path) })
	return c.findings
}

// Inventory tells what there is.
type Inventory struct {
	Cluster, Group func(name string) bool
}

type checker struct {
	known    Inventory
	findings []Finding
}

func (c *checker) report(path, format string, args ...any) {
	c.findings = append(c.findings, Finding{Path: path, Message: fmt.Sprintf(format, args...)})
}

func (c *checker) waves(strategy v1alpha1.Rollout) {
	percent := 0
	names := map[string]bool{canaryStep: true, lateStep: true, restStep: true}
	for i, wave := range strategy.Waves {
		path := fmt.Sprintf("waves[%d]", i)
		kinds := 0
		for _, set := range []bool{wave.Percent != 0, wave.ClusterSelector != nil, wave.ClusterGroup != ""} {
			if set {
				kinds++
			}
		}
		if kinds != 1 {
			c.report(path, "name exactly one of percent, clusterSelector and clusterGroup")
		}
		switch {
		case wave.Percent == 0 && percent > 0:
			c.report(path, "percentages are of what no wave selects, and come last; move it before them")
		case wave.Percent < 0 || wave.Percent > 100:
			c.report(path+".percent", "%d is not between 1 and 100", wave.Percent)
		case wave.Percent != 0 && wave.Percent <= percent:
			c.report(path+".percent", "%d does not exceed the %d before: percentages count those before", wave.Percent, percent)
		}
		percent = max(percent, wave.Percent)
		if wave.ClusterGroup != "" && !c.known.Group(wave.ClusterGroup) {
			c.report(path+".clusterGroup", "cluster group %q is not in the inventory", wave.ClusterGroup)
		}
		if name := waveName(wave, i); names[name] {
			c.report(path+".name", "%q is taken; choose another name", name)
		} else {
			names[name] = true
		}
	}
}

func (c *checker) amounts(strategy v1alpha1.Rollout) {
	for path, amount := range map[string]*intstr.IntOrString{"maxUnavailable": strategy.MaxUnavailable, "minSuccess": strategy.MinSuccess} {
		if amount == nil {
			continue
		}
		if _, err := scaled(*amount, 100, false); err != nil {
			c.report(path, "%v", err)
		} else if path == "minSuccess" && amount.Type == intstr.Int {
			c.report(path, "%d is a number of clusters; write a percentage such as 95%%", amount.IntVal)
		}
	}
	if limit := strategy.MaxFailure; limit != nil {
		if _, err := scaled(limit.Limit, 100, false); err != nil {
			c.report("maxFailure.limit", "%v", err)
		}
		if limit.MinSample < 0 {
			c.report("maxFailure.minSample", "%d is negative", limit.MinSample)
		}
	}
}

func (c *checker) approval(strategy v1alpha1.Rollout) {
	for i, name := range strategy.Approval.Before {
		if name != restStep && name != lateStep && !slices.ContainsFunc(indexed(strategy.Waves), func(known string) bool { return known == name }) {
			c.report(fmt.Sprintf("approval.before[%d]", i), "there is no wave %q; there are %s",
				name, strings.Join(append(indexed(strategy.Waves), restStep, lateStep), ", "))
		}
	}
	signers := strategy.Approval.Signers
	if n, needed := len(signers.Keys)+len(signers.Keyless), max(1, signers.Threshold); n < needed {
		c.report("approval.signers", "%d keys and identities can never give %d approvals; name more", n, needed)
	}
}

func indexed(waves []v1alpha1.RolloutWave) []string {
	names := make([]string, len(waves))
	for i, wave := range waves {
		names[i] = waveName(wave, i)
	}
	return names
}

func waveName(wave v1alpha1.RolloutWave, i int) string {
	switch {
	case wave.Name != "":
		return wave.Name
	case wave.Percent != 0:
		return strconv.Itoa(wave.Percent) + "%"
	case wave.ClusterGroup != "":
		return wave.ClusterGroup
	}
	return "wave-" + strconv.Itoa(i+1)
}

// scaled is the amount of all: a percentage is rounded up or down.
func scaled(amount intstr.IntOrString, all int, up bool) (int, error) {
	if amount.Type == intstr.String && !strings.HasSuffix(amount.StrVal, "%") {
		return 0, fmt.Errorf("%q is neither a number nor a percentage such as 10%%", amount.StrVal)
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(&amount, all, up)
	if err != nil {
		return 0, fmt.Errorf("%q is neither a number nor a percentage such as 10%%", amount.String())
	}
	if n < 0 || amount.Type == intstr.String && n > all {
		return 0, errors.New(amount.String() + " is not between 0 and 100%")
	}
	return n, nil
}

// amountOf is scaled for strategies that were checked.
func amountOf(amount intstr.IntOrString, all int, up bool) int {
	n, err := scaled(amount, all, up)
	if err != nil {
		return 0
	}
	return n
}
