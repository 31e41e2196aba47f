// Package rollout decides how a change spreads over clusters. It is pure: the clock is passed in, and nothing is read
// or written.
//
// A publish calls [Announce] for each cluster: what changes under a strategy is announced beside what holds, instead of
// replacing it. [Ladder] then gives every cluster of the change a place, a wave and a bucket, and makes the steps of the
// plan. From there [Decide] goes up the ladder: from the plan, the gate as it stands and what clusters reported, to the
// next gate. It may be called at any time, by anybody, again and again: the gate holds all that it needs to remember.
//
// A cluster is seen when it reported lately, and absent otherwise. Absent clusters neither block nor count. At work are
// those that a gate lets in and that have not succeeded: never more of the seen ones than the strategy allows.
package rollout
