"""The scripts on which a newcomer's first minute depends, run as they stand in a copy of the repository.

Doubles stand only for what a script calls: `.venv` and its programs, interpreters on PATH, the tools of the checks.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted([*(ROOT / "scripts").glob("*.sh"), ROOT / ".ci" / "run"])
PYTHON = str(getattr(sys, "_base_executable", sys.executable))
# The body of an interpreter double that can be asked what it is, and fails when it is to install.
FAILS_TO_INSTALL = f'[ "$1" = -I ] && exit 3\nexec "{PYTHON}" "$@"'
# What POSIX gives, and bash: all that the scripts may use before Python is found.
PLAIN_TOOLS = ("bash", "cat", "cksum", "dirname", "env", "readlink")
NEWER_THAN_BASH_3 = (
    r"\b(?:mapfile|readarray|coproc|declare -[Ang]|local -n)\b|\$\{\w+(?:,,|\^\^|@\w)|&>>|;;?&|\|&|\[\[ -v|%\(.*\)T"
)
GNU_ONLY = (
    r"readlink -[a-z]|realpath|sed -i|grep -P|date -d|stat -c|xargs -r|mktemp -p|cp -[a-z]*[au]|ln -[a-z]*r"
    r"|sha256sum|md5sum|nproc|timeout |flock "
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clone:
    """A copy of what the scripts read, a folder of doubles that comes first on PATH, and a list of what they saw."""

    root: Path
    doubles: Path
    seen: Path

    def double(self, path: Path, *, body: str = "", status: int = 0) -> None:
        """Puts a program there that notes its name and arguments and does no more than `body`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(f'#!/bin/sh\necho "{path.name} $*" >> "{self.seen}"\n{body}\nexit {status}\n')
        path.chmod(0o755)

    def calls(self) -> list[str]:
        """What the doubles were called with, in order."""
        return self.seen.read_text().splitlines() if self.seen.exists() else []

    def run(
        self,
        script: str | Path,
        *arguments: str,
        cwd: Path | None = None,
        path: str = "/usr/bin:/bin",
        **variables: str,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a script with an environment of its own, as `env -i` would."""
        return subprocess.run(
            [self.root / script, *arguments],
            cwd=cwd or self.root,
            env={"PATH": f"{self.doubles}:{path}", "HOME": str(self.root.parent), **variables},
            capture_output=True,
            text=True,
            check=False,
        )

    def install(self, group: str = "run") -> None:
        """Makes a `.venv` that passes for whole: stamped, its programs doubles, its pip one that must not be called."""
        bin_folder = self.root / ".venv" / "bin"
        bin_folder.mkdir(parents=True, exist_ok=True)
        python = bin_folder / "python"
        python.symlink_to(PYTHON)
        command = 'echo "project=${P2ENGINE_PROJECT-unset}"; echo "words on stderr" >&2; cat'
        self.double(bin_folder / "p2engine", body=command, status=7)
        self.double(bin_folder / "pip", status=99)
        told = subprocess.run(
            [
                "bash",
                "-c",
                'root=$1; . "$root/scripts/bootstrap.sh"; stamp_from "$(inputs_of_install)"',
                "-",
                self.root,
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        (self.root / ".venv" / f"p2engine-{group}.stamp").write_text(told.stdout)
        keys = self.root / ".p2engine" / "keys"
        keys.mkdir(parents=True)
        (keys / "ledger.head").touch()  # there is a ledger, and its wallets are open


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    """A clone in a folder with spaces in its name; whatever could reach a network is a double that fails."""
    root = tmp_path / "a clone"
    shutil.copytree(ROOT / "scripts", root / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / ".ci", root / ".ci")
    for name in ("pyproject.toml", "uv.lock"):
        shutil.copy(ROOT / name, root / name)
    made = Clone(root=root, doubles=tmp_path / "doubles", seen=tmp_path / "seen")
    for name in ("curl", "pip", "pip3", "uv", "wget"):
        made.double(made.doubles / name, status=99)
    return made


@pytest.fixture
def bare_path(clone: Clone, tmp_path: Path) -> str:
    """A PATH with the plain tools, without any Python, and without uv."""
    (clone.doubles / "uv").unlink()
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in PLAIN_TOOLS:
        (tools / name).symlink_to(shutil.which(name) or name)
    return str(tools)


def posing(change: str) -> str:
    """The body of an interpreter double: this Python, after a change that makes it look like another one."""
    return f"""exec "{PYTHON}" -E -c "import sys; {change}; exec(sys.argv[1])" "$3" """


def test_a_later_run_only_runs_the_command(clone: Clone) -> None:
    """With an unchanged lock the command gets stdin, stdout, its arguments and its status; nothing else is called."""
    clone.install()
    done = subprocess.run(
        [clone.root / "scripts" / "run_project.sh", "chat", "with", "agent_alpha", "-m", "two  words", "--json"],
        cwd=clone.root,
        env={"PATH": f"{clone.doubles}:/usr/bin:/bin"},
        input="a piped line\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 7
    assert clone.calls() == ["p2engine chat with agent_alpha -m two  words --json"]
    assert done.stdout == f"project={clone.root}\na piped line\n"
    assert done.stderr == "words on stderr\n"


def test_no_arguments_mean_the_shell(clone: Clone) -> None:
    """The script by itself opens the shell."""
    clone.install()
    clone.run("scripts/run_project.sh")
    assert clone.calls() == ["p2engine shell"]


@pytest.mark.parametrize(
    ("typed", "opens"),
    [
        ([], "p2engine ledger init --quiet"),
        (["chat", "with", "a"], "p2engine ledger init --quiet"),
        (["--json", "chat", "with", "a"], "p2engine ledger init --quiet"),
        (["--home", "a place", "--project=x", "shell"], "p2engine --home a place --project=x ledger init --quiet"),
        (["doctor"], None),
        (["--home", "shell", "doctor"], None),
    ],
)
def test_wallets_are_open_before_somebody_talks(clone: Clone, typed: list[str], opens: str | None) -> None:
    """Where there is no ledger yet, and for a place that was named; what it says and how it ends is nobody's to see."""
    clone.install()
    (clone.root / ".p2engine" / "keys" / "ledger.head").unlink()
    done = clone.run("scripts/run_project.sh", *typed)
    command = f"p2engine {' '.join(typed or ['shell'])}"
    assert clone.calls() == ([opens, command] if opens else [command])
    assert (done.returncode, done.stderr) == (7, "words on stderr\n")


def test_wallets_are_opened_again_for_new_agents_only(clone: Clone) -> None:
    """An agents.yml that is newer than the ledger may name some; without a ledger nobody is asked."""
    clone.install()
    (clone.root / "config").mkdir()
    agents = clone.root / "config" / "agents.yml"
    agents.touch()
    os.utime(agents, (1, 1))
    clone.run("scripts/run_project.sh")
    assert clone.calls() == ["p2engine shell"]
    os.utime(agents)
    os.utime(clone.root / ".p2engine" / "keys" / "ledger.head", (1, 1))
    clone.run("scripts/run_project.sh", LEDGER_ENABLED="false")
    clone.run("scripts/run_project.sh")
    assert clone.calls()[1:] == ["p2engine shell", "p2engine ledger init --quiet", "p2engine shell"]


def test_a_later_run_needs_only_plain_tools(clone: Clone, bare_path: str) -> None:
    """Without any Python on PATH, and with nothing but POSIX tools and bash, an installed project runs."""
    clone.install()
    done = clone.run("scripts/run_project.sh", "doctor", path=bare_path)
    assert (done.returncode, clone.calls()) == (7, ["p2engine doctor"])


@pytest.mark.parametrize("marker", ["agents.yml", "config.json"])
def test_the_callers_project_is_used(clone: Clone, tmp_path: Path, marker: str) -> None:
    """Called from below a project, the script leaves it to the command to find that project."""
    clone.install()
    below = tmp_path / "mine" / "deep" / "down"
    below.mkdir(parents=True)
    (tmp_path / "mine" / "config").mkdir()
    (tmp_path / "mine" / "config" / marker).touch()
    assert clone.run("scripts/run_project.sh", "doctor", cwd=below).stdout == "project=unset\n"


def test_outside_any_project_the_repository_is_the_project(clone: Clone, tmp_path: Path) -> None:
    """Called from elsewhere, also through a link, the script names the repository; a project named by hand stays."""
    clone.install()
    link = tmp_path / "link"
    link.symlink_to(Path("a clone") / "scripts" / "run_project.sh")
    assert clone.run(link, "doctor", cwd=tmp_path).stdout == f"project={clone.root}\n"
    by_hand = clone.run("scripts/run_project.sh", "doctor", cwd=tmp_path, P2ENGINE_PROJECT="/elsewhere")
    assert by_hand.stdout == "project=/elsewhere\n"


@pytest.mark.parametrize(
    ("typed", "given"),
    [
        (["--distributed"], []),
        (["--json", "--distributed", "chat", "with", "a", "-m", "x  y"], ["--json", "chat", "with", "a", "-m", "x  y"]),
        (["--project", "DIR", "--distributed", "shell"], ["--project", "DIR", "shell"]),
        (["--home=DIR", "--distributed"], ["--home=DIR"]),
    ],
)
def test_distributed_is_a_script_of_its_own(clone: Clone, typed: list[str], given: list[str]) -> None:
    """Before the command, among other options, `--distributed` chooses it; the rest is what it is given."""
    clone.install("distributed")
    double = clone.root / "scripts" / "distributed.py"
    double.write_text("import sys; print(sys.argv[1:]); sys.exit(7)\n")
    done = clone.run("scripts/run_project.sh", *typed)
    assert (done.returncode, done.stdout, clone.calls()) == (7, f"{given}\n", [])


@pytest.mark.parametrize("typed", [["chat", "--distributed"], ["--project", "--distributed", "shell"]])
def test_a_word_of_the_command_is_not_the_scripts(clone: Clone, typed: list[str]) -> None:
    """Behind the command, or as the value of an option, it is passed on as it stands."""
    clone.install()
    clone.run("scripts/run_project.sh", *typed)
    assert clone.calls()[-1] == f"p2engine {' '.join(typed)}"


def test_distributed_installs_what_it_needs_besides(clone: Clone) -> None:
    """Where only the rest is there, it is installed first; an environment for the tests has it already."""
    clone.install()
    clone.double(clone.doubles / "python3.14", body=FAILS_TO_INSTALL)
    done = clone.run("scripts/run_project.sh", "--distributed")
    assert done.returncode == 3
    assert f"install.py {clone.root} distributed " in clone.calls()[-1]


def test_an_old_python_is_one_line_with_the_mend(clone: Clone, bare_path: str) -> None:
    """Where Python is too old, one line says which was found and how to get a newer one."""
    clone.double(clone.doubles / "python3", body=posing("sys.version_info = (3, 8, 10)"))
    done = clone.run("scripts/run_project.sh", path=bare_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("p2engine: needs Python 3.11 or newer, python3 is 3.8.10: apt-get install ")
    assert done.stderr.count("\n") == 1


def test_no_python_is_one_line_with_the_mend(clone: Clone, bare_path: str) -> None:
    """Where there is no Python, or only a launcher for one that is not installed, the line says so."""
    clone.double(clone.doubles / "python3.12", body="echo 'python3.12: not installed' >&2", status=127)
    done = clone.run("scripts/run_project.sh", path=bare_path)
    assert done.returncode == 1
    assert done.stderr.startswith("p2engine: needs Python 3.11 or newer, none is on PATH: apt-get install ")
    assert done.stderr.count("\n") == 1


def test_a_missing_ensurepip_is_one_line_with_the_mend(clone: Clone, bare_path: str) -> None:
    """A Python that cannot make an environment is named with the package that it lacks."""
    bare = posing("sys.version_info = (3, 12, 4); sys.modules['ensurepip'] = None")
    clone.double(clone.doubles / "python3.12", body=bare)
    done = clone.run("scripts/run_project.sh", path=bare_path)
    assert done.returncode == 1
    assert "python3.12 (3.12.4) has no ensurepip" in done.stderr
    assert "apt-get install python3.12-venv" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_whole_python_is_taken_before_a_bare_one(clone: Clone, bare_path: str) -> None:
    """A newer Python without ensurepip does not stand in the way of an older one that has it."""
    clone.double(clone.doubles / "python3.14", body=posing("sys.modules['ensurepip'] = None"))
    clone.double(clone.doubles / "python3.11", body=FAILS_TO_INSTALL)
    done = clone.run("scripts/run_project.sh", path=bare_path)
    assert done.returncode == 3
    assert clone.calls()[-1].startswith(f"python3.11 -I {clone.root}/scripts/install.py {clone.root} run ")


@pytest.mark.parametrize("changed", ["uv.lock", "pyproject.toml", "scripts/requirements.txt"])
def test_a_changed_lock_is_installed(clone: Clone, changed: str) -> None:
    """When the lock or the project file changes, the next run installs first; if that fails, it ends there."""
    clone.install()
    with (clone.root / changed).open("a") as file:
        file.write("\n")
    clone.double(clone.doubles / "python3.14", body=FAILS_TO_INSTALL)
    done = clone.run("scripts/run_project.sh", "doctor")
    assert done.returncode == 3
    assert clone.calls()[-1].startswith(f"python3.14 -I {clone.root}/scripts/install.py {clone.root} run ")


def test_a_moved_clone_is_installed_again(clone: Clone) -> None:
    """An environment made under another path only looks whole: its programs name a Python that is not there."""
    clone.install()
    moved = Clone(root=clone.root.rename(clone.root.with_name("moved")), doubles=clone.doubles, seen=clone.seen)
    moved.double(clone.doubles / "python3.14", body=FAILS_TO_INSTALL)
    assert moved.run("scripts/run_project.sh", "doctor").returncode == 3


def test_every_check_runs_and_the_tests_wait_for_all(clone: Clone) -> None:
    """One red check does not hide the others; with any of them red no test is run, and the status says so."""
    clone.install("test")
    for name in ("ruff", "mypy", "lint-imports", "pytest"):
        clone.double(clone.root / ".venv" / "bin" / name, status=int(name == "ruff"))
    done = clone.run("scripts/test.sh")
    assert done.returncode == 1
    assert clone.calls() == ["ruff format --check", "ruff check", "mypy ", "lint-imports --no-logo"]
    assert done.stderr.endswith("check: failed: format lint\n")


def test_arguments_reach_pytest_and_the_seed_is_printed(clone: Clone) -> None:
    """What test.sh is given goes to pytest; a failure prints the command that runs the same order again."""
    clone.install("test")
    for name in ("ruff", "mypy", "lint-imports"):
        clone.double(clone.root / ".venv" / "bin" / name)
    clone.double(clone.root / ".venv" / "bin" / "pytest", status=1)
    done = clone.run("scripts/test.sh", "--full", "tests/house")
    seed = re.search(r"--randomly-seed=(\d+)", done.stderr)
    assert done.returncode == 1
    assert seed is not None
    again = f"--full tests/house --randomly-seed={seed[1]} --hypothesis-seed={seed[1]}"
    assert clone.calls()[-1] == f"pytest -n auto --dist worksteal {again}"
    assert done.stderr.endswith(f"./scripts/test.sh {again}\n")


def test_ci_runs_the_same_tests_and_requires_every_tool(clone: Clone) -> None:
    """.ci/run is test.sh where no test may be skipped for want of a tool; its status is that of test.sh."""
    clone.double(clone.root / "scripts" / "test.sh", body='echo "require=$P2ENGINE_REQUIRE"', status=5)
    done = clone.run(".ci/run", cwd=clone.root.parent)
    assert (done.returncode, done.stdout) == (5, "require=browser,redis,netns\n")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_plain(script: Path) -> None:
    """The scripts parse, and use neither what is newer than bash 3.2 nor flags that only GNU tools know."""
    subprocess.run(["bash", "-n", script], check=True)
    for number, line in enumerate(script.read_text().splitlines(), start=1):
        if not line.lstrip().startswith("#"):
            assert not re.search(f"{NEWER_THAN_BASH_3}|{GNU_ONLY}", line), f"{script.name}:{number}: {line}"


@pytest.mark.full
@pytest.mark.timeout(900)
def test_a_fresh_clone_talks(tmp_path: Path) -> None:
    """A bare machine: a first run that is killed, two first runs at once, and a later run without a network."""
    root = tmp_path / "a clone"
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
    bare = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    run = str(root / "scripts" / "run_project.sh")

    # given: a first run that is killed while it installs
    first = subprocess.Popen(
        [run, "--version"], env=bare, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert first.stderr is not None
    while "installing" not in (line := first.stderr.readline()):
        assert line, "the first run ended before it installed anything"
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    first.stderr.close()

    # when: two runs begin at once
    both = [
        subprocess.Popen(
            [run, "--version"], env=bare, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    outcomes = [(*process.communicate(), process.returncode) for process in both]

    # then: one of them installs anew, and both run
    assert [status for _, _, status in outcomes] == [0, 0], outcomes
    assert ["making .venv anew" in said for _, said, _ in outcomes].count(True) == 1
    assert all("0.1" in printed for printed, _, _ in outcomes)

    # and: what it needs as several processes is installed when it is asked for
    many = [run, "--distributed", "chat", "with", "agent_alpha", "-m", "What's the weather in Paris?"]
    first_time = subprocess.run(many, env=bare, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert first_time.returncode == 0, first_time.stderr
    assert "Paris: 22 °C" in first_time.stdout

    # and: with every way to an index cut off, agents answer through a tool and through each other
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/", "https_proxy": "http://127.0.0.1:9/"}
    messages = ["-m", "What's the weather in Paris?"]
    messages += ["-m", "Delegate to agent_helper: What's the weather in Tokyo?"]
    talk = subprocess.run(
        [run, "chat", "with", "agent_alpha", *messages],
        env=bare | nowhere,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert talk.returncode == 0, talk.stderr
    assert "22" in talk.stdout
    assert "10" in talk.stdout
    assert "install" not in talk.stderr

    # and: so they do over several processes, of which none is left
    again = subprocess.run(many, env=bare | nowhere, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "install" not in again.stderr
    assert "'./a clone/scripts/run_project.sh' --distributed chat resume agent_alpha-2" in again.stderr
    with (root / ".p2engine" / "valkey" / "used").open("r+") as used:
        fcntl.flock(used, fcntl.LOCK_EX | fcntl.LOCK_NB)
