#!/usr/bin/env bash
# Runs a p2engine command (no arguments: its shell) in .venv, which the first run makes from uv.lock.
#   ./scripts/run_project.sh
#   ./scripts/run_project.sh chat with agent_alpha -m "What's the weather in Paris?"
set -eu

self=$0
while [ -h "$self" ]; do
  link=$(readlink "$self")
  case $link in
    /*) self=$link ;;
    *) self=$(dirname -- "$self")/$link ;;
  esac
done
root=$(CDPATH='' cd -- "$(dirname -- "$self")/.." && pwd -P)
. "$root/scripts/bootstrap.sh"

for argument in ${1+"$@"}; do
  case $argument in
    --distributed) say "not available in this version: --distributed" && exit 2 ;;
    -*) ;;
    *) break ;;
  esac
done

inside_a_project() {
  folder=$PWD
  while :; do
    if [ -f "$folder/config/agents.yml" ] || [ -f "$folder/config/config.json" ]; then
      return 0
    fi
    [ -n "$folder" ] || return 1
    folder=${folder%/*}
  done
}

prepare run
if [ -z "${P2ENGINE_PROJECT:-}" ] && ! inside_a_project; then
  export P2ENGINE_PROJECT="$root"
fi
[ $# -gt 0 ] || set -- shell
exec "$root/.venv/bin/p2engine" "$@"
