"""`run_project.sh --distributed` once .venv is there: what it brings up, what it says, and that nothing of it stays."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import ValkeyServer, free_port

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "distributed.py"
KEPT = ROOT / "scripts" / "kept.py"
PARIS = "What's the weather in Paris?"
TIMEOUT_S = 90


class Place:
    """A project, and the script in it as a process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()  # nobody answers there
        for part in ("config", "templates"):
            shutil.copytree(ROOT / part, folder / part)

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        env = {"PATH": os.defpath, "HOME": str(self.folder.parent), "REDIS_PORT": str(self.port), **variables}
        return subprocess.Popen(
            [sys.executable, SCRIPT, *arguments],
            cwd=self.folder,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, **variables: str) -> tuple[int, str, str]:
        with self.start(*arguments, **variables) as process:
            out, err = process.communicate("", timeout=TIMEOUT_S)
        return process.returncode, out, err

    def ready(self, process: subprocess.Popen[str]) -> str:
        """Wait until all is up. Returns the line that says so."""
        assert process.stderr is not None
        for line in process.stderr:
            if "ready in" in line:
                return line
        raise AssertionError("it ended")

    def is_in_use(self) -> bool:
        """Whether a process that was started still runs."""
        with (self.folder / ".p2engine/valkey/used").open("r+") as used:
            try:
                fcntl.flock(used, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return self.server_answers()

    def until_nobody_is_left(self) -> None:
        """Every process that was started holds a lock as long as it lives."""
        with (self.folder / ".p2engine/valkey/used").open("r+") as used:
            fcntl.flock(used, fcntl.LOCK_EX)
        assert not self.server_answers()

    def server_answers(self) -> bool:
        port = int((self.folder / ".p2engine/valkey/port").read_text())
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """With the agents of the repository; whatever a test leaves running is gone at the end."""
    place = Place(tmp_path)
    yield place
    if (tmp_path / ".p2engine/valkey/port").exists():
        place.until_nobody_is_left()


@pytest.mark.timeout(TIMEOUT_S)
def test_a_command_runs_on_workers_and_nothing_stays(place: Place) -> None:
    """It is answered, over a tool; what is said to be typed next works; afterwards nobody is there."""
    status, out, err = place.run("chat", "with", "agent_alpha", "--name", "demo", "-m", PARIS)

    assert status == 0, err
    assert "Paris: 22 °C" in out
    assert f"a Valkey of its own on port {(place.folder / '.p2engine/valkey/port').read_text()}" in err
    assert f"conversation demo · {ROOT}/scripts/run_project.sh --distributed chat resume demo" in err
    assert "ready in " in err
    assert not place.is_in_use()
    logs = {path.name for path in (place.folder / "logs").glob("run_*/workers/*")}
    assert logs == {f"{name}.log" for name in ("ticks", "tools", "evals", "rollouts", "sweeper", "valkey")}


@pytest.mark.timeout(TIMEOUT_S)
def test_killed_it_leaves_nobody(place: Place) -> None:
    """kill -9 of the script itself: its workers, its command and its server end by themselves."""
    with place.start("shell") as process:
        place.ready(process)
        os.kill(process.pid, signal.SIGKILL)
    place.until_nobody_is_left()


@pytest.mark.full
@pytest.mark.timeout(TIMEOUT_S)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("when", ["bringing up", "ready in"])
def test_a_signal_ends_all_of_it(place: Place, number: int, when: str) -> None:
    """Whenever it comes, and also to the whole group, as a terminal sends it."""
    with place.start("chat", "with", "agent_alpha") as process:
        assert process.stderr is not None
        while when not in process.stderr.readline():
            pass
        os.killpg(process.pid, number)
        process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 128 + number
    place.until_nobody_is_left()


@pytest.mark.full
@pytest.mark.timeout(TIMEOUT_S)
def test_a_second_terminal_joins(place: Place) -> None:
    """It works on the same server, which stays for the one that ends last; what was said is there the next time."""
    with place.start("shell") as first:
        place.ready(first)
        with place.start("shell") as second:
            place.ready(second)
            out, err = first.communicate("chat with agent_alpha --name demo -m hello\nexit\n", timeout=TIMEOUT_S)
            assert first.returncode == 0, err
            assert place.is_in_use()
            out, err = second.communicate("conversation list --json\nexit\n", timeout=TIMEOUT_S)
    assert '"demo"' in out, err
    assert not place.is_in_use()
    status, out, err = place.run("conversation", "list", "--json")
    assert (status, '"demo"' in out) == (0, True), err


def test_a_redis_that_may_lose_something_is_refused_once(place: Place) -> None:
    """What answers at the configured address is used, unless it is unfit: one refusal with its mend, and no workers."""
    with ValkeyServer("--save", "", "--appendonly", "no") as unsafe:
        status, out, err = place.run("shell", REDIS_PORT=str(unsafe.port))

    assert (status, out) == (1, "")
    said = err.splitlines()
    assert len(said) == 2, err
    assert "can lose what it acknowledged" in said[0]
    assert "appendonly yes" in said[1]
    assert not list((place.folder / "logs").glob("run_*/workers/ticks.log"))


def test_a_redis_that_was_configured_and_is_away_is_an_error(place: Place) -> None:
    """Somebody meant that one, so no other is started in its stead."""
    status, _, err = place.run("shell", REDIS_HOST="redis.invalid")

    assert status == 1
    assert err.splitlines() == [
        f"p2engine: error: nothing answers at redis://redis.invalid:{place.port}/0",
        "p2engine:   start it, or take it out of the settings",
    ]


@pytest.mark.timeout(TIMEOUT_S)
def test_a_worker_that_does_not_start_is_named(place: Place) -> None:
    """With its log and the end of what it said; the others, and the server, end with it."""
    (place.folder / "config" / "agents.yml").write_text("agents: 7\n")
    status, out, err = place.run("shell")

    assert (status, out) == (1, "")
    said = err.splitlines()
    assert " ended with status 2; its log is " in said[1]
    assert "agents.yml" in err
    place.until_nobody_is_left()


def test_wrong_settings_are_told_before_anything_is_started(place: Place) -> None:
    """As every command tells them."""
    (place.folder / "config" / "config.json").write_text('{"stoer": "redis"}')
    status, _, err = place.run("shell")

    assert status == 2
    assert "stoer" in err
    assert not (place.folder / ".p2engine").exists()


@pytest.mark.full
@pytest.mark.timeout(TIMEOUT_S)
def test_a_port_that_somebody_else_listens_on_is_no_redis(place: Place) -> None:
    """Where what answers speaks something else, a server of its own is brought up."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        status, _, err = place.run("--version", REDIS_PORT=str(taken.getsockname()[1]))

    assert status == 0, err
    assert "a Valkey of its own" in err


def test_a_kept_process_ends_with_the_pipe(tmp_path: Path) -> None:
    """What `kept.py` runs is asked to end when the other end of its pipe is closed."""
    life, ours = os.pipe()
    env = {"PATH": os.defpath, "HOME": str(tmp_path)}
    command = [sys.executable, str(KEPT), "p2engine", str(life), str(life), "shell"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=env, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, pass_fds=(life,)
    ) as process:
        os.close(life)
        assert process.poll() is None
        os.close(ours)
        assert process.wait(TIMEOUT_S) in (-signal.SIGTERM, 128 + signal.SIGTERM)


def test_a_kept_server_ends_when_nobody_uses_it(tmp_path: Path) -> None:
    """Not before the last of those that hold the lock has gone."""
    with (tmp_path / "used").open("w") as used, (tmp_path / "used").open() as other:
        fcntl.flock(used, fcntl.LOCK_SH)
        fcntl.flock(other, fcntl.LOCK_SH)
        server = [sys.executable, "-c", "import signal; print('up', flush=True); signal.pause()"]
        command = [sys.executable, "-I", "-S", str(KEPT), "server", str(tmp_path / "used"), *server]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            fcntl.flock(used, fcntl.LOCK_UN)
            assert process.poll() is None
            fcntl.flock(other, fcntl.LOCK_UN)
            assert process.wait(TIMEOUT_S) == 128 + signal.SIGTERM
