package agentcli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/internal/exitcode"
	"pinnace.dev/pinnace/pkg/agent"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/signing"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const kubeconfig = `
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "http://127.0.0.1:1"}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
users: [{name: u, user: {}}]
current-context: c
`

// write puts files into a folder of the test's own and returns it.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func agentYAML(rest string) string {
	return "apiVersion: pinnace.dev/v1alpha1\nkind: AgentConfig\nspec:\n" + rest
}

const complete = `  fleet: acme
  cluster: factory-07
  registries: [{prefix: 127.0.0.1:1/fleet, plainHTTP: true}]
  stateDir: state
  trustPolicy: trust.yaml
  kubeconfig: kubeconfig
`

// command runs the program and returns its exit code and what it printed.
func command(ctx context.Context, args ...string) (code int, stdout, stderr string) {
	var out, err bytes.Buffer
	code = Run(ctx, Program{Version: "v1.2.3", Out: &out, Err: &err}, args)
	return code, out.String(), err.String()
}

func TestBadInput(t *testing.T) {
	t.Parallel()
	_, public, err := signing.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	policy := "apiVersion: pinnace.dev/v1alpha1\nkind: TrustPolicy\nspec:\n  rules:\n  - match: '**'\n    signers: {keys: [{name: release, publicKey: \"" +
		strings.ReplaceAll(string(public), "\n", `\n`) + "\"}]}\n"
	good := map[string]string{"agent.yaml": agentYAML(complete), "trust.yaml": policy, "kubeconfig": kubeconfig}
	tests := []struct {
		name   string
		change map[string]string
		args   []string
		code   int
		want   string // in stderr
	}{
		{name: "no configuration named", args: []string{"run"}, code: exitcode.Usage, want: "--config"},
		{name: "no such file", args: []string{"run", "-c", "absent.yaml"}, code: exitcode.Usage, want: "absent.yaml"},
		{name: "unknown flag", args: []string{"run", "--cofnig", "x"}, code: exitcode.Usage, want: "--cofnig"},
		{name: "unknown command", args: []string{"rnu"}, code: exitcode.Usage, want: "rnu"},
		{name: "unknown log format", args: []string{"version", "--log-format", "xml"}, code: exitcode.Usage, want: "xml"},
		{name: "once for one bundle", args: []string{"sync", "--once", "web"}, code: exitcode.Usage, want: "whole cluster"},
		{name: "why of nothing", args: []string{"why"}, code: exitcode.Usage, want: "name the bundle"},
		{name: "unknown output", args: []string{"sync", "--once", "-c", "x", "-o", "xml"}, code: exitcode.Usage, want: "xml"},
		{
			name: "misspelt field", change: map[string]string{"agent.yaml": agentYAML("  flete: acme\n")}, code: exitcode.Usage,
			want: `agent.yaml:4:3: unknown field "flete"`,
		},
		{name: "wrong kind", change: map[string]string{"agent.yaml": policy}, code: exitcode.Usage, want: "agent.yaml:2"},
		{name: "nothing set", change: map[string]string{"agent.yaml": agentYAML("  interval: 5s\n")}, code: exitcode.Usage, want: "cluster is missing"},
		{name: "negative interval", change: map[string]string{"agent.yaml": agentYAML(complete + "  interval: -5s\n")}, code: exitcode.Usage, want: "agent.yaml:10"},
		{name: "registry with a scheme", change: map[string]string{"agent.yaml": agentYAML(strings.Replace(complete, "127.0.0.1:1/fleet", "https://127.0.0.1/fleet", 1))}, code: exitcode.Usage, want: "https://127.0.0.1/fleet"},
		{name: "webhook without an address", change: map[string]string{"agent.yaml": agentYAML(complete + "  webhook: {listen: ''}\n")}, code: exitcode.Usage, want: "listen is missing"},
		{name: "policy absent", change: map[string]string{"trust.yaml": ""}, code: exitcode.Usage, want: "trust.yaml"},
		{name: "policy without a key", change: map[string]string{"trust.yaml": strings.Replace(policy, "BEGIN PUBLIC", "BEGIN", 1)}, code: exitcode.Usage, want: "trust.yaml"},
		{name: "status key absent", change: map[string]string{"agent.yaml": agentYAML(complete + "  statusKey: status.key\n")}, code: exitcode.Usage, want: "status.key"},
		{name: "kubeconfig absent", change: map[string]string{"kubeconfig": ""}, code: exitcode.Usage, want: "spec.kubeconfig"},
		{name: "address in use or foreign", change: map[string]string{"agent.yaml": agentYAML(complete + "  listen: 203.0.113.1:1\n")}, code: exitcode.Usage, want: "spec.listen"},
		{name: "empty webhook secret", change: map[string]string{"secret": "\n", "agent.yaml": agentYAML(complete + "  webhook: {listen: '127.0.0.1:0', secretFile: secret}\n")}, code: exitcode.Usage, want: "is empty"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			files := map[string]string{}
			for name, content := range good {
				files[name] = content
			}
			for name, content := range test.change {
				if files[name] = content; content == "" {
					delete(files, name)
				}
			}
			args := test.args
			if args == nil {
				args = []string{"run", "--config", filepath.Join(write(t, files), "agent.yaml")}
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			code, stdout, stderr := command(ctx, args...)
			if code != test.code || !strings.Contains(stderr, test.want) {
				t.Errorf("exit %d, want %d and %q on stderr:\n%s", code, test.code, test.want, stderr)
			}
			if stdout != "" {
				t.Errorf("stdout: %s", stdout)
			}
		})
	}
}

func TestCorruptStateNamesTheFile(t *testing.T) {
	t.Parallel()
	dir := write(t, map[string]string{"target.json": "{"})
	state, err := agent.OpenState(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer state.Close()
	_, err = state.Remembered()
	if got := exitCode(err); got != exitcode.Damaged {
		t.Errorf("exit %d, want %d: %v", got, exitcode.Damaged, err)
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	if code, stdout, _ := command(t.Context(), "version"); code != 0 || stdout != "v1.2.3\n" {
		t.Errorf("exit %d, %q", code, stdout)
	}
	if code, stdout, _ := command(t.Context(), "version", "-o", "json"); code != 0 || !strings.Contains(stdout, `"version":"v1.2.3"`) {
		t.Errorf("exit %d, %q", code, stdout)
	}
}

func TestHelpHasExamples(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"run", "sync", "version"} {
		code, stdout, _ := command(t.Context(), name, "--help")
		if code != 0 || strings.Count(stdout, "pinnace-agent "+name) < 2 {
			t.Errorf("%s --help: exit %d\n%s", name, code, stdout)
		}
	}
}

func TestExitCode(t *testing.T) {
	t.Parallel()
	reason := func(reason agent.Reason, cause error) error {
		return fmt.Errorf("sync: %w", &agent.Error{Stage: agent.StageFetch, Reason: reason, Err: cause})
	}
	tests := []struct {
		err  error
		want int
	}{
		{nil, exitcode.Done},
		{reason(agent.ReasonKeyNotTrusted, errors.New("x")), exitcode.Refused},
		{reason(agent.ReasonRollback, errors.New("x")), exitcode.Refused},
		{reason(agent.ReasonPruneGuard, errors.New("x")), exitcode.Refused},
		{reason(agent.ReasonUnauthorized, oci.ErrUnauthorized), exitcode.Unauthorized},
		{reason(agent.ReasonUnreachable, oci.ErrUnreachable), exitcode.Unreachable},
		{reason(agent.ReasonDigestMismatch, oci.ErrDamaged), exitcode.Damaged},
		{reason(agent.ReasonNotFound, oci.ErrNotFound), exitcode.NotFound},
		{reason(agent.ReasonAnotherAgent, errors.New("x")), exitcode.Usage},
		{usagef("x"), exitcode.Usage},
		{errors.New("x"), exitcode.No},
	}
	for _, test := range tests {
		if got := exitCode(test.err); got != test.want {
			t.Errorf("exitCode(%v) = %d, want %d", test.err, got, test.want)
		}
	}
}

func TestVerdict(t *testing.T) {
	t.Parallel()
	report := func(states ...v1alpha1.State) agent.Result {
		var result agent.Result
		for i, state := range states {
			result.Report.Bundles = append(result.Report.Bundles, v1alpha1.ReportedBundle{Name: fmt.Sprintf("b%d", i), State: state})
		}
		return result
	}
	refused := report(v1alpha1.StateReady)
	refused.Problem = &agent.Error{Stage: agent.StageVerify, Reason: agent.ReasonKeyNotTrusted, Err: errors.New("x")}
	tests := []struct {
		name   string
		result agent.Result
		want   int
	}{
		{"nothing to run", report(), exitcode.Done},
		{"all ready", report(v1alpha1.StateReady, v1alpha1.StateReady), exitcode.Done},
		{"one is not ready", report(v1alpha1.StateReady, v1alpha1.StateUpdating), exitcode.No},
		{"drifted, only warned of", report(v1alpha1.StateDrifted), exitcode.No},
		{"some failed", report(v1alpha1.StateReady, v1alpha1.StateFailed, v1alpha1.StateWaiting), exitcode.Partial},
		{"the only one failed", report(v1alpha1.StateFailed), exitcode.No},
		{"target refused", refused, exitcode.Refused},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			err := verdict(test.result)
			if got := exitCode(err); got != test.want {
				t.Errorf("exit %d, want %d: %v", got, test.want, err)
			}
		})
	}
}

func TestOperations(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	state, err := agent.OpenState(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer state.Close()
	content, err := oci.OpenLayout(state.ContentDir())
	if err != nil {
		t.Fatal(err)
	}
	metrics := agent.NewMetrics()
	setup := &setup{agent: agent.New(agent.Config{State: state, Content: content, Metrics: metrics}), metrics: metrics}
	server := httptest.NewServer(operations(setup))
	defer server.Close()
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 503, "/metrics": 200, "/": 404} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		response, err := server.Client().Do(request)
		if err != nil {
			t.Fatal(err)
		}
		if err := response.Body.Close(); err != nil {
			t.Error(err)
		}
		if response.StatusCode != want {
			t.Errorf("%s: %d, want %d", path, response.StatusCode, want)
		}
	}
}

// What is deployed by the YAML in deploy/ must be what is generated and what the program accepts.
func TestDeploy(t *testing.T) {
	t.Parallel()
	generated, err := os.ReadFile("../../api/crd/pinnace.dev_bundledeployments.yaml")
	if err != nil {
		t.Fatal(err)
	}
	shipped, err := os.ReadFile("../../deploy/crd/bundledeployments.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(generated, shipped) {
		t.Error("deploy/crd/bundledeployments.yaml is not api/crd/pinnace.dev_bundledeployments.yaml; copy it")
	}
	manifest, err := os.ReadFile("../../deploy/agent/config.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(manifest), "  agent.yaml: |\n")
	block, _, _ = strings.Cut(block, "  trust.yaml: |\n")
	var config strings.Builder
	for line := range strings.Lines(block) {
		config.WriteString(strings.TrimPrefix(line, "    "))
	}
	dir := write(t, map[string]string{"agent.yaml": config.String()})
	spec, err := loadConfig(filepath.Join(dir, "agent.yaml"))
	if err != nil {
		t.Fatalf("deploy/agent/config.yaml: %v", err)
	}
	if want := filepath.Join(dir, "trust.yaml"); spec.TrustPolicy != want {
		t.Errorf("trust policy %s, want %s: paths are relative to the file", spec.TrustPolicy, want)
	}
}
