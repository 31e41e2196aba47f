#!/usr/bin/env bash
# Runs every fuzz target of the module for FUZZTIME (30s), FUZZJOBS (2) of them at the same time with one worker each;
# names as arguments choose among them. All run to their end. A finding fails the run; its input is printed, and kept below
# testdata/fuzz of its package, to be fixed and committed.
#
# Each package's test binary is built once, and only our own packages are instrumented: with go test -fuzz everything that
# they import is compiled anew, which takes longer than the fuzzing. What guides it is thus the coverage of our own code.
set -euo pipefail
cd "$(dirname "$0")/.."
export FUZZTIME=${FUZZTIME:-30s}
jobs=${FUZZJOBS:-2}
work=$(mktemp -d)
export work
trap 'rm -rf "$work"' EXIT

targets() { # package's folder and function, one pair a line
	grep -rlE --include='*_test.go' '^func Fuzz' api internal pkg |
		while read -r file; do
			sed -nE 's/^func (Fuzz[A-Za-z0-9]+)\(.*/\1/p' "$file" | sed "s|^|$(dirname "$file") |"
		done | sort -u | { if [ $# -gt 0 ]; then grep -E " ($(IFS='|' && echo "$*"))\$"; else cat; fi; }
}

binary() { echo "$work/${1//\//-}.test"; }

build() {
	go test -c -gcflags='pinnace.dev/pinnace/...=-d=libfuzzer' -o "$(binary "$1")" "./$1"
}

one() {
	local out new
	touch "$work/$2.started"
	# On a busy machine go test calls the end of its own time a failure, "context deadline exceeded", with no input.
	if out=$(cd "$1" && "$(binary "$1")" -test.run '^$' -test.fuzz "^$2\$" -test.fuzztime "$FUZZTIME" -test.fuzzminimizetime 2s \
		-test.parallel 1 -test.fuzzcachedir "$work/cache" -test.timeout 30m 2>&1) ||
		{ grep -q '^ *context deadline exceeded$' <<<"$out" && ! grep -q 'Failing input' <<<"$out"; }; then
		printf 'ok   %s %s %s\n' "$1" "$2" "$(grep -oE 'execs: [0-9]+' <<<"$out" | tail -1)"
		return
	fi
	printf 'FAIL %s %s\n%s\n' "$1" "$2" "$out" >&2
	new=$(find "$1/testdata/fuzz/$2" -type f -newer "$work/$2.started" 2>/dev/null || true)
	[ -z "$new" ] || (set -x && cat $new) >&2
	touch "$work/failed"
}
export -f binary build one

list=$(targets "$@")
echo "$(wc -l <<<"$list") fuzz targets, $FUZZTIME each, $jobs at a time"
cut -d' ' -f1 <<<"$list" | sort -u | xargs -P 2 -I{} bash -euc 'build "$1"' build {}
xargs -P "$jobs" -L 1 bash -c 'one "$@"' one <<<"$list"
[ ! -e "$work/failed" ]
