"""The files in `deploy/` name commands, options, variables, queues and files that exist. Nothing here is run."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from typer.main import get_command

from p2engine.cli.main import app
from p2engine.configuration import PLACES, SECRETS, VARIABLES
from p2engine.dispatch.celery import QUEUES
from p2engine.settings import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))
KNOWN = {*VARIABLES, *PLACES, *SECRETS}


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = YAML(typ="safe").load((DEPLOY / "compose.yml").read_text())
    return loaded


def check_command(words: list[str]) -> None:
    """Such a command is there, and takes these options."""
    name, *rest = words
    command = get_command(app).commands[name]  # type: ignore[attr-defined]
    options = {option: parameter for parameter in command.params for option in parameter.opts}
    while rest:
        option = options[rest.pop(0)]
        value = "" if option.is_flag else rest.pop(0)
        if option.name == "queues":
            assert {"ticks" if queue == "%i" else queue for queue in value.split(",")} <= set(QUEUES)


def services() -> dict[str, Any]:
    return {name: service for name, service in compose()["services"].items() if name != "redis"}


@pytest.mark.parametrize("name", services())
def test_a_service_runs_a_command_that_exists(name: str) -> None:
    """With options that it has, and queues that there are."""
    check_command(list(services()[name]["command"]))


def test_the_services_serve_every_queue_and_sweep() -> None:
    """Nothing that a project may owe is left lying."""
    commands = [service["command"] for service in services().values()]
    named = [words[words.index("--queues") + 1] for words in commands if "--queues" in words]
    served = {queue for queues in named for queue in queues.split(",")}
    assert served == set(QUEUES)
    assert ["sweeper"] in commands


def test_the_redis_of_the_services_is_one_that_is_accepted() -> None:
    """It keeps what it acknowledged, and evicts nothing."""
    words = compose()["services"]["redis"]["command"]
    said = dict(zip(words[1::2], words[2::2], strict=True))
    assert said == {"--appendonly": "yes", "--appendfsync": "always", "--maxmemory-policy": "noeviction"}


def test_variables_of_the_services_are_settings() -> None:
    """Of the services and of the image."""
    said = {name for service in services().values() for name in service.get("environment", {})}
    image = re.findall(r"(P2ENGINE_\w+|REDIS_\w+)=", (DEPLOY / "Dockerfile").read_text())
    assert {*said, *image} <= KNOWN
    assert {"P2ENGINE_STORE", "P2ENGINE_DISPATCH", "P2ENGINE_PROJECT"} <= set(image)


def test_the_services_share_the_key_of_the_ledger() -> None:
    """One volume with a name holds it, in a folder that is the image's user's: else each container makes its own."""
    image = (DEPLOY / "Dockerfile").read_text()
    (home,) = re.findall(r"P2ENGINE_HOME=(\S+)", image)
    keys = str(Settings.load(project=ROOT, environ={"P2ENGINE_HOME": home}).layout.keys)
    (made,) = [words.split() for words in re.findall(r"mkdir (?:-p )?(.+?) \\\n", image)]
    assert keys in made
    assert re.search(rf"chown -R p2engine: .*{home}\b", image)
    sources = set()
    for name, service in services().items():
        mounts = dict(reversed(volume.split(":")) for volume in service.get("volumes", ()))
        assert keys in mounts, name
        sources.add(mounts[keys])
    assert len(sources) == 1
    assert sources <= set(compose()["volumes"])


def test_units_share_a_state_folder_that_they_may_write() -> None:
    """It is the same for all of them, and the text of each says what of it other hosts need."""
    for unit in UNITS:
        text = unit.read_text()
        (folder,) = re.findall(r"^WorkingDirectory=(.*)$", text, re.MULTILINE)
        home = Settings.load(project=ROOT).home.relative_to(ROOT)
        assert f"ReadWritePaths={folder}\n" in text
        assert f"{folder}/{home}/keys/ledger.key" in text


def test_the_image_copies_what_is_there() -> None:
    """Every source of a COPY."""
    lines = re.findall(r"^COPY (?:--\S+ )*(.+)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    for line in lines:
        *sources, _ = line.split()
        for source in sources:
            assert (ROOT / source).exists(), source


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_starts_a_command_that_exists(unit: Path) -> None:
    """With variables that are settings, and an end that a worker has time for."""
    text = unit.read_text()
    program, *words = shlex.split(re.search(r"^ExecStart=(.*)$", text, re.MULTILINE)[1])  # type: ignore[index]
    assert program.endswith("/.venv/bin/p2engine")
    check_command(words)
    said = re.findall(r"(\w+)=", re.search(r"^Environment=(.*)$", text, re.MULTILINE)[1])  # type: ignore[index]
    assert set(said) <= KNOWN
    assert "SuccessExitStatus=143" in text
