"""Every door in the house: what P2Engine asks of the world, and nothing about how.

Each port has a contract suite in `p2engine.testing.contracts` that every driver of it passes.
"""

from p2engine.ports.acting import (
    Agent,
    AgentView,
    Artifacts,
    Model,
    OnText,
    Roster,
    Tool,
    Toolbox,
    ToolContext,
    ToolRunner,
    Wallet,
)
from p2engine.ports.judging import Evaluator, Judges
from p2engine.ports.paying import Auditable, AuditableLedger, Ledger
from p2engine.ports.running import Clock, Dispatcher, EventSink, Ids, Limiter
from p2engine.ports.storing import Archive, BlobStore, Catalogue, Owing, Retention, Store

__all__ = [
    "Agent",
    "AgentView",
    "Archive",
    "Artifacts",
    "Auditable",
    "AuditableLedger",
    "BlobStore",
    "Catalogue",
    "Clock",
    "Dispatcher",
    "Evaluator",
    "EventSink",
    "Ids",
    "Judges",
    "Ledger",
    "Limiter",
    "Model",
    "OnText",
    "Owing",
    "Retention",
    "Roster",
    "Store",
    "Tool",
    "ToolContext",
    "ToolRunner",
    "Toolbox",
    "Wallet",
]
