package fleetyaml

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/intstr"

	"pinnace.dev/pinnace/api/v1alpha1"
)

// everyone is Fleet's default of maxUnavailable; ours is less.
var everyone = intstr.FromString("100%")

// rollout turns partitions into waves. Fleet's partitions come one after the other too, as far as
// maxUnavailablePartitions, which is 0 by default, lets them.
func (c *converter) rollout() {
	in := c.in.RolloutStrategy
	if in == nil {
		return
	}
	c.origins["spec.rollout"] = "rolloutStrategy"
	if in.AutoPartitionThreshold != nil || in.MaxNew != nil {
		c.warn("rolloutStrategy", "maxNew and autoPartitionThreshold have no equal; they pace Fleet's controller")
	}
	if in.MaxUnavailable == nil && in.AutoPartitionSize == nil && len(in.Partitions) == 0 {
		return
	}
	out := &v1alpha1.Rollout{MaxUnavailable: &everyone}
	c.out.Spec.Rollout = out
	if in.MaxUnavailable != nil {
		if amount, ok := c.amount("rolloutStrategy.maxUnavailable", in.MaxUnavailable); ok {
			out.MaxUnavailable = &amount
		}
	}
	if in.MaxUnavailablePartitions != nil && fmt.Sprint(in.MaxUnavailablePartitions) != "0" {
		c.warn("rolloutStrategy.maxUnavailablePartitions", "has no equal: a wave begins when the one before it has succeeded; set rollout.minSuccess to let some fail")
	}
	for i, partition := range in.Partitions {
		c.partition(place("rolloutStrategy.partitions", i), partition, out)
	}
	if len(in.Partitions) == 0 && in.AutoPartitionSize != nil {
		c.automatic(in.AutoPartitionSize, out)
	}
}

// amount reads a number or a percentage.
func (c *converter) amount(field string, value any) (intstr.IntOrString, bool) {
	switch value := value.(type) {
	case string:
		if amount := intstr.Parse(value); amount.Type == intstr.Int || validPercent(value) {
			return amount, true
		}
	case int64:
		return intstr.Parse(strconv.FormatInt(value, 10)), true
	case float64:
		return intstr.Parse(strconv.FormatInt(int64(value), 10)), true
	case json.Number:
		return intstr.Parse(value.String()), true
	}
	c.refuse(field, "%v is neither a number nor a percentage", value)
	return intstr.IntOrString{}, false
}

func validPercent(text string) bool {
	number, isPercent := strings.CutSuffix(text, "%")
	_, err := strconv.Atoi(number)
	return isPercent && err == nil
}

func (c *converter) partition(field string, in partition, out *v1alpha1.Rollout) {
	if in.MaxUnavailable != nil {
		c.warn(field+".maxUnavailable", "has no equal: rolloutStrategy.maxUnavailable counts for all partitions together")
	}
	wave := v1alpha1.RolloutWave{Name: in.Name, ClusterGroup: in.ClusterGroup, ClusterSelector: in.ClusterSelector}
	switch {
	case in.ClusterGroupSelector != nil:
		c.refuse(field+".clusterGroupSelector", "is not supported in partitions; name each group in a partition of its own")
	case in.ClusterName != "" && len(out.Waves) == 0 && in.ClusterGroup == "" && in.ClusterSelector == nil:
		out.Canaries = append(out.Canaries, in.ClusterName)
	case in.ClusterName != "":
		c.refuse(field+".clusterName", "one cluster is a partition only before all others; give it a label, and select that")
	case in.ClusterGroup != "" && in.ClusterSelector != nil:
		c.refuse(field, "has clusterGroup and clusterSelector; keep one of them")
	case in.ClusterGroup == "" && in.ClusterSelector == nil:
		c.warn(field, "selects no cluster, and is left out")
	default:
		out.Waves = append(out.Waves, wave)
	}
}

// automatic makes waves of equal size.
func (c *converter) automatic(size any, out *v1alpha1.Rollout) {
	const field = "rolloutStrategy.autoPartitionSize"
	amount, ok := c.amount(field, size)
	if !ok {
		return
	}
	if amount.Type == intstr.Int {
		c.refuse(field, "a number of clusters is not supported; write a percentage, such as 25%%")
		return
	}
	step, _ := strconv.Atoi(strings.TrimSuffix(amount.StrVal, "%"))
	if step < 1 {
		c.refuse(field, "%s is less than 1%%", amount.StrVal)
		return
	}
	for percent := step; percent < 100; percent += step {
		out.Waves = append(out.Waves, v1alpha1.RolloutWave{Percent: percent})
	}
}
