package agentcli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/agent"
)

// brief is the servers' patience in these tests.
const brief = 200 * time.Millisecond

// generous bounds what must happen at once, on a busy machine.
const generous = 20 * time.Second

// serving starts the agent's own servers on loopback and returns where they listen.
func serving(t *testing.T) (operate, notify string) {
	t.Helper()
	metrics := agent.NewMetrics()
	s := &setup{
		agent: agent.New(agent.Config{State: &agent.State{}}), metrics: metrics, log: slog.New(slog.DiscardHandler),
		spec: v1alpha1.AgentSpec{Cluster: "factory-07", Webhook: &v1alpha1.Webhook{}},
	}
	hook, err := notifications(s)
	if err != nil {
		t.Fatal(err)
	}
	e := &endpoints{timeout: brief}
	addresses := make([]string, 0, 2)
	for _, handler := range []http.Handler{operations(s), hook} {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addresses = append(addresses, listener.Addr().String())
		e.serve(listener, listener.Addr().String(), handler, func(err error) { t.Error(err) })
	}
	t.Cleanup(func() {
		if err := e.close(); err != nil {
			t.Error(err)
		}
	})
	return addresses[0], addresses[1]
}

// send writes bytes and returns all that is answered until the server closes the connection, which it must.
func send(t *testing.T, address, request string, more io.Reader) (status int) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(generous)); err != nil {
		t.Fatal(err)
	}
	answer := make(chan int, 1)
	go func() {
		defer close(answer)
		reader := bufio.NewReader(conn)
		response, err := http.ReadResponse(reader, nil)
		if err == nil {
			_, err = io.Copy(io.Discard, response.Body)
			err = errors.Join(err, response.Body.Close())
			answer <- response.StatusCode
		}
		if err == nil {
			_, err = reader.ReadByte()
		}
		if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
			t.Error("the server keeps the connection open")
		}
	}()
	// The server may hang up in the middle.
	if _, err := io.WriteString(conn, request); err == nil && more != nil {
		_, _ = io.Copy(conn, more)
	}
	return <-answer
}

// endless is a body without an end.
type endless struct{ chunk string }

func (e endless) Read(p []byte) (int, error) { return copy(p, e.chunk), nil }

func TestEndpointsAgainstAbuse(t *testing.T) {
	t.Parallel()
	operate, notify := serving(t)
	const notification = `{"repository":"targets/factory-07","tag":"current"}`
	post := "POST / HTTP/1.1\r\nHost: a\r\n"
	for _, tt := range []struct {
		name    string
		address string
		request string
		more    io.Reader
		want    []int // statuses; 0 is no answer at all
	}{
		{"headers that never end", operate, "GET /metrics HTTP/1.1\r\nHost: a\r\n", endless{"X-A: " + strings.Repeat("a", 1000) + "\r\n"}, []int{431, 0}},
		{"a header of a megabyte", notify, post + "X-A: " + strings.Repeat("a", 1<<20) + "\r\n\r\n", nil, []int{431, 0}},
		{"a request line that never ends", operate, "GET /", endless{strings.Repeat("a", 1000)}, []int{431, 414, 400, 0}},
		{"half a header, and silence", operate, "GET /metrics HTTP/1.1\r\nHo", nil, []int{400, 0}},
		{"nothing at all", notify, "", nil, []int{0}},
		{"a body that never comes", notify, post + "Content-Length: 100\r\n\r\n", nil, []int{400}},
		{"a body that is announced as larger than allowed", notify, post + "Content-Length: 99999999\r\n\r\n", endless{strings.Repeat(" ", 1000)}, []int{413, 0}},
		{"chunks that never end", notify, post + "Transfer-Encoding: chunked\r\n\r\n", endless{"10\r\n" + strings.Repeat(" ", 16) + "\r\n"}, []int{413, 400, 0}},
		{"no HTTP", operate, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", nil, []int{400}},
		{"a negative length", notify, post + "Content-Length: -1\r\n\r\n", nil, []int{400}},
		{"two lengths", notify, post + "Content-Length: 1\r\nContent-Length: 2\r\n\r\n", nil, []int{400}},
		{"a broken chunk", notify, post + "Transfer-Encoding: chunked\r\n\r\nzz\r\n", nil, []int{400}},
		{"a newline in a header", notify, post + "X-A: a\x00b\r\n\r\n", nil, []int{400}},
		{"a method that is none", operate, "BREW /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", nil, []int{405}},
		{"a path that climbs", operate, "GET /metrics/../../etc/passwd HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", nil, []int{301, 307, 404}},
		{"JSON that nests a million deep", notify, post + fmt.Sprintf("Connection: close\r\nContent-Length: %d\r\n\r\n", 1<<20), strings.NewReader(strings.Repeat("[", 1<<20)), []int{400}},
		{"an honest notification", notify, post + fmt.Sprintf("Connection: close\r\nContent-Length: %d\r\n\r\n%s", len(notification), notification), nil, []int{202}},
		{"an honest scrape", operate, "GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", nil, []int{200}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := send(t, tt.address, tt.request, tt.more)
			for _, want := range tt.want {
				if got == want {
					return
				}
			}
			t.Errorf("status %d, want one of %v", got, tt.want)
		})
	}
}

// Many clients at once: what is beyond the bounds is told to come back, and everything else is answered.
func TestEndpointsAgainstCrowds(t *testing.T) {
	t.Parallel()
	operate, notify := serving(t)
	client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 64}, Timeout: generous}
	defer client.CloseIdleConnections()
	crowd, ctx := errgroup.WithContext(t.Context())
	counts := make(chan int, 400)
	for i := range 400 {
		crowd.Go(func() error {
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+operate+"/metrics", http.NoBody)
			if i%2 == 1 {
				request, err = http.NewRequestWithContext(ctx, http.MethodPost, "http://"+notify, strings.NewReader(`{"repository":"x"}`))
			}
			if err != nil {
				return err
			}
			response, err := client.Do(request)
			if err != nil {
				return err
			}
			_, err = io.Copy(io.Discard, response.Body)
			counts <- response.StatusCode
			return errors.Join(err, response.Body.Close())
		})
	}
	if err := crowd.Wait(); err != nil {
		t.Fatal(err)
	}
	close(counts)
	statuses := map[int]int{}
	for status := range counts {
		statuses[status]++
	}
	if sum := statuses[200] + statuses[202] + statuses[429] + statuses[503]; sum != 400 || statuses[200] == 0 || statuses[202] == 0 {
		t.Errorf("statuses %v: want 200 and 202, or 503 and 429 for too many at once", statuses)
	}
}

// Whoever takes every connection there is and says nothing loses them after a while, and others are answered.
func TestEndpointsAgainstSilence(t *testing.T) {
	t.Parallel()
	operate, _ := serving(t)
	for range maxConnections + 10 {
		conn, err := net.Dial("tcp", operate)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
	}
	ctx, cancel := context.WithTimeout(t.Context(), generous)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+operate+"/healthz", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	response, err := transport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		t.Errorf("status %d, want 200", response.StatusCode)
	}
}
