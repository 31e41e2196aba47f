// Package agent is the sync line: from the tag that a publish moved to what runs on this cluster.
//
// [Agent.Sync] tells the story in order: resolve the target's tag, verify it, accept or refuse it, fetch and verify
// every bundle into the state folder, and only then apply in the order of dependencies, prune, and report.
// [Agent.Run] repeats it: on a jittered poll, on a hint from a webhook, on drift, and while bundles become ready.
//
// Words: the state folder ([State]) keeps verified content, the last good target and inventories, so that drift repair
// and a restart need no registry. A [Deployer] brings one bundle to the cluster; there are two, by server-side apply
// and by Helm release. A refusal is an [Error] with a stage, a subject, a [Reason] from a closed set and what mends it;
// it leaves alone what runs.
package agent
