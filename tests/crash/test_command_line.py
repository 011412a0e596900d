"""The programs themselves, as people start them and with the leases they have: the command line and workers, killed."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.deployment import PATIENCE_S, Beside, Deployment


@pytest.fixture
def deployed(tmp_path: Path) -> Iterator[Deployment]:
    deployed = Deployment("distributed", tmp_path)
    try:
        deployed.up()
        yield deployed
    finally:
        deployed.down()


def test_failure_06_the_command_line_is_killed(deployed: Deployment) -> None:
    """The turn goes on without whoever asked; asked again, the command line shows it; nothing was asked twice."""
    gate = deployed.model.gate("one")
    with deployed.process("chat", "with", "talker", "--name", "one", "-m", "hold one") as asking:
        assert gate.asked.wait(PATIENCE_S)
        asking.kill()
    with deployed.process("chat", "resume", "one") as asking_again:
        gate.opened.set()
        said, _ = asking_again.communicate(timeout=PATIENCE_S)
    stack = json.loads(deployed.cli("conversation", "stack", "one", "--json").out)
    assert "You said: hold one" in said + json.dumps(stack)
    assert json.dumps(stack).count("You said: hold one") == 1


@pytest.mark.full
@pytest.mark.timeout(300)
def test_failure_06_every_worker_is_killed_and_one_started(deployed: Deployment) -> None:
    """Worker and sweeper die in a model call; a worker that is started ends the turn, and whoever waits is answered."""
    gate = deployed.model.gate("all")
    with deployed.process("chat", "with", "talker", "--name", "all", "-m", "hold all") as asking:
        assert gate.asked.wait(PATIENCE_S)
        dead, deployed._beside = deployed._beside, []
        for beside in dead:
            os.kill(beside.pid, signal.SIGKILL)
        for beside in dead:
            with pytest.raises(AssertionError):  # it did not end as it was told to
                beside.end()
        gate.opened.set()
        deployed._beside = [Beside(deployed.project, {**deployed.environment, "P2ENGINE_OFFLINE": "auto"}, "worker")]
        said, _ = asking.communicate(timeout=PATIENCE_S)
    assert "You said: hold all" in said
