#!/usr/bin/env bash
# Format, lint, types, floors: all four run, and the status says whether all passed. `--fix` mends format and lint first.
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
. "$root/scripts/bootstrap.sh"
cd "$root"
prepare test

bin=$root/.venv/bin
red=""
stage() {
  stage_name=$1
  shift
  say "check: $stage_name"
  "$@" || red="$red $stage_name"
}

if [ "${1:-}" = --fix ]; then
  "$bin/ruff" check --quiet --fix-only
  "$bin/ruff" format --quiet
fi
stage format "$bin/ruff" format --check
stage lint "$bin/ruff" check
stage types "$bin/mypy"
stage floors "$bin/lint-imports" --no-logo
if [ -n "$red" ]; then
  say "check: failed:$red"
  exit 1
fi
