package archtest

import (
	"strings"
	"testing"
)

// layers, lowest first. A package belongs to the longest entry that it is within. It may import packages of lower
// layers only: siblings never import each other.
var layers = [][]string{
	{"api"},
	{"pkg/oci/internal", "pkg/oci/archive", "pkg/sealed", "pkg/window", "pkg/health"},
	{"pkg/oci"},
	{"pkg/oci/signing/evidence"}, // what is there; the policy above decides whether it counts
	{"pkg/oci/signing", "pkg/oci/registry", "pkg/manifests"},
	{"pkg/oci/signing/kms", "pkg/oci/signing/keyless", "pkg/oci/signing/trustroot", "pkg/oci/signing/signingtest"},
	{"pkg/oci/mirror/transfer", "pkg/oci/mirror/mirrortest"},
	{"pkg/oci/mirror"},
	{"pkg/oci/mirror/medium"},
	{"pkg/oci/registrytest"},
	{"pkg/bundler/resolution", "pkg/bundler/chartref"}, // what names meant, and what charts are called: for several of the next
	{"pkg/bundler/source", "pkg/bundler/render", "pkg/bundler/fleetyaml", "pkg/bundler/chart", "pkg/target", "pkg/agent/apply"},
	{"pkg/bundler", "pkg/publish/preview", "pkg/publish/conform", "pkg/publish/gates", "pkg/agent/drift", "pkg/agent/release"}, // a release's objects are watched and judged as applied ones
	{"pkg/publish", "pkg/agent"},
	{"pkg/agent/simulate"},
	{"internal/exitcode", "examples", "docs"}, // docs and examples are compiled in
	{"internal/demo"},                         // builder and agents in one process, for pinnace demo: they still meet in a registry only
	{"internal/cli", "internal/agentcli", "internal/webhook"},
	{"cmd"},
	{"internal/archtest", "e2e", "hack"},
}

// below lists imports within a layer that are allowed nevertheless.
var below = map[string][]string{
	"internal/agentcli": {"internal/webhook"}, // the agent listens; the command wires it
	"e2e":               {"e2e"},              // the harness is cut into packages
	"hack":              {"e2e", "hack"},      // the demo and the benchmarks drive the harness
	"api":               {"api"},              // reading documents knows their types
}

// forbidden imports, direct or not.
var forbidden = []struct {
	from, to []string // folders of this module, or other modules' packages
	except   []string
	through  []string // other modules' packages that bring it along; what they import is not looked at
	reason   string
}{
	{
		from: []string{"pkg", "api"}, to: []string{module + "/internal", module + "/cmd"},
		except: []string{module + "/pkg/oci/internal"},
		reason: "internal/ and cmd/ hold presentation; a library must be usable without them",
	},
	{
		from: []string{"pkg/agent", "cmd/pinnace-agent", "internal/agentcli"},
		to: []string{
			"github.com/go-git/go-git/v5", "github.com/distribution/distribution/v3",
			module + "/pkg/bundler", module + "/pkg/target", module + "/pkg/publish", module + "/pkg/oci/registry",
		},
		reason: "the agent runs on small machines and must not carry the builder, git or a registry",
	},
	{
		from: []string{"pkg/agent", "cmd/pinnace-agent", "internal/agentcli"}, to: []string{"sigs.k8s.io/kustomize/api/krusty"},
		// Helm's SDK and fluxcd/pkg/ssa both import it, for kustomize build -k that nobody calls.
		through: []string{"k8s.io/cli-runtime/pkg/resource"},
		reason:  "rendering is the builder's",
	},
	{
		from: []string{"pkg/bundler", "pkg/target", "pkg/publish"}, to: []string{module + "/pkg/agent"},
		reason: "builder and agent meet in the registry only",
	},
	{
		from:   []string{"pkg/agent", "cmd/pinnace-agent", "internal/agentcli", "pkg/oci/mirror", "pkg/publish"},
		to:     []string{module + "/pkg/oci/signing/kms", module + "/pkg/oci/signing/keyless"},
		reason: "the clouds' SDKs are for whoever signs; the command that has the flags wires them",
	},
	{
		from: []string{"cmd", "internal/cli", "internal/agentcli", "pkg/agent", "pkg/publish"}, to: []string{module + "/pkg/oci/signing/signingtest"},
		reason: "no test code in what ships",
	},
	{
		from: []string{"pkg/agent"}, to: []string{module + "/pkg/oci/signing"},
		reason: "the agent takes its verifier as an interface, wired by the command",
	},
	{
		from: []string{"api"}, to: []string{"k8s.io/client-go", "oras.land"},
		reason: "types do no I/O and know no clients",
	},
}

// thirdParty lists which folders may import a heavy package directly. One that is not listed may be used anywhere.
var thirdParty = []struct {
	path    string
	allowed []string
	reason  string
}{
	{"oras.land/oras-go/v2", []string{"pkg/oci", "hack/bench/publish", "hack/bench/mirror"}, "one OCI client behind one interface; the benchmarks compare it with a bare loop"},
	{"github.com/google/go-containerregistry", []string{"pkg/oci/signing", "pkg/oci/registrytest"}, "what cosign speaks; the two OCI libraries never meet outside pkg/oci"},
	{"github.com/sigstore/cosign/v2", []string{"pkg/oci/signing"}, "97 modules; its successor swaps in here"},
	{"github.com/sigstore/sigstore-go", []string{"pkg/oci/signing"}, "verification stands in one place"},
	{"github.com/sigstore/sigstore", []string{"pkg/oci/signing"}, "verification stands in one place"},
	{"github.com/distribution/distribution/v3", []string{"pkg/oci/registry"}, "25 MiB; the embedded registry only"},
	{"github.com/go-git/go-git/v5", []string{"pkg/bundler/source"}, "Git is read by the builder only"},
	{"sigs.k8s.io/kustomize", []string{"pkg/bundler/render"}, "rendering stands in one place"},
	{"helm.sh/helm/v3/pkg/action", []string{"pkg/agent/release"}, "39 MiB resident; the edge pays for it once"},
	{"helm.sh/helm/v3", []string{"pkg/bundler/render", "pkg/agent/release"}, "rendering and releasing stand in one place each"},
	{"github.com/fluxcd/pkg/ssa", []string{"pkg/agent/apply"}, "server-side apply stands in one place"},
	{"sigs.k8s.io/controller-runtime", []string{"pkg/agent", "e2e", "hack"}, "clients and caches of clusters"},
	{"k8s.io/client-go/util/jsonpath", []string{"pkg/bundler/render"}, "a parser of paths, and no client"},
	// pkg/manifests takes Kubernetes' own kinds from its scheme, and no client.
	{"k8s.io/apiextensions-apiserver/pkg/apiserver", []string{"pkg/publish/conform"}, "an API server's own checks, with its CEL rules: who checks without one needs them, agents don't"},
	{"k8s.io/apiserver", []string{"pkg/publish/conform"}, "comes with those checks"},
	{"k8s.io/client-go", []string{"pkg/agent", "pkg/manifests", "pkg/publish/conform", "internal/agentcli", "internal/cli", "e2e", "hack"}, "only the edge talks to clusters, and pinnace deploy where it is given a kubeconfig"},
	{"github.com/robfig/cron/v3", []string{"pkg/window"}, "when windows open is decided in one place, for builder and agent"},
	{"filippo.io/age", []string{"pkg/sealed"}, "secrets are sealed and opened in one place"},
	{"github.com/getsops/sops/v3", nil, "it brings the SDKs of every cloud's key service, 42 MiB; tests only"},
	{"github.com/spf13/cobra", []string{"internal/cli", "internal/agentcli"}, "commands are presentation"},
	{"testing", []string{"pkg/oci/registrytest", "e2e"}, "no test code in what ships"},
}

func TestLayers(t *testing.T) {
	packages := load(t)
	for _, name := range packages.own() {
		layer, entry := layerOf(name)
		if layer < 0 {
			t.Errorf("%s belongs to no layer; add it to the table and to docs/architecture.md", name)
			continue
		}
		for _, imported := range packages[module+"/"+name].Imports {
			to, ok := ours(imported)
			if !ok || withinAny(to, below[entry]) {
				continue
			}
			if lower, _ := layerOf(to); lower >= layer {
				t.Errorf("%s imports %s: imports go down only, and siblings never import each other", name, to)
			}
		}
	}
}

// layerOf returns the number of the layer and the table's entry, or -1.
func layerOf(name string) (layer int, entry string) {
	layer = -1
	for i, entries := range layers {
		for _, candidate := range entries {
			if within(name, candidate) && len(candidate) > len(entry) {
				layer, entry = i, candidate
			}
		}
	}
	return layer, entry
}

func TestForbidden(t *testing.T) {
	packages := load(t)
	for _, rule := range forbidden {
		hit := func(path string) bool { return withinAny(path, rule.to) && !withinAny(path, rule.except) }
		for _, name := range packages.own() {
			if !withinAny(name, rule.from) {
				continue
			}
			if chain := packages.chain(module+"/"+name, hit, rule.through); chain != nil {
				t.Errorf("%s: %s", strings.Join(chain, "\n\t-> "), rule.reason)
			}
		}
	}
}

func TestThirdParty(t *testing.T) {
	packages := load(t)
	for _, name := range packages.own() {
		for _, imported := range packages[module+"/"+name].Imports {
			for _, rule := range thirdParty {
				if !within(imported, rule.path) {
					continue
				}
				if !withinAny(name, rule.allowed) {
					t.Errorf("%s imports %s, which is for %s: %s", name, imported, strings.Join(rule.allowed, ", "), rule.reason)
				}
				break // the first, most specific rule decides
			}
		}
	}
}

func TestPackageComments(t *testing.T) {
	packages := load(t)
	for _, name := range packages.own() {
		doc := packages[module+"/"+name].Doc
		base := name[strings.LastIndex(name, "/")+1:]
		if !strings.HasPrefix(doc, "Package "+base+" ") && !strings.HasPrefix(doc, "Command "+base+" ") {
			t.Errorf("%s: the package comment must say what it is for, as \"Package %s …\"; it begins %q", name, base, doc)
		}
	}
}
