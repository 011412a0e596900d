"""Who is alive: locks on files, and a set for one process."""

from pathlib import Path

import pytest

from p2engine.domain.ids import OwnerId
from p2engine.errors import StoreError, UsageError
from p2engine.stores.owners import FileOwners, MemoryOwners, Owners

ME = OwnerId("me")


@pytest.fixture(params=["memory", "file"])
def owners(request: pytest.FixtureRequest, tmp_path: Path) -> Owners:
    return MemoryOwners() if request.param == "memory" else FileOwners(tmp_path / "owners")


def test_an_owner_lives_from_add_to_drop(owners: Owners) -> None:
    """Alive is who was added and not dropped; dropping a stranger is nothing."""
    assert not owners.alive(ME)
    owners.add(ME)
    assert owners.alive(ME)
    owners.drop(ME)
    owners.drop(ME)
    assert not owners.alive(ME)


def test_an_owner_lives_once(owners: Owners) -> None:
    """An owner that lives cannot be added again; one that was dropped can."""
    owners.add(ME)
    with pytest.raises(StoreError, match="me"):
        owners.add(ME)
    owners.drop(ME)
    owners.add(ME)
    owners.drop(ME)


def test_registers_of_one_directory_agree(tmp_path: Path) -> None:
    """An owner that one register added lives for every other, also in the same process, until it is dropped there."""
    mine, theirs = FileOwners(tmp_path), FileOwners(tmp_path)
    mine.add(ME)
    assert theirs.alive(ME)
    assert mine.alive(ME)
    with pytest.raises(StoreError):
        theirs.add(ME)
    mine.drop(ME)
    assert not theirs.alive(ME)


def test_asking_after_the_dead_tidies_up(tmp_path: Path) -> None:
    """The file of an owner that nobody holds is removed when somebody asks; nothing else is ever left behind."""
    (tmp_path / "me.lock").touch()
    owners = FileOwners(tmp_path)
    assert not owners.alive(ME)
    assert list(tmp_path.iterdir()) == []
    owners.add(ME)
    assert [path.name for path in tmp_path.iterdir()] == ["me.lock"]
    owners.drop(ME)
    assert list(tmp_path.iterdir()) == []


def test_failure_35_owners_that_cannot_be_kept(tmp_path: Path) -> None:
    """Where no lock can be made, the error names the directory."""
    (tmp_path / "owners").write_text("a file, not a directory")
    with pytest.raises(StoreError, match="owners"):
        FileOwners(tmp_path / "owners").add(ME)


@pytest.mark.parametrize("name", ["", "../me", "a/b", "a\0b", "x" * 101, "."])
def test_failure_26_an_owner_is_no_path(tmp_path: Path, name: str) -> None:
    """A name that could lead out of the directory is refused, and nobody of that name is alive."""
    owners = FileOwners(tmp_path / "owners")
    with pytest.raises(UsageError, match="no name"):
        owners.add(OwnerId(name))
    assert not owners.alive(OwnerId(name))
    assert list(tmp_path.iterdir()) == []


def test_the_first_of_the_living_tidies_up(tmp_path: Path) -> None:
    """Files that killed processes left are gone once another starts, those of the living are not."""
    (tmp_path / "dead.lock").touch()
    one, two = FileOwners(tmp_path), FileOwners(tmp_path)
    one.add(OwnerId("one"))
    two.add(OwnerId("two"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.lock", "two.lock"]
    one.drop(OwnerId("one"))
    two.drop(OwnerId("two"))
