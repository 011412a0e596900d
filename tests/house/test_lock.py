"""The lock file: made from pyproject.toml, from one public index, and read by pip as well as by uv."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
LOCK = tomllib.loads((ROOT / "uv.lock").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXPORTS = {
    "requirements.txt": ("", "build", "learn"),
    "requirements-local.txt": ("local",),
    "requirements-test.txt": ("test",),
}
Pins = dict[str, dict[str, set[str]]]
"""name -> version -> hashes. Several versions: for several versions of Python."""


def pinned(export: str) -> Pins:
    """The packages of a requirements file."""
    text = (ROOT / "scripts" / export).read_text().replace("\\\n", " ")
    found: Pins = {}
    for name, version, rest in re.findall(r"^([a-z0-9-]+)==(\S+)(.*)$", text, flags=re.MULTILINE):
        found.setdefault(name, {})[version] = set(re.findall(r"--hash=(\S+)", rest))
    return found


def locked(parts: tuple[str, ...]) -> Pins:
    """What the lock names for groups and extras of the project ("" is what it runs on), with all they need."""
    packages: dict[str, list[dict[str, Any]]] = {}
    for package in LOCK["package"]:
        packages.setdefault(package["name"], []).append(package)
    (project,) = packages["p2engine"]
    asked = {"": project["dependencies"], **project["dev-dependencies"], **project["optional-dependencies"]}
    wanted = [one for part in parts for one in asked[part]]
    found: Pins = {}
    while wanted:
        one = wanted.pop()
        for package in packages[one["name"]]:
            for extra in one.get("extra", ()):
                wanted += package["optional-dependencies"][extra]
            versions = found.setdefault(one["name"], {})
            if package["version"] not in versions:
                archives = [*package.get("wheels", []), *([package["sdist"]] if "sdist" in package else [])]
                versions[package["version"]] = {archive["hash"] for archive in archives}
                wanted += package.get("dependencies", [])
    return found


@pytest.mark.parametrize("export", EXPORTS)
def test_pip_installs_what_the_lock_names(export: str) -> None:
    """The files that pip reads name the packages, versions and hashes of uv.lock, no more and no less."""
    assert pinned(export) == locked(EXPORTS[export]), "run ./scripts/lock.sh"


def test_the_lock_is_up_to_date() -> None:
    """uv.lock was made from the dependencies that pyproject.toml names now."""
    project = next(package for package in LOCK["package"] if package["name"] == "p2engine")

    def as_locked(requirements: list[str]) -> set[tuple[str, frozenset[str]]]:
        split = (re.fullmatch(r"([A-Za-z0-9._-]+)(?:\[\w+\])?\s*([^;]*).*", one) for one in requirements)
        return {
            (m[1].lower().replace(".", "-").replace("_", "-"), frozenset(m[2].replace(" ", "").split(",")))
            for m in split
            if m
        }

    def locked_as(entries: list[dict[str, str]]) -> set[tuple[str, frozenset[str]]]:
        return {(entry["name"], frozenset(entry.get("specifier", "").split(","))) for entry in entries}

    extras = [one for extra in PROJECT["project"].get("optional-dependencies", {}).values() for one in extra]
    metadata = project["metadata"]
    assert as_locked(PROJECT["project"]["dependencies"] + extras) == locked_as(metadata["requires-dist"]), "run uv lock"
    for group in PROJECT["dependency-groups"]:
        assert as_locked(requirements_of(group)) == locked_as(metadata["requires-dev"][group]), (
            f"{group}: run ./scripts/lock.sh"
        )


def requirements_of(group: str) -> list[str]:
    """What a group asks for, with the groups that it includes."""
    found: list[str] = []
    for one in PROJECT["dependency-groups"][group]:
        found += [one] if isinstance(one, str) else requirements_of(one["include-group"])
    return found


def test_the_lock_names_one_public_index() -> None:
    """Every package but the project itself comes from the default index, with a hash."""
    elsewhere = [
        package["name"] for package in LOCK["package"] if package["name"] != "p2engine" and not is_public(package)
    ]
    assert elsewhere == []


def is_public(package: dict[str, Any]) -> bool:
    """Whether a locked package comes from the default index, each archive of it with a hash."""
    archives = [*package.get("wheels", []), *([package["sdist"]] if "sdist" in package else [])]
    from_index = re.fullmatch(r"https://pypi\.org/simple/?", package["source"].get("registry", "")) is not None
    return from_index and all(
        re.match(r"https://files\.pythonhosted\.org/", archive["url"]) and archive["hash"].startswith("sha256:")
        for archive in archives
    )
