package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"pinnace.dev/pinnace/examples"
	"pinnace.dev/pinnace/pkg/oci/signing"
)

// Fleet is a fleet repository on the Git server, with a working copy, and the place where it is published.
type Fleet struct {
	Name string
	// Dir is the working copy; Commit brings it to the server.
	Dir string
	// URL is the repository's on the Git server.
	URL string
	// Prefix is the registry's and the fleet's.
	Prefix string
	Key    Key

	site    *Site
	repo    string
	signers map[string]*signing.Signer // by the private key's file
}

// NewFleet makes a repository from the example fleet, published below the registry's address with a key of its own.
func (s *Site) NewFleet(ctx context.Context, registry string) (*Fleet, error) {
	s.fleets++
	name := fmt.Sprintf("fleet-%d", s.fleets)
	f := &Fleet{
		Name: examples.FleetName, Dir: filepath.Join(s.Dir, "work", name), URL: s.Git.Repository(name),
		Prefix: registry + "/" + name, site: s, repo: name,
	}
	var err error
	if f.Key, err = s.NewKey(ctx, name); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(f.Dir), 0o755); err != nil {
		return nil, err
	}
	if err := os.CopyFS(f.Dir, examples.Fleet()); err != nil {
		return nil, err
	}
	if err := s.Git.Create(ctx, name); err != nil {
		return nil, err
	}
	return f, f.Commit(ctx, "A fleet")
}

// Path is the fleet's prefix without the registry's address.
func (f *Fleet) Path() string {
	_, path, _ := strings.Cut(f.Prefix, "/")
	return path
}

// Commit brings the working copy to the Git server.
func (f *Fleet) Commit(ctx context.Context, message string) error {
	_, err := f.site.Git.Commit(ctx, f.repo, "main", f.Dir, message)
	return err
}

// Write writes a file of the working copy.
func (f *Fleet) Write(name, content string) error {
	path := filepath.Join(f.Dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(content), 0o644)
}

// Remove removes a file or folder of the working copy.
func (f *Fleet) Remove(name string) error { return os.RemoveAll(filepath.Join(f.Dir, name)) }

// Replace replaces text in a file of the working copy; text that is absent is an error.
func (f *Fleet) Replace(name, from, to string) error {
	content, err := os.ReadFile(filepath.Join(f.Dir, name))
	if err != nil {
		return err
	}
	if !bytes.Contains(content, []byte(from)) {
		return fmt.Errorf("%s does not hold %q", name, from)
	}
	return f.Write(name, strings.ReplaceAll(string(content), from, to))
}

// AddStatusKey writes the key that a cluster's status is verified with into the cluster's document.
func (f *Fleet) AddStatusKey(cluster string, key Key) error {
	public, err := os.ReadFile(key.Public)
	if err != nil {
		return err
	}
	name := filepath.Join("clusters", cluster+".yaml")
	content, err := os.ReadFile(filepath.Join(f.Dir, name))
	if err != nil {
		return err
	}
	indented := strings.ReplaceAll(strings.TrimSpace(string(public)), "\n", "\n    ")
	// spec is the document's last key.
	return f.Write(name, string(content)+"  statusKey: |\n    "+indented+"\n")
}

// Publication is what pinnace publish -o json says, as far as it is asserted.
type Publication struct {
	Publication int64
	Digest      string
	Bundles     []struct{ Name, Action, Digest string }
	Targets     []struct {
		Cluster, Action, Digest, Reason string
		Generation                      int64
	}
}

// Changed counts the targets whose action is not "unchanged".
func (p Publication) Changed() []string {
	var changed []string
	for _, t := range p.Targets {
		if t.Action != "unchanged" {
			changed = append(changed, t.Cluster)
		}
	}
	return changed
}

// Publish publishes what was committed. The arguments come last.
func (f *Fleet) Publish(ctx context.Context, args ...string) (Publication, error) {
	return f.PublishTo(ctx, f.Prefix, args...)
}

// PublishTo publishes below another prefix, such as the same one past a proxy.
func (f *Fleet) PublishTo(ctx context.Context, prefix string, args ...string) (Publication, error) {
	var publication Publication
	out, err := f.site.Pinnace(ctx, append([]string{
		"publish", "--fleet", f.URL, "--registry", prefix, "--plain-http", "--key", f.Key.Private, "-o", "json",
	}, args...)...)
	if err != nil {
		return publication, err
	}
	if err := json.Unmarshal([]byte(out), &publication); err != nil {
		return publication, fmt.Errorf("pinnace publish -o json: %w:\n%s", err, out)
	}
	return publication, nil
}

// Status returns what pinnace status prints.
func (f *Fleet) Status(ctx context.Context, args ...string) (string, error) {
	return f.site.Pinnace(ctx, append([]string{
		"status", "--registry", f.Prefix, "--plain-http", "--key", f.Key.Public,
	}, args...)...)
}
