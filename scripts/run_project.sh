#!/usr/bin/env bash
# Runs a p2engine command (no arguments: its shell) in .venv, which the first run makes from uv.lock.
#   ./scripts/run_project.sh
#   ./scripts/run_project.sh chat with agent_alpha -m "What's the weather in Paris?"
#   ./scripts/run_project.sh --distributed: the same with a Redis, four workers and a sweeper of its own beside it
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

# --distributed is this script's where it stands before the command; every other word is the command's.
group=run
before=yes
value=no
for word in ${1+"$@"}; do
  shift
  case $before/$value/$word in
    yes/no/--distributed) group=distributed && continue ;;
    yes/no/--project | yes/no/--home | yes/no/--config) value=yes ;;
    yes/yes/* | yes/no/-*) value=no ;;
    *) before=no ;;
  esac
  set -- ${1+"$@"} "$word"
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

prepare "$group"
if [ -z "${P2ENGINE_PROJECT:-}" ] && ! inside_a_project; then
  export P2ENGINE_PROJECT="$root"
fi
if [ "$group" = distributed ]; then
  exec "$root/.venv/bin/python" "$root/scripts/distributed.py" ${1+"$@"}
fi
[ $# -gt 0 ] || set -- shell
exec "$root/.venv/bin/p2engine" "$@"
