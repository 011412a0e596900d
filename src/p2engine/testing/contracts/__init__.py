"""One suite of tests for each port, for every driver of it.

    class TestMine(ArchiveContract):
        @pytest.fixture
        async def store(self): ...

A suite is a class whose tests take fixtures; its docstring says which. A module that uses one calls
`pytest.register_assert_rewrite("p2engine.testing.contracts")` first, so that a failure shows its values.
"""

from p2engine.testing.contracts.blobs import BlobStoreContract
from p2engine.testing.contracts.catalogue import CatalogueContract
from p2engine.testing.contracts.dispatcher import DispatcherContract
from p2engine.testing.contracts.evaluator import EvaluatorContract
from p2engine.testing.contracts.events import EventsContract
from p2engine.testing.contracts.ledger import LedgerContract
from p2engine.testing.contracts.lineage import LineageContract
from p2engine.testing.contracts.owing import OwingContract
from p2engine.testing.contracts.pruning import RetentionContract
from p2engine.testing.contracts.sinks import EventSinkContract
from p2engine.testing.contracts.writing import WritingContract


class StoreContract(WritingContract, OwingContract, LineageContract, EventsContract):
    """`ports.Store`. A subclass gives `store`, an empty one, and `owner` and `other`, two owners who live."""


class ArchiveContract(StoreContract, CatalogueContract, RetentionContract):
    """`ports.Archive`: the store, its catalogue and its retention, with the fixtures of StoreContract."""


__all__ = [
    "ArchiveContract",
    "BlobStoreContract",
    "CatalogueContract",
    "DispatcherContract",
    "EvaluatorContract",
    "EventSinkContract",
    "LedgerContract",
    "StoreContract",
]
