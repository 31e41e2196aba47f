package e2e

import (
	"net/http/httptest"
	"net/http/httputil"
	"sync/atomic"
	"testing"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/e2e/harness"
)

// A site whose registry can be reached through a proxy only: its name is nowhere to be resolved but by the proxy.
func TestRegistryBehindAProxy(t *testing.T) {
	const name, host = "proxied", "registry.site.invalid"
	fleet := smallFleet(t, registry.Addr, name, map[string]string{"app": textOf("app", "0")})
	_, err := fleet.Publish(t.Context())
	ok(t, err)
	var passed atomic.Int32
	proxy := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		if r.In.Host == host {
			passed.Add(1)
			r.Out.URL.Host = registry.Addr
		}
	}})
	t.Cleanup(proxy.Close)
	cluster := newCluster(t, name)
	start(t, newAgent(t, fleet, cluster, harness.AgentOptions{
		Registry: &v1alpha1.Registry{Prefix: host + "/" + fleet.Path(), PlainHTTP: true},
		Env:      []string{"HTTP_PROXY=" + proxy.URL},
	}))
	ok(t, cluster.WaitReady(t.Context(), "app"))
	if passed.Load() == 0 {
		t.Error("nothing went through the proxy")
	}
}
