"""P2Engine: build, run, evaluate and improve multi-agent LLM systems.

What stands in `__all__` is public, with `p2engine.ports` and `p2engine.testing`. A name is loaded when it is first
asked for: importing the package opens nothing and loads no library.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from p2engine.domain.verdicts import Subject, Verdict
    from p2engine.errors import (
        ConfigError,
        ConflictError,
        EffectError,
        ModelError,
        NameTaken,
        NotAvailable,
        P2EngineError,
        SetupError,
        StoreError,
        ToolError,
        UsageError,
    )
    from p2engine.evals.function import evaluator
    from p2engine.evals.llm import LLMEvaluator
    from p2engine.ports import ToolContext
    from p2engine.runtime.conversation import Conversation, Reply
    from p2engine.tools.function import agent_call, function_tool, raise_event, save_artifact
    from p2engine.wiring import Engine

    __version__: str

__all__ = [
    "ConfigError",
    "ConflictError",
    "Conversation",
    "EffectError",
    "Engine",
    "LLMEvaluator",
    "ModelError",
    "NameTaken",
    "NotAvailable",
    "P2EngineError",
    "Reply",
    "SetupError",
    "StoreError",
    "Subject",
    "ToolContext",
    "ToolError",
    "UsageError",
    "Verdict",
    "agent_call",
    "evaluator",
    "function_tool",
    "raise_event",
    "save_artifact",
]

_ELSEWHERE = {
    "Conversation": "p2engine.runtime.conversation",
    "Engine": "p2engine.wiring",
    "LLMEvaluator": "p2engine.evals.llm",
    "Reply": "p2engine.runtime.conversation",
    "Subject": "p2engine.domain.verdicts",
    "ToolContext": "p2engine.ports",
    "Verdict": "p2engine.domain.verdicts",
    "agent_call": "p2engine.tools.function",
    "evaluator": "p2engine.evals.function",
    "function_tool": "p2engine.tools.function",
    "raise_event": "p2engine.tools.function",
    "save_artifact": "p2engine.tools.function",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("p2engine")
    elif name in __all__:
        value = getattr(import_module(_ELSEWHERE.get(name, "p2engine.errors")), name)
    else:
        raise AttributeError(f"module 'p2engine' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
