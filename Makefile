# Pinnace. `make help` lists what there is. Everything is set up on first use below .cache/, which git ignores.
SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS   += --no-print-directory
.DEFAULT_GOAL := help

CACHE   := $(CURDIR)/.cache
TOOLS   := $(CACHE)/bin
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)

GOLANGCI_LINT  := $(TOOLS)/golangci-lint-v2.15.0
GOFUMPT        := $(TOOLS)/gofumpt-v0.12.0
CONTROLLER_GEN := $(TOOLS)/controller-gen-v0.23.0
COSIGN         := $(TOOLS)/cosign-v2.6.5

# The race detector needs a C compiler; without one the tests run, and say so, without it.
RACE := $(shell cc=$$(go env CC); command -v "$${cc%% *}" >/dev/null 2>&1 && echo -race)
# Scripts of the command line open keys all the time, and scrypt takes minutes under the race detector: what the
# commands call is tested under it in its own packages.
UNIT := ./api/... ./cmd/... ./docs/... ./examples/... ./internal/... ./pkg/...
E2E  := ./e2e/... ./hack/...

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## build bin/pinnace and bin/pinnace-agent
	@mkdir -p bin
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/pinnace ./cmd/pinnace-agent

.PHONY: demo
demo: build control-plane ## run the whole of it on three real clusters; KEEP=1 leaves it up
	@PINNACE_BIN=$(CURDIR)/bin go run ./hack/demo

.PHONY: test
test: test-unit test-e2e ## run every test

.PHONY: test-unit
test-unit: control-plane $(COSIGN) ## unit tests with the race detector, the architecture test and the CLI scripts
	@[ -n "$(RACE)" ] || echo "NOTE: no C compiler found, so the tests run without the race detector"
	CGO_ENABLED=$(if $(RACE),1,0) go test $(RACE) -timeout 20m $$(go list $(UNIT) | grep -v /internal/cli$$)
	go test -timeout 20m ./internal/cli

.PHONY: test-e2e
test-e2e: build control-plane ## end-to-end tests on real registries and real API servers
	PINNACE_BIN=$(CURDIR)/bin go test -timeout 20m $(E2E)

.PHONY: fuzz
fuzz: ## fuzz every parser of foreign bytes; FUZZTIME=30s each, FUZZJOBS=2 at a time
	@hack/fuzz.sh

.PHONY: bench
bench: build control-plane ## measure; prints "name value unit" lines. Also bench-agent, -publish, -trust, -mirror, -fleet
	@PINNACE_BIN=$(CURDIR)/bin go run ./hack/bench

.PHONY: bench-agent bench-publish bench-trust bench-mirror bench-fleet
bench-agent bench-publish bench-trust bench-mirror bench-fleet: bench-%: build control-plane
	@PINNACE_BIN=$(CURDIR)/bin go run ./hack/bench/$*

.PHONY: release
release: ## build what is released into dist/: binaries, SBOMs, checksums, provenance; KEY=release.key signs, IMAGE=registry/path pushes the agent's image
	@rm -rf dist
	@go run ./hack/release -o dist -version '$(VERSION)' -commit "$$(git rev-parse HEAD)" -key '$(KEY)' -image '$(IMAGE)' -roots '$(ROOTS)' $(RELEASE_FLAGS)
	@ls -l dist

.PHONY: lint
lint: $(GOLANGCI_LINT) $(GOFUMPT) check-generated ## formatting, linters, and generated files up to date
	@unformatted=$$($(GOFUMPT) -l $$(git ls-files -co --exclude-standard '*.go' | grep -v zz_generated)); \
		[ -z "$$unformatted" ] || { echo "run gofumpt -w on:" $$unformatted >&2; exit 1; }
	$(GOLANGCI_LINT) run ./...

.PHONY: generate
generate: $(CONTROLLER_GEN) ## write generated files again
	@$(CONTROLLER_GEN) object paths=./api/v1alpha1
	@$(CONTROLLER_GEN) crd paths=./api/v1alpha1 output:crd:dir=api/crd

.PHONY: check-generated
check-generated: $(CONTROLLER_GEN)
	@out=$$(mktemp -d); trap 'rm -rf "$$out"' EXIT; mkdir "$$out/crd"; \
		$(CONTROLLER_GEN) object paths=./api/v1alpha1 output:object:dir="$$out"; \
		$(CONTROLLER_GEN) crd paths=./api/v1alpha1 output:crd:dir="$$out/crd"; \
		diff -u api/v1alpha1/zz_generated.deepcopy.go "$$out/zz_generated.deepcopy.go" && diff -ru --exclude=*.go api/crd "$$out/crd" \
		|| { echo "generated files differ; run make generate" >&2; exit 1; }

.PHONY: control-plane
control-plane: ## build the control plane of the tests, once (minutes)
	@hack/controlplane/build.sh $(CACHE)/controlplane >/dev/null

.PHONY: clean
clean: ## remove what was built, but not the cache
	rm -rf bin dist

# install builds a tool once: its version is in its name.
define install
	@mkdir -p $(TOOLS); echo "building $(notdir $@) (once)"; dir=$$(mktemp -d $(TOOLS)/.new-XXXXXX); trap 'rm -rf "$$dir"' EXIT; \
		GOBIN=$$dir GOFLAGS= CGO_ENABLED=0 go install $(1); mv "$$dir"/* $@
endef

$(GOLANGCI_LINT):
	$(call install,github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0)
$(GOFUMPT):
	$(call install,mvdan.cc/gofumpt@v0.12.0)
$(CONTROLLER_GEN):
	$(call install,sigs.k8s.io/controller-tools/cmd/controller-gen@v0.23.0)
.PHONY: cosign
cosign: $(COSIGN) ## build the stock cosign that the tests of signatures compare with, once (minutes)

$(COSIGN):
	$(call install,github.com/sigstore/cosign/v2/cmd/cosign@v2.6.5)
