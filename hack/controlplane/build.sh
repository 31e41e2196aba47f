#!/usr/bin/env bash
# Builds the control plane that the demo and the end-to-end tests start, from source through the Go module proxy,
# once per version: each binary lands under OUT/bin-<hash of the three go.sum files and the Go version> and OUT/bin
# points there. Prints the folder.
#   hack/controlplane/build.sh [OUT]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here/../../.cache/controlplane}
mkdir -p "$out"
out=$(cd "$out" && pwd)

key=$( (cat "$here"/*/go.sum "$here/build.sh"; go env GOVERSION GOOS GOARCH) | sha256sum | cut -c1-16)
bin=$out/$key
if [ ! -e "$bin/.complete" ]; then
	mkdir -p "$bin"
	build() { # module folder, binary, package, linker flags
		[ -x "$bin/$2" ] && return
		echo "building $2 (once)" >&2
		(cd "$here/$1" && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w $4" -o "$bin/.$2" "$3") && mv "$bin/.$2" "$bin/$2"
	}
	version=$(cd "$here/kubernetes" && go list -m -f '{{.Version}}' k8s.io/kubernetes)
	for name in kube-apiserver kube-controller-manager kube-scheduler kubectl; do
		build kubernetes $name k8s.io/kubernetes/cmd/$name "-X k8s.io/component-base/version.gitVersion=$version"
	done
	build etcd etcd go.etcd.io/etcd/server/v3 ""
	build kwok kwok sigs.k8s.io/kwok/cmd/kwok ""
	# kwok does nothing without its Stage files, which say how fake nodes and pods become ready.
	kwok=$(cd "$here/kwok" && go list -m -f '{{.Dir}}' sigs.k8s.io/kwok)
	mkdir -p "$bin/stages"
	for dir in node/fast node/heartbeat-with-lease pod/fast; do
		for file in "$kwok/kustomize/stage/$dir"/*.yaml; do
			[ "$(basename "$file")" = kustomization.yaml ] && continue
			install -m 0644 "$file" "$bin/stages/${dir//\//-}-$(basename "$file")"
		done
	done
	touch "$bin/.complete"
fi
ln -sfn "$key" "$out/bin"
echo "$out/bin"
