"""How the stand-in words what a call came to. Knows tools by name and results by shape; decides nothing."""

import re
from typing import Any, Final

import msgspec

from p2engine.domain.messages import ToolUse

RESULT_CHARS_MAX: Final = 4000  # of one result in an answer
ROWS_MAX: Final = 20  # of a list in an answer
DEPTH_MAX: Final = 6  # of a value in an answer; what lies deeper is left out
QUOTED_CHARS_MAX: Final = 120
NOT_DONE: Final = "Not done: "  # begins each line about something that was not done, so that a caller can tell

_LABELS: Final = {
    "get_weather": "Weather in {location}",
    "delegate": "{agent_id} says",
    "check_balance": "Balance of {agent_id}",
    "transfer_funds": "Transfer of {amount} to {to_agent}",
    "reward_agent": "Reward of {amount} to {agent_id}",
    "transaction_history": "Transactions",
    "save_artifact": "Artifact {name}",
    "read_artifact": "Artifact {name}",
    "list_artifacts": "Artifacts",
}
_FAILED = re.compile(
    r"\[?\b(?:error|failed|failure|refused|denied|timed out|time-?out|skipped|interrupted|cancelled|unknown|invalid"
    r"|insufficient|no (?:agent|artifact|city|result|tool|wallet)|not (?:allowed|available|enough|found|permitted)"
    r"|a delegation needs|a person said no|delegations may not|more than \d+|the arguments are|too little)\b"
    r"|\w{0,40}(?:Error|Exception): |.*(?:not run again|goes in a circle|outcome unknown)$|agent '.{1,80}' is ",
    re.IGNORECASE,
)
_ENDED = re.compile(r"^(?:Not done: |\[[\w.-]{1,120} ended: )", re.MULTILINE)
_FAILED_STATUS = {"error", "failed", "failure", "denied", "timeout", "skipped", "interrupted", "refused", "rejected"}
_FINE_STATUS = {"ok", "success", "settled", "done"}


def has_failed(content: str) -> bool:
    """Whether a result says that its call failed. A model is shown no status beside it: its words decide."""
    value = _read(content)
    if isinstance(value, dict):
        return bool(value.get("error")) or str(value.get("status", "")).lower() in _FAILED_STATUS
    return bool(_FAILED.match(content) or _ENDED.search(content))


def outcome_line(call: ToolUse, content: str) -> str:
    """What a call came to, in a line or a few."""
    value = _read(content)
    text = clip(_plain(value, call.name), RESULT_CHARS_MAX).removeprefix(NOT_DONE) or "(empty)"
    # An answer that tells of several things, not all of them done, has lines of its own that say so.
    told = call.name == "delegate" and f"\n{NOT_DONE}" in content and not content.startswith(NOT_DONE)
    line = f"{_label(call, value)}: {text}".replace(": \n", ":\n", 1)
    return f"{NOT_DONE}{line}" if has_failed(content) and not told else line


def clip(text: str, chars: int) -> str:
    """`text` within that many characters; what is cut is said."""
    return text if len(text) <= chars else f"{text[:chars].rstrip()} … [cut]"


def quoted(text: str) -> str:
    """A piece of an instruction, to be named in a line."""
    return f"“{clip(' '.join(text.split()), QUOTED_CHARS_MAX)}”"


def _label(call: ToolUse, result: Any) -> str:
    """What was called, in words. What the call left to the tool, its result may tell."""
    arguments = {key: clip(str(value), 80) for key, value in call.arguments.items()}
    if call.name == "check_balance" and "agent_id" not in arguments:
        return "My balance"
    words = re.split(r"\{(\w+)\}", _LABELS.get(call.name, clip(call.name, 80)))
    told = result if isinstance(result, dict) else {}
    known = {word: clip(str(told.get(word, "?")), 80) for word in words[1::2]} | arguments
    label = "".join(known[word] if number % 2 else word for number, word in enumerate(words))
    return f"{label} ({arguments['reason']})" if arguments.get("reason") else label


def _read(content: str) -> Any:
    """The JSON value that a result is, or its text."""
    if content[:1] not in ("{", "["):
        return content
    try:
        return msgspec.json.decode(content)
    except (msgspec.DecodeError, RecursionError):
        return content


def _plain(value: Any, tool: str = "", depth: int = 0) -> str:
    """A JSON value for a reader."""
    match value:
        case str():
            return value.strip()
        case bool() | None:
            return {True: "yes", False: "no", None: "none"}[value]
        case list() | dict() if depth > DEPTH_MAX:
            return "…"
        case list():
            rows = [f"- {_plain(row, '', depth + 1)}" for row in value[:ROWS_MAX]]
            more = [f"- and {len(value) - ROWS_MAX} more"] if len(value) > ROWS_MAX else []
            return "\n".join(["", *rows, *more]) if rows else "none"
        case dict():
            return _plain_object(value, tool, depth)
        case _:
            return str(value)


def _plain_object(value: dict[str, Any], tool: str, depth: int) -> str:
    for key in ("data", "result", "transactions", "artifacts"):
        if isinstance(inner := value.get(key), dict | list):
            return _plain(inner, tool, depth + 1)
    degrees = _first(value, "temperature", "temperature_c", "temp", "temp_c")
    if tool == "get_weather" and degrees is not None:
        return _degrees(value, degrees)
    if tool == "check_balance" and value.get("balance") is not None:
        return " ".join(str(value[key]) for key in ("balance", "instrument") if value.get(key) is not None)
    if isinstance(error := value.get("error"), str) and error:
        return error
    told = [
        f"{key}: {_plain(one, '', depth + 1)}"
        for key, one in value.items()
        if one is not None and not (key == "status" and str(one).lower() in _FINE_STATUS)
    ]
    return ", ".join(told) or "done"


def _degrees(value: dict[str, Any], degrees: Any) -> str:
    unit = str(value.get("unit", "celsius")).lower()
    sign = {"celsius": " °C", "c": " °C", "fahrenheit": " °F", "f": " °F"}.get(unit.strip("°"), f" {unit}")
    sky = _first(value, "condition", "conditions", "description", "summary")
    source = _first(value, "source", "note")
    text = f"{degrees}{'' if isinstance(degrees, str) and not degrees[-1:].isdigit() else sign}"
    return text + (f", {sky}" if sky else "") + (f" (source: {source})" if source else "")


def _first(value: dict[str, Any], *keys: str) -> Any:
    return next((value[key] for key in keys if value.get(key) is not None), None)
