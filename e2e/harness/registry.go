package harness

import (
	"context"
	"net/http"
	"path/filepath"

	"pinnace.dev/pinnace/e2e/process"
	"pinnace.dev/pinnace/pkg/oci"
)

// Registry is `pinnace registry serve` on a folder. It may be stopped and started again on the same address.
type Registry struct {
	// Addr is host:port, plain HTTP.
	Addr string
	Root string

	site *Site
	args []string
	proc *process.Process
}

// NewRegistry starts a registry; the arguments are added to the command's.
func (s *Site) NewRegistry(ctx context.Context, name string, args ...string) (*Registry, error) {
	addr, err := s.Loopback()
	if err != nil {
		return nil, err
	}
	r := &Registry{Addr: addr, Root: filepath.Join(s.Dir, name), site: s, args: args}
	return r, r.Start(ctx)
}

// Start starts the registry and waits until it answers.
func (r *Registry) Start(ctx context.Context) error {
	var err error
	r.proc, err = r.site.procs.Start(process.Command{
		Name: "pinnace registry serve", Program: filepath.Join(r.site.Bin, "pinnace"),
		Args: append([]string{"registry", "serve", "--addr", r.Addr, "--root", r.Root}, r.args...),
		Env:  r.site.environment(), Log: r.Root + ".log",
	})
	if err != nil {
		return err
	}
	return r.proc.Await(ctx, func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.Addr+"/v2/", http.NoBody)
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		return res.Body.Close() // any answer will do: with users it is 401
	})
}

// Stop stops the registry; what it holds stays.
func (r *Registry) Stop() error { return r.proc.Stop() }

// Repository opens one of the repositories below a fleet's prefix.
func (f *Fleet) Repository(name string) (oci.Repository, error) {
	registry, err := oci.Open(f.Prefix, oci.Options{PlainHTTP: true})
	if err != nil {
		return nil, err
	}
	return registry.Repository(name)
}
