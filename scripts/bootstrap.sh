# shellcheck shell=bash disable=SC2154
# Sourced by the scripts beside it, with `root` set. `prepare run`, `prepare distributed` and `prepare test` see to it
# that .venv holds what uv.lock names for that: at once while nothing has changed (no network, no pip), else through install.py.
# bash 3.2 and POSIX tools suffice. Everything said goes to stderr: stdout belongs to the command.

say() {
  printf 'p2engine: %s\n' "$*" >&2
}

prepare() {
  inputs=$(inputs_of_install)
  if [ -x "$root/.venv/bin/p2engine" ] &&
    [ "$(cat "$root/.venv/p2engine-$1.stamp" 2>/dev/null)" = "$(stamp_from "$inputs")" ]; then
    return
  fi
  find_python
  "$python" -I "$root/scripts/install.py" "$root" "$1" "$inputs" </dev/null || exit $?
}

inputs_of_install() {
  cd "$root" && cat pyproject.toml uv.lock scripts/install.py scripts/requirements*.txt | cksum
}

# A folder that was moved and an interpreter that was replaced both leave an environment that only looks whole.
stamp_from() {
  version=$("$root/.venv/bin/python" -I -S -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null) ||
    version=none
  printf '%s\n%s\n%s\n' "$1" "$root" "$version"
}

find_python() {
  fit="old"
  seen=""
  for name in python3.14 python3.13 python3.12 python3.11 python3 python; do
    probe "$name"
    case $fitness in
      whole) python=$name && return ;;
      bare) [ "$fit" = bare ] || { fit=bare && python=$name && bare_version=$version; } ;;
      old) seen="$seen, $name is $version" ;;
    esac
  done
  if command -v uv >/dev/null 2>&1; then
    [ "$fit" = bare ] || python_from_uv
    return
  fi
  if [ "$fit" = bare ]; then
    short=${bare_version%.*}
    say "$python ($bare_version) has no ensurepip, so it cannot make .venv: apt-get install python$short-venv (Debian, Ubuntu), or install uv"
  else
    say "needs Python 3.11 or newer${seen:-, none is on PATH}: apt-get install python3 python3-venv (Debian, Ubuntu), brew install python@3.13 (macOS), or install uv"
  fi
  exit 1
}

# Sets fitness (whole, bare, old, absent) and version. A name on PATH may be a launcher for a Python that is not there.
probe() {
  fitness=absent
  command -v "$1" >/dev/null 2>&1 || return 0
  answer=$("$1" -E -c '
import sys
fitness = "old"
if sys.version_info >= (3, 11):
    try:
        import ensurepip, venv
        fitness = "whole"
    except ImportError:
        fitness = "bare"
print(fitness + " %d.%d.%d" % sys.version_info[:3])
' </dev/null 2>/dev/null) || return 0
  fitness=${answer%% *}
  version=${answer##* }
}

python_from_uv() {
  python=$(uv python find --no-project '>=3.11' 2>/dev/null) && return
  say "no Python 3.11 or newer here: letting uv bring one"
  uv python install 3.13 >&2 </dev/null || exit 1
  python=$(uv python find --no-project 3.13)
}
