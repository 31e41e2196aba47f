// Package controlplane starts real Kubernetes control planes on loopback, without containers and without root.
//
// A [Plane] is one etcd. Each [Cluster] on it is a kube-apiserver with its own key prefix and certificate authority, a
// kube-controller-manager, a kube-scheduler, and kwok, which plays one node: pods become Running, though nothing runs.
// The binaries come from hack/controlplane; [Build] makes them once.
//
// Everything started ends with [Plane.Close], and on Linux also when this process dies in whatever way. Several
// processes may run planes at once: ports are reserved across processes.
package controlplane

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"

	"pinnace.dev/pinnace/e2e/ports"
	"pinnace.dev/pinnace/e2e/process"
)

// Options of a plane. The zero value builds the binaries when needed and uses a temporary folder.
type Options struct {
	// Dir keeps data, logs and kubeconfigs; a temporary folder, removed by Close, when empty.
	Dir string
	// Bin is the folder with the binaries; what Build returns when empty.
	Bin string
	// Log receives what building says; nothing when nil.
	Log io.Writer
}

// Plane is one etcd and the clusters on it. Its methods may be used concurrently.
type Plane struct {
	// Dir holds a folder for etcd and one for each cluster, with logs and the kubeconfig.
	Dir string

	bin      string
	procs    *process.Group
	ports    ports.Set
	etcd     string // client URL
	peer     string // peer URL
	store    *process.Process
	ownsDir  bool
	mu       sync.Mutex
	clusters map[string]*Cluster
	closed   bool
}

// Start starts etcd. The context bounds the start only.
func Start(ctx context.Context, opts Options) (*Plane, error) {
	p := &Plane{Dir: opts.Dir, bin: opts.Bin, clusters: map[string]*Cluster{}}
	if p.bin == "" {
		bin, err := Build(ctx, opts.Log)
		if err != nil {
			return nil, err
		}
		p.bin = bin
	}
	if p.Dir == "" {
		dir, err := os.MkdirTemp("", "pinnace-plane-")
		if err != nil {
			return nil, err
		}
		p.Dir, p.ownsDir = dir, true
	}
	abs, err := filepath.Abs(p.Dir)
	if err != nil {
		return nil, err
	}
	p.Dir = abs
	p.procs = process.NewGroup()
	for _, url := range []*string{&p.etcd, &p.peer} {
		port, err := p.ports.Reserve()
		if err != nil {
			return nil, errors.Join(err, p.Close())
		}
		*url = fmt.Sprintf("http://127.0.0.1:%d", port)
	}
	if err := p.startEtcd(ctx); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// data is where etcd keeps what it stores.
func (p *Plane) data() string { return filepath.Join(p.Dir, "etcd") }

func (p *Plane) startEtcd(ctx context.Context) error {
	if err := os.MkdirAll(p.data(), 0o700); err != nil {
		return err
	}
	proc, err := p.start(p.Dir, "etcd",
		"--data-dir="+p.data(), "--listen-client-urls="+p.etcd, "--advertise-client-urls="+p.etcd,
		"--listen-peer-urls="+p.peer, "--initial-advertise-peer-urls="+p.peer, "--initial-cluster=default="+p.peer,
		// Losing this data in a power cut is fine; waiting for the disk is not.
		"--unsafe-no-fsync", "--quota-backend-bytes=4294967296", "--auto-compaction-retention=5m", "--log-level=warn")
	if err != nil {
		return err
	}
	p.store = proc
	return proc.Await(ctx, healthy(http.DefaultClient, p.etcd+"/health"))
}

// Backup copies what is stored to the folder, which must not be there yet. The store is away meanwhile.
func (p *Plane) Backup(ctx context.Context, folder string) error {
	if err := p.store.Stop(); err != nil {
		return err
	}
	return errors.Join(os.CopyFS(folder, os.DirFS(p.data())), p.startEtcd(ctx))
}

// Restore puts a backup in the place of what is stored, as it is: resource versions go back, too. API servers are
// stopped before it, and started after it.
func (p *Plane) Restore(ctx context.Context, folder string) error {
	if err := errors.Join(p.store.Stop(), os.RemoveAll(p.data()), os.CopyFS(p.data(), os.DirFS(folder))); err != nil {
		return err
	}
	return p.startEtcd(ctx)
}

// Kubectl is the path of a kubectl of the clusters' version.
func (p *Plane) Kubectl() string { return filepath.Join(p.bin, "kubectl") }

// start starts one of the plane's programs, with its log in the folder.
func (p *Plane) start(dir, program string, args ...string) (*process.Process, error) {
	return p.procs.Start(process.Command{
		Program: filepath.Join(p.bin, program), Args: args, Log: filepath.Join(dir, program+".log"),
	})
}

// Cluster starts a cluster and returns when its node is ready and pods can be scheduled. The name is a folder's and a
// kubeconfig context's. Asking again for the same name is an error.
func (p *Plane) Cluster(ctx context.Context, name string) (*Cluster, error) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, errors.New("the plane is closed")
	}
	if _, ok := p.clusters[name]; ok {
		p.mu.Unlock()
		return nil, fmt.Errorf("cluster %q exists already on this plane", name)
	}
	c := &Cluster{Name: name, plane: p, dir: filepath.Join(p.Dir, name)}
	p.clusters[name] = c
	p.mu.Unlock()

	if err := c.start(ctx); err != nil {
		c.Stop()
		return nil, fmt.Errorf("start cluster %q: %w", name, err)
	}
	return c, nil
}

// Close ends every process of the plane and waits for it. Closing twice is fine.
func (p *Plane) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	p.closed = true
	p.mu.Unlock()

	p.procs.Close()
	err := p.ports.Release()
	if p.ownsDir {
		err = errors.Join(err, os.RemoveAll(p.Dir))
	}
	return err
}

// healthy probes a URL; 200 is healthy.
func healthy(client *http.Client, url string) func(context.Context) error {
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
		if err != nil {
			return err
		}
		res, err := client.Do(req)
		if err != nil {
			return err
		}
		defer func() { _ = res.Body.Close() }()
		if res.StatusCode != http.StatusOK {
			body, _ := io.ReadAll(io.LimitReader(res.Body, 4096)) // the body only decorates the error
			return fmt.Errorf("%s: %s: %s", url, res.Status, body)
		}
		return nil
	}
}
