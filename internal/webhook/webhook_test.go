package webhook

import (
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	fromDistribution = `{"events":[{"id":"1","action":"push","target":{"mediaType":"application/vnd.oci.image.manifest.v1+json","repository":"fleet/targets/factory-07","tag":"current","digest":"sha256:aa"},"request":{"method":"PUT"}}]}`
	fromHarbor       = `{"type":"PUSH_ARTIFACT","occur_at":1700000000,"operator":"robot","event_data":{"resources":[{"digest":"sha256:aa","tag":"current","resource_url":"harbor.example/fleet/targets/factory-07:current"}],"repository":{"name":"targets/factory-07","namespace":"fleet","repo_full_name":"fleet/targets/factory-07","repo_type":"private"}}}`
	generic          = `{"repository":"targets/factory-07","tag":"current"}`
)

func TestHandler(t *testing.T) {
	t.Parallel()
	const secret = "s3cret"
	tests := []struct {
		name   string
		method string
		secret string
		header map[string]string
		body   string
		status int
		hint   bool
	}{
		{name: "distribution", body: fromDistribution, status: 202, hint: true},
		{name: "harbor", body: fromHarbor, status: 202, hint: true},
		{name: "generic", body: generic, status: 202, hint: true},
		{name: "generic without a tag", body: `{"repository":"targets/factory-07"}`, status: 202, hint: true},
		{name: "another cluster", body: strings.ReplaceAll(fromDistribution, "07", "08"), status: 202},
		{name: "a name that ends alike", body: `{"repository":"other-targets/factory-07"}`, status: 202},
		{name: "another tag", body: strings.ReplaceAll(fromDistribution, "current", "gen-7"), status: 202},
		{name: "a bundle", body: strings.ReplaceAll(fromDistribution, "targets/factory-07", "bundles/web"), status: 202},
		{name: "a pull", body: strings.ReplaceAll(fromDistribution, `"push"`, `"pull"`), status: 202},
		{name: "a deletion at harbor", body: strings.ReplaceAll(fromHarbor, "PUSH_ARTIFACT", "DELETE_ARTIFACT"), status: 202},
		{name: "no events", body: `{"events":[]}`, status: 202},
		{name: "not JSON", body: `current`, status: 400},
		{name: "something else", body: `{"ref":"refs/heads/main"}`, status: 400},
		{name: "nothing", body: ``, status: 400},
		{name: "endless", body: generic + strings.Repeat(" ", MaxBody), status: 413},
		{name: "GET", method: http.MethodGet, status: 405},

		{name: "secret: nothing sent", secret: secret, body: generic, status: 401},
		{name: "secret: signed", secret: secret, header: signed(secret, generic), body: generic, status: 202, hint: true},
		{name: "secret: signed as GitHub does", secret: secret, header: map[string]string{"X-Hub-Signature-256": signed(secret, generic)[HeaderSignature]}, body: generic, status: 202, hint: true},
		{name: "secret: another body", secret: secret, header: signed(secret, generic), body: generic + " ", status: 401},
		{name: "secret: another key", secret: secret, header: signed("other", generic), body: generic, status: 401},
		{name: "secret: no hex", secret: secret, header: map[string]string{HeaderSignature: "sha256=zz"}, body: generic, status: 401},
		{name: "secret: bearer token", secret: secret, header: map[string]string{"Authorization": "Bearer " + secret}, body: fromDistribution, status: 202, hint: true},
		{name: "secret: harbor's token", secret: secret, header: map[string]string{"Authorization": secret}, body: fromHarbor, status: 202, hint: true},
		{name: "secret: wrong token", secret: secret, header: map[string]string{"Authorization": "Bearer x"}, body: generic, status: 401},
		{name: "secret: a wrong signature is not saved by a token", secret: secret, header: map[string]string{
			HeaderSignature: "sha256=00", "Authorization": "Bearer " + secret,
		}, body: generic, status: 401},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			hints, counted := 0, 0
			handler := New(Handler{
				Repository: "targets/factory-07", Tag: "current", Secret: []byte(test.secret),
				Hint: func() { hints++ }, Count: func(string, string) { counted++ },
			})
			method := test.method
			if method == "" {
				method = http.MethodPost
			}
			request := httptest.NewRequestWithContext(t.Context(), method, "/", strings.NewReader(test.body))
			for name, value := range test.header {
				request.Header.Set(name, value)
			}
			response := httptest.NewRecorder()
			handler.ServeHTTP(response, request)
			if response.Code != test.status {
				t.Errorf("status %d, want %d: %s", response.Code, test.status, response.Body)
			}
			if hinted := hints > 0; hinted != test.hint || hints > 1 {
				t.Errorf("%d hints, want hint %v", hints, test.hint)
			}
			if counted != 1 {
				t.Errorf("counted %d times, want once", counted)
			}
		})
	}
}

func signed(secret, body string) map[string]string {
	return map[string]string{HeaderSignature: "sha256=" + hex.EncodeToString(sign([]byte(secret), []byte(body)))}
}

func TestRateIsLimited(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{"requests": generic, "bytes": generic + strings.Repeat(" ", MaxBody-len(generic))} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			handler := New(Handler{Repository: "targets/x", Tag: "current", Hint: func() {}})
			for range 2 * burst {
				response := httptest.NewRecorder()
				handler.ServeHTTP(response, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", strings.NewReader(body)))
				if response.Code == http.StatusTooManyRequests {
					return
				}
			}
			t.Error("no request was refused")
		})
	}
}

// Bodies that come slowly, or never, are read a few at a time; the next sender is told to come back.
func TestSlowBodiesAreFew(t *testing.T) {
	t.Parallel()
	handler := New(Handler{Repository: "targets/x", Tag: "current", Hint: func() {}})
	post := func(body io.Reader) int {
		response := httptest.NewRecorder()
		handler.ServeHTTP(response, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", body))
		return response.Code
	}
	var slow sync.WaitGroup
	var pipes []*io.PipeWriter
	for range maxBodies {
		body, sender := io.Pipe()
		pipes = append(pipes, sender)
		slow.Go(func() {
			if got := post(body); got != http.StatusAccepted {
				t.Errorf("a slow body: status %d, want 202", got)
			}
		})
		if _, err := io.WriteString(sender, "{"); err != nil { // it is being read
			t.Fatal(err)
		}
	}
	if got := post(strings.NewReader(generic)); got != http.StatusTooManyRequests {
		t.Errorf("one more: status %d, want 429", got)
	}
	for _, sender := range pipes {
		if _, err := io.WriteString(sender, generic[1:]); err != nil {
			t.Fatal(err)
		}
		if err := sender.Close(); err != nil {
			t.Fatal(err)
		}
	}
	slow.Wait()
	if got := post(strings.NewReader(generic)); got != http.StatusAccepted {
		t.Errorf("afterwards: status %d, want 202", got)
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	two := `{"events":[{"action":"push","target":{"repository":"a","tag":"1"}},{"action":"delete","target":{"repository":"b"}},{"action":"push","target":{"repository":"c"}}]}`
	events, provider, err := Parse([]byte(two))
	if err != nil || provider != Distribution {
		t.Fatalf("provider %q, %v", provider, err)
	}
	if diff := cmp.Diff([]Event{{"a", "1"}, {"c", ""}}, events); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{fromDistribution, fromHarbor, generic, `{"events":null}`, `{"event_data":{}}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		events, provider, err := Parse(body)
		if err == nil && provider == "" || err != nil && len(events) > 0 {
			t.Errorf("%d events from %q, %v", len(events), provider, err)
		}
	})
}
