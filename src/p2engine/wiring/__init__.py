"""Builds everything from settings: the only package that knows every driver. Opens nothing until asked."""

from p2engine.wiring.agents import evaluators_of, models_of, roster_of, tools_of
from p2engine.wiring.engine import Engine
from p2engine.wiring.keeping import FORMAT, RandomIds, SystemClock
from p2engine.wiring.workers import ALL, Part, asking_of, broker_of, reach

__all__ = [
    "ALL",
    "FORMAT",
    "Engine",
    "Part",
    "RandomIds",
    "SystemClock",
    "asking_of",
    "broker_of",
    "evaluators_of",
    "models_of",
    "reach",
    "roster_of",
    "tools_of",
]
