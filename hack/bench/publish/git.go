package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"pinnace.dev/pinnace/e2e/githttp"
	"pinnace.dev/pinnace/hack/bench/figures"
)

// git measures a publish of a fleet with a hundred repositories in which nothing changed.
func (b *bench) git(ctx context.Context) (err error) {
	const repositories = 100
	server, err := githttp.Start(filepath.Join(b.dir, "git"), githttp.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	dir := filepath.Join(b.dir, "hundred")
	if err := (fleet{clusters: 1}).write(dir); err != nil {
		return err
	}
	sources := ""
	for i := range repositories {
		name := fmt.Sprintf("app-%03d", i)
		content := filepath.Join(b.dir, "content")
		if err := write(filepath.Join(content, "bundles", name, "config.yaml"), configMap(i, 0, 10<<10)); err != nil {
			return err
		}
		if err := server.Create(ctx, name); err != nil {
			return err
		}
		if _, err := server.Commit(ctx, name, "main", content, name); err != nil {
			return err
		}
		sources += fmt.Sprintf("    - {name: %s, git: {url: %q}, paths: [\"bundles/%[1]s\"], targets: [{}]}\n", name, server.Repository(name))
	}
	if err := write(filepath.Join(dir, "pinnace.yaml"), strings.TrimSpace(`
apiVersion: pinnace.dev/v1alpha1
kind: Fleet
metadata: {name: bench}
spec:
  registry: registry.example.com/bench
  inventory: [clusters]
  sources:
`)+"\n"+sources); err != nil {
		return err
	}
	to, err := b.registry("git")
	if err != nil {
		return err
	}
	first, err := b.publish(ctx, to, dir)
	if err != nil {
		return err
	}
	if len(first.Bundles) != repositories {
		return fmt.Errorf("%d bundles, want %d", len(first.Bundles), repositories)
	}
	before := server.Requests()
	same, err := b.publish(ctx, to, dir)
	if err != nil {
		return err
	}
	figures.Report("git_100_unchanged_seconds", same.seconds, "s")
	figures.Report("git_100_unchanged_requests", float64(server.Requests()-before), "requests")
	return to.discard()
}
