#!/usr/bin/env bash
# Makes bench/peers/.venv, in which the peers are measured: with uv where it is on PATH, else with venv and pip.
#   ./bench/peers/setup.sh             install requirements.txt
#   ./bench/peers/setup.sh --compile   pin everything anew from requirements.in first (needs uv)
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
python=${PYTHON:-python3.11}
cd "$here"

if [ "${1:-}" = "--compile" ]; then
  {
    echo "# Made from requirements.in by setup.sh --compile: everything the peers need, pinned."
    uv pip compile --quiet --no-header --no-annotate --python-version 3.11 requirements.in
  } >requirements.txt.new
  mv requirements.txt.new requirements.txt
fi

echo "peers: installing $(grep -c '==' requirements.txt) packages into bench/peers/.venv"
if command -v uv >/dev/null; then
  [ -d .venv ] || uv venv --quiet --python "$python" .venv
  VIRTUAL_ENV="$here/.venv" uv pip sync --quiet requirements.txt
else
  [ -d .venv ] || "$python" -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
fi
echo "peers: ready; .venv/bin/python -m bench peers   measures them"
