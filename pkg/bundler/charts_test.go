package bundler_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pinnace.dev/pinnace/api/v1alpha1"
	"pinnace.dev/pinnace/pkg/bundler"
	helmcharts "pinnace.dev/pinnace/pkg/bundler/chart"
	"pinnace.dev/pinnace/pkg/bundler/source"
	"pinnace.dev/pinnace/pkg/oci"
	"pinnace.dev/pinnace/pkg/oci/archive"
	"pinnace.dev/pinnace/pkg/oci/registrytest"
)

// packChart packs a chart with one ConfigMap that says its version.
func packChart(t *testing.T, name, version string, more ...string) []byte {
	t.Helper()
	files := map[string][]byte{
		"Chart.yaml": []byte(fmt.Sprintf("apiVersion: v2\nname: %s\nversion: %s\n", name, version)),
		"templates/cm.yaml": []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: {{ .Release.Name }}-{{ .Chart.Name }}}\n" +
			"data: {version: {{ .Chart.Version | quote }}, greeting: {{ .Values.greeting | default \"none\" | quote }}}\n"),
	}
	for i := 0; i < len(more); i += 2 {
		files[more[i]] = []byte(more[i+1])
	}
	packed, err := archive.Pack(name, files, archive.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return packed
}

// chartRepository is a classic one: an index and packed charts, behind a password.
type chartRepository struct {
	*httptest.Server
	mu       sync.Mutex
	files    map[string][]byte
	entries  map[string][]string
	requests []string
	password string
	down     bool
}

func newChartRepository(t *testing.T) *chartRepository {
	t.Helper()
	r := &chartRepository{files: map[string][]byte{}, entries: map[string][]string{}}
	r.Server = httptest.NewTLSServer(http.HandlerFunc(r.serve))
	t.Cleanup(r.Close)
	return r
}

func (r *chartRepository) serve(w http.ResponseWriter, request *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests = append(r.requests, path.Base(request.URL.Path))
	_, password, _ := request.BasicAuth()
	switch content, found := r.files[request.URL.Path]; {
	case r.down:
		http.Error(w, "down", http.StatusServiceUnavailable)
	case r.password != "" && password != r.password:
		http.Error(w, "who are you", http.StatusUnauthorized)
	case path.Base(request.URL.Path) == "index.yaml":
		_, _ = fmt.Fprint(w, "apiVersion: v1\nentries:\n")
		for name, versions := range r.entries {
			_, _ = fmt.Fprintf(w, "  %s:\n%s", name, strings.Join(versions, ""))
		}
	case !found:
		http.NotFound(w, request)
	default:
		_, _ = w.Write(content)
	}
}

func (r *chartRepository) add(name, version string, packed []byte, withDigest bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	file := fmt.Sprintf("/charts/files/%s-%s.tgz", name, version)
	r.files[file] = packed
	entry := fmt.Sprintf("  - version: %q\n    urls: [\"files/%s\"]\n", version, path.Base(file))
	if withDigest {
		sum := sha256.Sum256(packed)
		entry += "    digest: " + hex.EncodeToString(sum[:]) + "\n"
	}
	r.entries[name] = append(r.entries[name], entry)
}

func (r *chartRepository) asked() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.requests
	r.requests = nil
	slices.Sort(out)
	return out
}

func (r *chartRepository) set(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
}

// remotes reach the repository with its certificate, and everything else as it comes.
func (r *chartRepository) remotes(t *testing.T) bundler.Remotes {
	t.Helper()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pemOf(r.Certificate()), 0o600); err != nil {
		t.Fatal(err)
	}
	return bundler.Remotes{Source: source.Options{CacheDir: t.TempDir()}, OCI: oci.Options{CAFile: ca}}
}

func pemOf(certificate *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw})
}

// buildWith discovers the bundle web and builds it; it returns what names meant.
func buildWith(t *testing.T, files map[string]string, remotes bundler.Remotes) (bundler.Built, []v1alpha1.Resolution, error) {
	t.Helper()
	options, names, err := bundler.Reach(remotes)
	if err != nil {
		t.Fatal(err)
	}
	src := v1alpha1.Source{Name: "apps", Paths: []string{"web"}}
	found, err := bundler.Discover(t.Context(), writeTree(t, files), src, options)
	if err != nil {
		return bundler.Built{}, nil, err
	}
	variant := bundler.Variant{}
	if helm := found[0].Bundle.Spec.Helm; helm != nil {
		variant.HelmValues = helm.Values
	}
	built, err := bundler.Build(t.Context(), found[0], variant)
	return built, names.Used(nil), err
}

func data(t *testing.T, built bundler.Built, name string) map[string]any {
	t.Helper()
	for _, object := range built.Objects {
		if object.GetName() == name {
			data, _ := object.Object["data"].(map[string]any)
			return data
		}
	}
	t.Fatalf("no object %q in %d", name, len(built.Objects))
	return nil
}

func TestChartOfHTTPRepository(t *testing.T) {
	for _, withDigest := range []bool{true, false} {
		t.Run(fmt.Sprintf("digests in the index: %v", withDigest), func(t *testing.T) {
			repository := newChartRepository(t)
			for _, version := range []string{"1.2.0", "1.10.0", "2.0.0", "1.11.0-rc.1"} {
				repository.add("web", version, packChart(t, "web", version), withDigest)
			}
			files := map[string]string{"web/pinnace.yaml": bundleHead + fmt.Sprintf(
				"spec: {helm: {repository: %q, chart: web, version: '>=1 <2', values: {greeting: hello}}}\n", repository.URL+"/charts")}
			remotes := repository.remotes(t)
			built, known, err := buildWith(t, files, remotes)
			if err != nil {
				t.Fatal(err)
			}
			if got := data(t, built, "web-web"); got["version"] != "1.10.0" || got["greeting"] != "hello" {
				t.Errorf("got %v", got)
			}
			if from := built.Config.Chart; from == nil || from.Version != "1.10.0" || from.Digest == "" || from.Repository != repository.URL+"/charts" {
				t.Errorf("got %+v", from)
			}
			if diff := cmp.Diff([]string{"index.yaml", "web-1.10.0.tgz"}, repository.asked()); diff != "" {
				t.Error(diff)
			}

			// A newer version changes nothing, and nobody is asked: neither here nor on another machine that only renders.
			repository.add("web", "1.12.0", packChart(t, "web", "1.12.0"), withDigest)
			remotes.Known = known
			again, _, err := buildWith(t, files, remotes)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(again.Layer, built.Layer) || len(repository.asked()) != 0 {
				t.Error("the same input gave other bytes, or a request")
			}
			elsewhere := remotes
			elsewhere.Source.CacheDir = t.TempDir()
			options, _, err := bundler.Reach(elsewhere)
			if err != nil {
				t.Fatal(err)
			}
			found, err := bundler.Discover(t.Context(), writeTree(t, files), v1alpha1.Source{Name: "apps", Paths: []string{"web"}}, options)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := bundler.Key(t.Context(), found[0], bundler.Variant{}); err != nil {
				t.Fatal(err)
			}
			if got := repository.asked(); len(got) != 0 {
				t.Errorf("a key cost requests: %q", got)
			}

			remotes.Refresh = true
			refreshed, _, err := buildWith(t, files, remotes)
			if err != nil {
				t.Fatal(err)
			}
			if got := data(t, refreshed, "web-web"); got["version"] != "1.12.0" {
				t.Errorf("refreshed to %v", got)
			}
		})
	}
}

// What was found once serves while the repository is away.
func TestChartWhileItsRepositoryIsAway(t *testing.T) {
	repository := newChartRepository(t)
	repository.add("web", "1.0.0", packChart(t, "web", "1.0.0"), true)
	files := map[string]string{"web/pinnace.yaml": bundleHead + fmt.Sprintf("spec: {helm: {repository: %q, chart: web}}\n", repository.URL+"/charts")}
	remotes := repository.remotes(t)
	if _, _, err := buildWith(t, files, remotes); err != nil {
		t.Fatal(err)
	}
	repository.set(func() { repository.down = true })
	if _, _, err := buildWith(t, files, remotes); err != nil {
		t.Errorf("from the cache: %v", err)
	}
	remotes.Source.CacheDir = t.TempDir()
	_, _, err := buildWith(t, files, remotes)
	wantError(t, err, `bundle "web": chart `+repository.URL, "unreachable: status 503")
}

func TestChartsThatAreRefused(t *testing.T) {
	repository := newChartRepository(t)
	repository.add("web", "1.0.0", packChart(t, "web", "1.0.0"), true)
	repository.add("lying", "1.0.0", packChart(t, "lying", "1.0.0"), true)
	repository.set(func() { repository.files["/charts/files/lying-1.0.0.tgz"] = packChart(t, "lying", "6.6.6") })
	repository.set(func() {
		repository.entries["down"] = []string{"  - {version: 1.0.0, urls: [\"http://127.0.0.1:1/x.tgz\"]}\n"}
		repository.entries["bomb"] = []string{"  - {version: 1.0.0, urls: [files/bomb.tgz]}\n"}
		repository.files["/charts/files/bomb.tgz"] = []byte("no archive")
	})
	tests := []struct{ name, helm, want string }{
		{"no such chart", "chart: nothing", `the repository has no chart "nothing"`},
		{"no such version", "chart: web, version: '>=2'", `none of 1 is within ">=2"`},
		{"another content than the index says", "chart: lying", "publish with --refresh"},
		{"a URL without TLS in the index", "chart: down", "only https is followed"},
		{"no archive", "chart: bomb", "chart "},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			files := map[string]string{"web/pinnace.yaml": bundleHead + fmt.Sprintf("spec: {helm: {repository: %q, %s}}\n", repository.URL+"/charts", test.helm)}
			_, _, err := buildWith(t, files, repository.remotes(t))
			wantError(t, err, test.want)
		})
	}
}

// Credentials come from where curl and helm have them, and are sent to their own host only.
func TestChartRepositoryWithPassword(t *testing.T) {
	repository := newChartRepository(t)
	repository.add("web", "1.0.0", packChart(t, "web", "1.0.0"), true)
	repository.set(func() { repository.password = "secret" })
	files := map[string]string{"web/pinnace.yaml": bundleHead + fmt.Sprintf("spec: {helm: {repository: %q, chart: web}}\n", repository.URL+"/charts")}
	_, _, err := buildWith(t, files, repository.remotes(t))
	wantError(t, err, "not authorised: status 401", "~/.netrc")

	host := strings.TrimPrefix(repository.URL, "https://")
	remotes := repository.remotes(t)
	netrc := filepath.Join(t.TempDir(), "netrc")
	if err := os.WriteFile(netrc, []byte("machine "+strings.Split(host, ":")[0]+" login me password secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	remotes.Source.Auth.NetrcFile = netrc
	if _, _, err := buildWith(t, files, remotes); err != nil {
		t.Errorf("netrc: %v", err)
	}
	remotes = repository.remotes(t)
	remotes.HelmConfig = filepath.Join(t.TempDir(), "repositories.yaml")
	config := fmt.Sprintf("repositories: [{name: acme, url: %q, username: me, password: secret}]\n", repository.URL+"/charts")
	if err := os.WriteFile(remotes.HelmConfig, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := buildWith(t, files, remotes); err != nil {
		t.Errorf("helm repo add: %v", err)
	}
}

func pushChart(t *testing.T, server *registrytest.Server, repository, tag string, packed []byte) {
	t.Helper()
	repo, err := server.Registry(t).Repository(repository)
	if err != nil {
		t.Fatal(err)
	}
	artifact := oci.Artifact{
		Config: oci.Blob{MediaType: "application/vnd.cncf.helm.config.v1+json", Data: []byte("{}")},
		Layers: []oci.Blob{{MediaType: v1alpha1.MediaTypeHelmChart, Data: packed}},
	}
	if _, _, err := oci.Push(t.Context(), repo, artifact, tag); err != nil {
		t.Fatal(err)
	}
}

func TestChartOfOCIRegistry(t *testing.T) {
	server := registrytest.New(t)
	for tag, version := range map[string]string{"1.0.0": "1.0.0", "1.1.0_build.5": "1.1.0+build.5", "latest": "9.9.9"} {
		pushChart(t, server, "charts/web", tag, packChart(t, "web", version))
	}
	for name, helm := range map[string]string{
		"repository and chart": fmt.Sprintf("repository: 'oci://%s/charts', chart: web, version: ^1", server.Prefix()),
		"whole reference":      fmt.Sprintf("chart: 'oci://%s/charts/web', version: 1.1.0+build.5", server.Prefix()),
		"no version":           fmt.Sprintf("chart: 'oci://%s/charts/web'", server.Prefix()),
	} {
		t.Run(name, func(t *testing.T) {
			files := map[string]string{"web/pinnace.yaml": bundleHead + "spec: {helm: {" + helm + ", plainHTTP: true}}\n"}
			remotes := bundler.Remotes{Source: source.Options{CacheDir: t.TempDir()}}
			built, known, err := buildWith(t, files, remotes)
			if err != nil {
				t.Fatal(err)
			}
			if got := data(t, built, "web-web"); got["version"] != "1.1.0+build.5" {
				t.Errorf("got %v", got)
			}
			// The tag moves: what was resolved stays, by digest, on another machine too.
			pushChart(t, server, "charts/web", "1.1.0_build.5", packChart(t, "web", "1.1.0+build.5", "README.md", name))
			remotes.Known, remotes.Source.CacheDir = known, t.TempDir()
			again, _, err := buildWith(t, files, remotes)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(again.Layer, built.Layer) {
				t.Error("a moved tag changed the bundle")
			}
		})
	}
}

// An umbrella chart: dependencies of a repository, of a registry, of a folder beside it with one of its own, and one
// that it holds.
func umbrella(repository *chartRepository, server *registrytest.Server) map[string]string {
	return map[string]string{
		"web/Chart.yaml": fmt.Sprintf(`apiVersion: v2
name: umbrella
version: 1.0.0
dependencies:
  - {name: web, version: ">=1 <2", repository: "%[1]s/charts", alias: front, condition: front.enabled}
  - {name: db, version: 1.x, repository: "oci://%[2]s/charts"}
  - {name: shared, version: "*", repository: "file://../common"}
  - {name: held, version: 0.1.0, repository: "https://nowhere.invalid"}
`, repository.URL, server.Prefix()),
		"web/pinnace.yaml":                 bundleHead + "spec: {helm: {plainHTTP: true, install: apply, values: {front: {greeting: hi}, db: {greeting: ho}}}}\n",
		"web/charts/held/Chart.yaml":       "apiVersion: v2\nname: held\nversion: 0.1.0\n",
		"web/charts/held/templates/a.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: held}\n",
		"common/Chart.yaml": fmt.Sprintf("apiVersion: v2\nname: shared\nversion: 0.3.0\ndependencies: [{name: base, version: 1.0.0, repository: %q}]\n",
			repository.URL+"/charts"),
		"common/templates/a.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: shared}\n",
	}
}

func TestUmbrellaChart(t *testing.T) {
	repository, server := newChartRepository(t), registrytest.New(t)
	repository.add("web", "1.0.0", packChart(t, "web", "1.0.0"), true)
	repository.add("web", "1.5.0", packChart(t, "web", "1.5.0"), true)
	repository.add("base", "1.0.0", packChart(t, "base", "1.0.0"), true)
	pushChart(t, server, "charts/db", "1.4.2", packChart(t, "db", "1.4.2"))
	files := umbrella(repository, server)
	built, known, err := buildWith(t, files, repository.remotes(t))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, object := range built.Objects {
		names = append(names, object.GetName())
	}
	slices.Sort(names)
	if diff := cmp.Diff([]string{"held", "shared", "web-base", "web-db", "web-front"}, names); diff != "" {
		t.Error(diff)
	}
	if got := data(t, built, "web-front"); got["version"] != "1.5.0" || got["greeting"] != "hi" {
		t.Errorf("got %v", got)
	}
	var from []string
	for _, dependency := range built.Config.Chart.Dependencies {
		from = append(from, dependency.Name+" "+dependency.Version)
	}
	if diff := cmp.Diff([]string{"web 1.5.0", "db 1.4.2", "shared 0.3.0"}, from); diff != "" {
		t.Error(diff)
	}
	if len(known) != 3 {
		t.Errorf("want three resolutions, got %+v", known)
	}

	// As a release, the chart that is shipped holds them all: an agent fetches nothing.
	files["web/pinnace.yaml"] = bundleHead + "spec: {helm: {plainHTTP: true}}\n"
	release, _, err := buildWith(t, files, repository.remotes(t))
	if err != nil {
		t.Fatal(err)
	}
	shipped, err := archive.Unpack(bytes.NewReader(release.Layer), archive.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"umbrella/charts/web-1.5.0/Chart.yaml", "umbrella/charts/db-1.4.2/Chart.yaml", "umbrella/charts/shared-0.3.0/charts/base-1.0.0/Chart.yaml"} {
		if shipped[want] == nil {
			t.Errorf("%s is not in the shipped chart", want)
		}
	}

	// Chart.lock decides where it is there.
	files["web/Chart.lock"] = fmt.Sprintf("dependencies:\n- {name: web, repository: %q, version: 1.0.0}\n- {name: db, repository: 'oci://%s/charts', version: 1.4.2}\n",
		repository.URL+"/charts", server.Prefix())
	locked, _, err := buildWith(t, files, repository.remotes(t))
	if err != nil {
		t.Fatal(err)
	}
	if got := data(t, locked, "web-front"); got["version"] != "1.0.0" {
		t.Errorf("Chart.lock says 1.0.0, got %v", got)
	}
	files["web/Chart.lock"] = fmt.Sprintf("dependencies:\n- {name: web, repository: %q, version: 3.0.0}\n", repository.URL+"/charts")
	_, _, err = buildWith(t, files, repository.remotes(t))
	wantError(t, err, `Chart.lock has no version of the dependency "web" within ">=1 <2"`, "helm dependency update web")
}

func TestDependencyOfHelmsConfiguration(t *testing.T) {
	store, err := helmcharts.New(helmcharts.Options{HelmConfig: filepath.Join(t.TempDir(), "absent")})
	if err != nil {
		t.Fatal(err)
	}
	_, err = store.Dependency("web", "@acme", "1.0.0", false)
	wantError(t, err, `no repository "acme" is known here`, "helm repo add acme URL")
}
