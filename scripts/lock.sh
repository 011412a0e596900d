#!/usr/bin/env bash
# After a change of the dependencies in pyproject.toml: renews uv.lock and the exports of it that pip reads. Needs uv.
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
cd "$root"
uv lock
uv export --quiet --frozen --no-default-groups --group build --extra learn --no-emit-project --no-annotate -o scripts/requirements.txt
uv export --quiet --frozen --only-group local --no-annotate -o scripts/requirements-local.txt
uv export --quiet --frozen --only-group test --no-annotate -o scripts/requirements-test.txt
