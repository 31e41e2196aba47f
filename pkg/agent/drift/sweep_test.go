package drift

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/rest"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/e2e/controlplane/planetest"
	"pinnace.dev/pinnace/pkg/agent/apply"
)

// deaf is a network on which watches stay open, but nothing comes through any more once it is set.
type deaf struct {
	atomic.Bool
	next http.RoundTripper
}

func (d *deaf) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := d.next.RoundTrip(request)
	if err == nil && request.URL.Query().Get("watch") != "" {
		response.Body = &deafBody{response.Body, d}
	}
	return response, err
}

type deafBody struct {
	io.ReadCloser
	network *deaf
}

func (b *deafBody) Read(into []byte) (int, error) {
	for {
		n, err := b.ReadCloser.Read(into)
		if err != nil || !b.network.Load() {
			return n, err
		}
	}
}

// A watch that broke without anybody noticing is what the sweep is for.
func TestSweepFindsWhatABrokenWatchMissed(t *testing.T) {
	config, network := cluster.Config(), &deaf{}
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { network.next = next; return network })
	ns := planetest.Fresh("deaf")
	k := keepBy(t, config, Options{Sweep: 300 * time.Millisecond}, ns, v1alpha1.DeployOptions{}, settings, web)
	network.Store(true)
	patch(t, configMaps, ns, "settings", `{"data":{"color":"red"}}`)
	if err := planetest.Admin(t, cluster).Resource(deployments).Namespace(ns).Delete(t.Context(), "web", deleteNow); err != nil {
		t.Fatal(err)
	}
	planetest.Within(t, 20*time.Second, "both are as they were", func() bool {
		return color(t, ns) == "blue" && get(t, deployments, ns, "web") != nil
	})
	verdicts, _ := k.seen()
	kinds := map[Kind]int{}
	for _, verdict := range verdicts {
		kinds[verdict.Kind]++
	}
	if kinds[Modified] != 1 || kinds[Missing] != 1 {
		t.Errorf("verdicts %v", verdicts)
	}
}

// apiServer is a cluster in memory that holds no objects, for tests of timers.
type apiServer struct {
	mu     sync.Mutex
	sweeps []time.Time
}

func (s *apiServer) RoundTrip(request *http.Request) (*http.Response, error) {
	answer := func(body string) (*http.Response, error) {
		return &http.Response{
			StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}},
			Body: io.NopCloser(strings.NewReader(body)), Request: request,
		}, nil
	}
	switch request.URL.Path {
	case "/api":
		return answer(`{"kind":"APIVersions","versions":["v1"]}`)
	case "/apis":
		return answer(`{"kind":"APIGroupList","apiVersion":"v1","groups":[]}`)
	case "/api/v1":
		return answer(`{"kind":"APIResourceList","groupVersion":"v1","resources":[
			{"name":"configmaps","singularName":"configmap","namespaced":true,"kind":"ConfigMap","verbs":["list","watch"]}]}`)
	case "/api/v1/configmaps":
	default:
		return nil, errors.New("nobody asks for " + request.URL.Path)
	}
	if request.URL.Query().Get("labelSelector") != v1alpha1.LabelBundle {
		return nil, errors.New("the request would read what is not ours: " + request.URL.RawQuery)
	}
	if request.URL.Query().Get("watch") == "" {
		s.mu.Lock()
		s.sweeps = append(s.sweeps, time.Now())
		s.mu.Unlock()
		return answer(`{"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/v1","metadata":{"resourceVersion":"1"},"items":[]}`)
	}
	response, err := answer("")
	response.Body = &quiet{done: request.Context().Done(), first: strings.NewReader(`{"type":"BOOKMARK","object":{` +
		`"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1",` +
		`"metadata":{"resourceVersion":"1","annotations":{"k8s.io/initial-events-end":"true"}}}}`)}
	return response, err
}

// quiet is a watch on which nothing happens after the first event.
type quiet struct {
	first io.Reader
	done  <-chan struct{}
}

func (q *quiet) Read(into []byte) (int, error) {
	if n, err := q.first.Read(into); err == nil {
		return n, nil
	}
	<-q.done
	return 0, context.Canceled
}

func (q *quiet) Close() error { return nil }

// A sweep comes every ten minutes, a tenth sooner or later, so that thousands of agents don't come at once.
func TestSweepsAreJittered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &apiServer{}
		applier, err := apply.New(&rest.Config{Host: "http://cluster.example", Transport: server}, apply.Options{})
		if err != nil {
			t.Fatal(err)
		}
		watcher, err := New(applier, func(event Event) { t.Errorf("event %+v", event) }, Options{})
		if err != nil {
			t.Fatal(err)
		}
		watcher.Follow(map[string]Followed{"shop": {Inventory: apply.InventoryOf(
			apply.Ref{APIVersion: "v1", Kind: "ConfigMap", Namespace: "shop", Name: "settings"})}})
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		started := time.Now()
		running.Go(func() { watcher.Run(ctx) })
		const sweeps = 12
		time.Sleep(sweeps * 11 * time.Minute)
		stop()
		running.Wait()
		if len(server.sweeps) < sweeps {
			t.Fatalf("%d sweeps in %s", len(server.sweeps), time.Since(started))
		}
		pauses := map[time.Duration]bool{}
		before := started
		for _, at := range server.sweeps {
			if pause := at.Sub(before); pause < 9*time.Minute || pause > 11*time.Minute {
				t.Errorf("a sweep %s after the one before", pause)
			}
			pauses[at.Sub(before)] = true
			before = at
		}
		if len(pauses) < sweeps/2 {
			t.Errorf("only %d different pauses", len(pauses))
		}
	})
}
