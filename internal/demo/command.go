package demo

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
	"pinnace.dev/pinnace/pkg/publish"
)

// Act is what a newcomer may do to the fleet: a closed set.
type Act string

const (
	Break   Act = "break"   // a bundle names an image that cannot be pulled
	Tamper  Act = "tamper"  // a target that a stranger signed is put into the registry
	Offline Act = "offline" // a cluster's link is cut
	Mend    Act = "mend"    // all, or one bundle or cluster
)

// Command is an act on a bundle or cluster.
type Command struct {
	Act     Act    `json:"act"`
	Subject string `json:"subject,omitempty"`
}

// Answer is what came of a command.
type Answer struct {
	Text  string `json:"text,omitempty"`
	Error string `json:"error,omitempty"`
}

// Do does a command and says what to watch for.
func (d *Demo) Do(ctx context.Context, command Command) (string, error) {
	var text string
	var err error
	switch command.Act {
	case Break:
		text, err = d.breakBundle(ctx, command.Subject)
	case Tamper:
		text, err = d.tamper(ctx, command.Subject)
	case Offline:
		text, err = d.offline(command.Subject)
	case Mend:
		text, err = d.mend(ctx, command.Subject)
	default:
		err = fmt.Errorf("%q is none of break, tamper, offline and mend", command.Act)
	}
	if err == nil {
		d.note("%s", text)
	}
	return text, err
}

func (d *Demo) breakBundle(ctx context.Context, bundle string) (string, error) {
	if err := breakBundle(d.Fleet, bundle); err != nil {
		return "", err
	}
	result, err := d.Publish(ctx)
	if err != nil {
		return "", err
	}
	if !result.Changed() {
		return "", fmt.Errorf("bundle %s is broken already; mend it first", bundle)
	}
	return fmt.Sprintf("bundle %s now names an image that cannot be pulled, and is published: the canary fails, the rollout stops, and nobody else takes it", bundle), nil
}

func (d *Demo) offline(cluster string) (string, error) {
	one, err := d.agent(cluster)
	if err != nil {
		return "", err
	}
	one.SetOffline(true)
	return fmt.Sprintf("%s is cut off: it keeps what it runs, and is unseen after %s", cluster, d.UnseenAfter()), nil
}

func (d *Demo) agent(cluster string) (one agentHandle, err error) {
	found := d.byName[cluster]
	if found == nil {
		names := ClusterNames(d.Clusters)
		return nil, fmt.Errorf("there is no cluster %q; there are %s …", cluster, strings.Join(names[:min(6, len(names))], ", "))
	}
	return found, nil
}

type agentHandle interface {
	SetOffline(offline bool)
	Offline() bool
}

// tamper points a cluster's tag at a target that somebody else signed.
func (d *Demo) tamper(ctx context.Context, cluster string) (string, error) {
	if _, err := d.agent(cluster); err != nil {
		return "", err
	}
	stranger, err := signing.NewMemorySigner()
	if err != nil {
		return "", err
	}
	name := v1alpha1.TargetRepository(cluster)
	repo, err := d.Registry.Repository(name)
	if err != nil {
		return "", err
	}
	desc, err := repo.Resolve(ctx, v1alpha1.TagCurrent)
	if err != nil {
		return "", err
	}
	verified, err := d.Verifier.Verify(ctx, repo, name, desc)
	if err != nil {
		return "", fmt.Errorf("%s holds a forged target already; mend it first: %w", cluster, err)
	}
	target, err := oci.FetchTarget(ctx, repo, verified)
	if err != nil {
		return "", err
	}
	target.Generation++
	target.Bundles = target.Bundles[:1]
	target.AllowPrune = true
	data, err := json.Marshal(target)
	if err != nil {
		return "", err
	}
	forged, _, err := oci.Push(ctx, repo, oci.Artifact{
		Type: v1alpha1.ArtifactTypeTarget, Layers: []oci.Blob{{MediaType: v1alpha1.MediaTypeTarget, Data: data}},
	})
	if err != nil {
		return "", err
	}
	if _, err := stranger.Sign(ctx, repo, forged); err != nil {
		return "", err
	}
	if err := repo.Tag(ctx, forged, v1alpha1.TagCurrent); err != nil {
		return "", err
	}
	return fmt.Sprintf("somebody put a target for %s into the registry, signed with a key that its agent does not trust: it is refused, and what runs keeps running", cluster), nil
}

// mend undoes what was done: to one bundle or cluster, or everything.
func (d *Demo) mend(ctx context.Context, subject string) (string, error) {
	index, _, err := publish.ReadIndex(ctx, d.Registry, d.Verifier)
	if err != nil {
		return "", err
	}
	var done []string
	for _, one := range d.Agents {
		if subject != "" && subject != one.Name {
			continue
		}
		mended, err := d.mendCluster(ctx, one, index, one.Name)
		if err != nil {
			return "", err
		}
		if mended {
			done = append(done, one.Name)
		}
	}
	bundles, err := d.mendBundles(ctx, subject)
	if err != nil {
		return "", err
	}
	done = append(done, bundles...)
	if len(done) == 0 && subject != "" && d.byName[subject] == nil && len(bundles) == 0 {
		return "", fmt.Errorf("%q is neither a cluster nor a bundle", subject)
	}
	if len(done) == 0 {
		return "nothing is broken", nil
	}
	return "mended: " + strings.Join(done, ", "), nil
}

func (d *Demo) mendCluster(ctx context.Context, one agentHandle, index v1alpha1.FleetIndex, name string) (bool, error) {
	mended := one.Offline()
	if mended {
		one.SetOffline(false)
	}
	at := slices.IndexFunc(index.Clusters, func(c v1alpha1.IndexCluster) bool { return c.Name == name })
	if at < 0 {
		return mended, nil
	}
	repo, err := d.Registry.Repository(v1alpha1.TargetRepository(name))
	if err != nil {
		return mended, err
	}
	current, err := repo.Resolve(ctx, v1alpha1.TagCurrent)
	if err != nil || current.Digest.String() == index.Clusters[at].Digest {
		return mended, err
	}
	right, err := repo.Resolve(ctx, index.Clusters[at].Digest)
	if err != nil {
		return mended, err
	}
	return true, repo.Tag(ctx, right, v1alpha1.TagCurrent)
}

func (d *Demo) mendBundles(ctx context.Context, subject string) ([]string, error) {
	var done []string
	for _, bundle := range breakable(d.Fleet) {
		if subject != "" && subject != bundle {
			continue
		}
		files, err := bundleFiles(d.Fleet, bundle)
		if err != nil {
			return done, err
		}
		broken := slices.ContainsFunc(files, func(path string) bool {
			data, err := os.ReadFile(path)
			return err == nil && strings.Contains(string(data), brokenImage)
		})
		if !broken {
			continue
		}
		if _, err := mendBundle(d.Fleet, bundle); err != nil {
			return done, err
		}
		done = append(done, "bundle "+bundle)
	}
	if len(done) == 0 {
		return nil, nil
	}
	_, err := d.Publish(ctx)
	return done, err
}

// SocketPath is where a running demo listens, for this user.
func SocketPath() string {
	dir := os.Getenv("XDG_RUNTIME_DIR")
	if dir == "" {
		dir = filepath.Join(os.TempDir(), fmt.Sprintf("pinnace-%d", os.Getuid()))
	}
	return filepath.Join(dir, "pinnace-demo.sock")
}

const (
	// maxCommand stops commands that fill the memory of the demo.
	maxCommand = 4 << 10
	// maxReply stops answers that fill the memory of who asked.
	maxReply = 1 << 20
)

// Listen takes commands on a socket until ctx ends. ErrRunning says that another demo has it.
func (d *Demo) Listen(ctx context.Context, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	var dialer net.Dialer
	if conn, err := dialer.DialContext(ctx, "unix", path); err == nil {
		return errors.Join(ErrRunning, conn.Close())
	}
	_ = os.Remove(path) // what a demo that was killed left behind
	listener, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	for {
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		d.serve(ctx, conn)
	}
}

// ErrRunning says that a demo runs already.
var ErrRunning = errors.New("a demo runs already; end it with Ctrl-C in its terminal")

// ErrNotRunning says that no demo listens.
var ErrNotRunning = errors.New("no demo runs; start one with pinnace demo in another terminal")

func (d *Demo) serve(ctx context.Context, conn net.Conn) {
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(time.Minute)) // a client that says nothing holds up nobody for longer
	var command Command
	var answer Answer
	if err := json.NewDecoder(io.LimitReader(conn, maxCommand)).Decode(&command); err != nil {
		answer.Error = err.Error()
	} else if text, err := d.Do(ctx, command); err != nil {
		answer.Error = err.Error()
	} else {
		answer.Text = text
	}
	_ = json.NewEncoder(conn).Encode(answer) // a client that is gone needs no answer
}

// Send sends a command to a running demo.
func Send(ctx context.Context, path string, command Command) (string, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", path)
	if err != nil {
		return "", ErrNotRunning
	}
	defer func() { _ = conn.Close() }()
	var answer Answer
	if err := json.NewEncoder(conn).Encode(command); err != nil {
		return "", fmt.Errorf("the demo ended before it answered: %w", ErrNotRunning)
	}
	if err := json.NewDecoder(bufio.NewReader(io.LimitReader(conn, maxReply))).Decode(&answer); err != nil {
		return "", fmt.Errorf("the demo ended before it answered: %w", ErrNotRunning)
	}
	if answer.Error != "" {
		return "", errors.New(answer.Error)
	}
	return answer.Text, nil
}
