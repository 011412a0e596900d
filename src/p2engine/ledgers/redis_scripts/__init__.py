"""The scripts of the ledger in Redis, each one atomic. None judges: what is to be written is worked out beforehand."""

from importlib.resources import files
from typing import Any, Final

NAMES: Final = ("append", "page", "links", "found", "kept")


def scripts(client: Any) -> dict[str, Any]:
    """Each takes the beginning of the ledger's keys, and arguments; where the server has it not, it is loaded."""
    folder = files(__package__)
    return {name: client.register_script((folder / f"{name}.lua").read_text()) for name in NAMES}
