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
command=shell
places=()
for word in ${1+"$@"}; do
  shift
  case $before/$value/$word in
    yes/no/--distributed) group=distributed && continue ;;
    yes/no/--project | yes/no/--home | yes/no/--config) value=yes && places+=("$word") ;;
    yes/no/--project=* | yes/no/--home=* | yes/no/--config=*) places+=("$word") ;;
    yes/yes/*) value=no && places+=("$word") ;;
    yes/no/-*) ;;
    yes/*) before=no && command=$word ;;
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

wants_wallets() {
  case $command/${LEDGER_ENABLED:-true} in
    shell/true | chat/true) ;;
    *) return 1 ;;
  esac
  [ "${#places[@]}" -eq 0 ] || return 0
  project=${P2ENGINE_PROJECT:-$folder}
  head=${P2ENGINE_HOME:-$project/.p2engine}/keys/ledger.head # written with every record
  [ ! -f "$head" ] || [ "$project/config/agents.yml" -nt "$head" ]
}

prepare "$group"
if [ -z "${P2ENGINE_PROJECT:-}" ] && ! inside_a_project; then
  export P2ENGINE_PROJECT="$root"
fi
if [ "$group" = distributed ]; then
  exec "$root/.venv/bin/python" "$root/scripts/distributed.py" ${1+"$@"}
fi
# Wallets that agents.yml names and nobody has opened yet are opened before somebody talks to an agent.
if wants_wallets; then
  "$root/.venv/bin/p2engine" ${places[@]+"${places[@]}"} ledger init --quiet > /dev/null 2>&1 < /dev/null || :
fi
[ $# -gt 0 ] || set -- shell
exec "$root/.venv/bin/p2engine" "$@"
