"""What to type to run this program again: the word that hints begin with.

Knows how the process was started and what lies beside it. Hints are written with `p2engine`, which becomes what works.
"""

import os
import re
import shutil
import sys
from functools import cache
from pathlib import Path

PROGRAM = "p2engine"
SCRIPT = Path("scripts", "run_project.sh")
DISTRIBUTED = "kept.py"  # beside it: runs commands of a project that the script brought up as several processes

_HINTED = re.compile(rf"(?<![\w./~-]){PROGRAM} (?=[a-z-])")


@cache
def program() -> str:
    """`p2engine` where the shell finds this one under that name, else the path that it was started by; for a clone's
    script, which starts it by its full path, that script, with the option that it was given.
    """
    started = Path(sys.argv[0])
    if started.name == DISTRIBUTED:
        return f"{_from_here(started.with_name(SCRIPT.name))} --distributed"
    if started.name != PROGRAM or not started.is_file():  # `python -m p2engine`, or another program's library
        return PROGRAM
    found = shutil.which(PROGRAM)
    if found is not None and Path(found).samefile(started):
        return PROGRAM
    script = started.parent.parent.parent / SCRIPT
    return _from_here(script if started.is_absolute() and os.access(script, os.X_OK) else started)


def runnable(hint: str, word: str) -> str:
    """A hint whose command begins with `word`. A hint names one command, before any text of others."""
    return hint if word == PROGRAM else _HINTED.sub(lambda _: f"{word} ", hint, count=1)


def _from_here(path: Path) -> str:
    """A path as it is typed in the working folder: `./…` below it, else in full."""
    import shlex

    try:
        return shlex.quote(f"./{path.absolute().relative_to(Path.cwd())}")
    except (OSError, ValueError):  # elsewhere, or the working folder is gone
        return shlex.quote(str(path.absolute()))
