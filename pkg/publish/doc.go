// Package publish brings a fleet repository into a registry.
//
// [Load] reads the fleet: its documents, its sources at their commits and the bundles in them. [Publish] builds what
// is new, signs and pushes it, issues the targets that changed and moves the tags that agents poll last, so that
// nothing half done is ever seen: a crash leaves what was published before, and running again goes on from there.
package publish
