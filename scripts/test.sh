#!/usr/bin/env bash
# Everything that has to hold: the checks, then the tests. `--full` adds the long ones; other arguments go to pytest.
#   ./scripts/test.sh
#   ./scripts/test.sh --full
#   ./scripts/test.sh tests/house -k tidy
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
. "$root/scripts/bootstrap.sh"
cd "$root"
prepare test
"$root/scripts/check.sh"

# One number orders the tests and draws the examples; given again, it does both the same way.
case " $*" in
  *" --randomly-seed"*) seed="" ;;
  *) seed=$((RANDOM * 32768 + RANDOM)) && set -- ${1+"$@"} "--randomly-seed=$seed" "--hypothesis-seed=$seed" ;;
esac
say "tests: pytest $*"
status=0
"$root/.venv/bin/pytest" -n auto --dist worksteal "$@" || status=$?
[ "$status" -eq 0 ] || say "tests: failed; the same order and examples again: ./scripts/test.sh $*"
exit "$status"
