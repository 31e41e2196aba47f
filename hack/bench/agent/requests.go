package main

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"regexp"
	"strconv"

	"k8s.io/client-go/rest"

	"pinnace.dev/pinnace/e2e/controlplane"
)

// requests that an API server has served or is serving, by its own metrics.
type requests struct {
	all, writes float64
	by          map[string]float64 // verb and resource
}

var sample = regexp.MustCompile(`^(apiserver_request_total|apiserver_longrunning_requests)\{(.*)\} ([0-9.e+]+)$`)

var label = regexp.MustCompile(`([a-z_]+)="([^"]*)"`)

// requestsOf reads what an API server counted: every request that ended, and watches that are open. Probes and the
// reading of the metrics themselves don't count.
func requestsOf(ctx context.Context, server *controlplane.Replica) (requests, error) {
	client, err := rest.HTTPClientFor(server.Config())
	if err != nil {
		return requests{}, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, server.Config().Host+"/metrics", http.NoBody)
	if err != nil {
		return requests{}, err
	}
	response, err := client.Do(request)
	if err != nil {
		return requests{}, err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return requests{}, fmt.Errorf("the API server's metrics: %s", response.Status)
	}
	found := requests{by: map[string]float64{}}
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		match := sample.FindStringSubmatch(lines.Text())
		if match == nil {
			continue
		}
		labels := map[string]string{}
		for _, pair := range label.FindAllStringSubmatch(match[2], -1) {
			labels[pair[1]] = pair[2]
		}
		switch labels["subresource"] {
		case "/metrics", "/readyz", "/livez", "/healthz":
			continue
		}
		count, err := strconv.ParseFloat(match[3], 64)
		if err != nil {
			return requests{}, err
		}
		found.all += count
		switch labels["verb"] {
		case "POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION":
			found.writes += count
		}
		found.by[labels["verb"]+" "+labels["resource"]+labels["subresource"]] += count
	}
	return found, lines.Err()
}

func (r requests) minus(other requests) requests {
	out := requests{all: r.all - other.all, writes: r.writes - other.writes, by: map[string]float64{}}
	for name, count := range r.by {
		if more := count - other.by[name]; more != 0 {
			out.by[name] = more
		}
	}
	return out
}
