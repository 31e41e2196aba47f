#!/usr/bin/env bash
# Runs every fuzz target of the module for FUZZTIME (30s), FUZZJOBS (2) of them at the same time with one worker each.
# The first finding fails the run; go test keeps the input below testdata/fuzz of its package, to be fixed and committed.
set -euo pipefail
cd "$(dirname "$0")/.."
export FUZZTIME=${FUZZTIME:-30s}
jobs=${FUZZJOBS:-2}

targets() { # package and function, one pair a line
	grep -rlE --include='*_test.go' '^func Fuzz' api internal pkg |
		while read -r file; do
			sed -nE 's/^func (Fuzz[A-Za-z0-9]+)\(.*/\1/p' "$file" | sed "s|^|./$(dirname "$file") |"
		done | sort -u
}

one() {
	local out
	if ! out=$(go test "$1" -run '^$' -fuzz "^$2\$" -fuzztime "$FUZZTIME" -fuzzminimizetime 2s -parallel 1 2>&1); then
		printf 'FAIL %s %s\n%s\n' "$1" "$2" "$out" >&2
		return 255 # xargs stops
	fi
	printf 'ok   %s %s %s\n' "$1" "$2" "$(grep -oE 'execs: [0-9]+' <<<"$out" | tail -1)"
}
export -f one

list=$(targets)
echo "$(wc -l <<<"$list") fuzz targets, $FUZZTIME each, $jobs at a time"
xargs -P "$jobs" -L 1 bash -c 'one "$@"' one <<<"$list"
