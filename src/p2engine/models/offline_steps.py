"""How a message falls into steps: lines, items of a list, sentences, and texts that are passed on as they stand.

Knows where one step ends and the next begins; what a sentence asks for is read by its phrases.
"""

import re
from collections.abc import Iterator
from typing import Final

import msgspec

from p2engine.models.offline_phrases import (
    CONTEXT,
    LEADING_DO,
    NAME,
    NAMES,
    QUOTES,
    REASON_CHARS_MAX,
    Kind,
    Step,
    agent_names,
    read_phrase,
)

INSTRUCTION_CHARS_MAX: Final = 20_000  # of one message; a longer one is not read
SENTENCES_MAX: Final = 200  # read of one message

_ITEM = re.compile(r"\s{0,20}(?:\d{1,3}[.)]|[-*•])\s{1,20}(\S.*)", re.DOTALL)
_REASON_LINE = re.compile(r"\s*reason\s*[:=]\s*(.{1,400})", re.IGNORECASE | re.DOTALL)
_GREETING = re.compile(r"(?:hello|hi|hey|good (?:morning|day|evening))\b[\w\s,]{0,30}[!.]{0,3}", re.IGNORECASE)
_ASIDE = re.compile(
    r"(?:you|your|these|complete|if unsure|thanks?|thank you|use\s(?:the\s)?\w{1,64}\stool)\b|.*:$",
    re.IGNORECASE | re.DOTALL,
)
_LEAD = re.compile(
    r"(?:(?:(?:and|also|please|now|so|first(?:ly)?|second(?:ly)?|then|next|finally|lastly|afterwards?|after that"
    r"|(?:can|could|would|will) you|I want you to)\b|(?:once|after)\s[^,.!?\n]{1,80},"
    r"|(?:hello|hi|hey)\b[^,.!?\n]{0,30},)[\s,:]*)+",
    re.IGNORECASE,
)
_VERBS = (
    r"ask|check|delegate|distribute|list|pay|read|reward|save|send|share|show|split|tell|transfer|what(?:['’]s|\s+is)"
)
_SENTENCE = re.compile(r"(?<=[.!?;])(?<!\bSt\.)\s+")
_BREAK = re.compile(
    rf"{_SENTENCE.pattern}|(?<=[^\s,]),?\s{{1,20}}(?:and\s{{1,9}})?then\b[\s,]*"
    rf"|(?<=[^\s,]),?\s{{1,20}}and\s{{1,9}}(?=(?:{_VERBS})\b)",
    re.IGNORECASE,
)


def plan(text: str) -> list[Step]:
    """The steps that `text` asks for, in order; one `unclear` step where it asks for nothing that can be read."""
    if len(text) > INSTRUCTION_CHARS_MAX:
        return [Step(kind="unclear", text=f"a message of more than {INSTRUCTION_CHARS_MAX} characters")]
    steps: list[Step] = []
    reason = ""
    for listed, line in _lines(text):
        if given := _REASON_LINE.fullmatch(line):
            reason = given[1].strip(QUOTES + " .")[:REASON_CHARS_MAX]
            continue
        for step in _read(line):
            if len(steps) == SENTENCES_MAX:
                steps.append(Step(kind="unclear", text=f"what follows sentence {SENTENCES_MAX}", listed=True))
                return _tidy(steps, reason)
            steps.append(msgspec.structs.replace(step, listed=listed))
    if all(step.kind == "unclear" for step in steps):
        return [Step(kind="unclear", text=text.strip())] if text.strip() else []
    return _tidy(steps, reason)


def _tidy(steps: list[Step], reason: str) -> list[Step]:
    """Leave out what only stands beside the instructions, and give payments the reason that was given for all."""
    kept: list[Step] = []
    for step in steps:
        aside = step.kind == "unclear" and not step.listed
        if aside and (CONTEXT.match(step.text) or _ASIDE.match(step.text)):
            continue
        if step.kind == "who" and len(steps) > 1 and _GREETING.fullmatch(step.text):
            continue
        if aside and kept and kept[-1].kind == "write":
            kept[-1] = msgspec.structs.replace(kept[-1], text=f"{kept[-1].text} {step.text}")
        elif step.kind in ("transfer", "shares", "reward") and not step.words:
            kept.append(msgspec.structs.replace(step, words=reason))
        else:
            kept.append(step)
    return kept or steps


def _lines(text: str) -> Iterator[tuple[bool, str]]:
    """Each line, and whether it is an item of a list. An indented line goes on with the item above it."""
    lines: list[tuple[bool, str]] = []
    for line in text.split("\n"):
        if item := _ITEM.fullmatch(line):
            lines.append((True, item[1].strip()))
        elif lines and lines[-1][0] and line.strip() and line[0].isspace():
            lines[-1] = (True, f"{lines[-1][1]} {line.strip()}")
        else:
            lines += _inline_items(line.strip())
    return (line for line in lines if line[1])


def _inline_items(line: str) -> list[tuple[bool, str]]:
    """A list that was folded into one line (`Do this: 1. … 2. …`) as its items; any other line as it is."""
    cuts: list[re.Match[str]] = []
    while found := re.compile(rf"(?:^|\s){len(cuts) + 1}[.)]\s").search(line, cuts[-1].end() - 1 if cuts else 0):
        cuts.append(found)
    if len(cuts) < 2 or _DELEGATE.match(line):
        return [(False, line)]
    ends = [cut.start() for cut in cuts[1:]] + [len(line)]
    items = [(True, line[cut.end() : end].strip()) for cut, end in zip(cuts, ends, strict=True)]
    return [(False, line[: cuts[0].start()].strip()), *items]


def _read(line: str) -> Iterator[Step]:
    """The steps of one line."""
    rest = line.strip()
    while rest := (rest[lead.end() :] if (lead := _LEAD.match(rest)) else rest):
        found = _delegation(rest) or _saving(rest) or _using(rest)
        if found is None:
            # What a condition guards is never cut off from it.
            cut = (_SENTENCE if rest[:3].lower() == "if " else _BREAK).search(rest)
            clause, after = (rest[: cut.start()], rest[cut.end() :]) if cut else (rest, "")
            found = read_phrase(clause), after
        yield found[0]
        rest = found[1].strip()


# Steps that take their own extent, because their text may hold anything

_DELEGATE = re.compile(
    rf"{LEADING_DO}(?:delegate\s{{1,9}}(?:(?:this|it|that)\s{{1,9}})?to"
    rf"|(?:ask|tell)(?!\s+(?:me|us|you|yourself|my)\b))\s{{1,9}}(?:the\s{{1,9}})?(?P<names>{NAMES})"
    r"(?::|,?\s{1,9}to\b|,?\s{1,9}(?=(?:about|for|how|if|that|what|when|where|whether|which|who|why)\b))\s{0,99}",
    re.IGNORECASE,
)
_AFTER_DELEGATION = re.compile(
    r"(?<=[.!?;])\s+(?=(?:and\s)?(?:then|next|finally|lastly|afterwards?|after that|once|if (?:they|he|she|it)"
    r"|delegate to|(?:transfer|pay|send|give|reward)\b[^.!?\n]{0,80}\b(?:them|him|her))\b)",
    re.IGNORECASE,
)
_SAVE = re.compile(
    r"(?:save|store)(?:\s(?:the\s)?(?:artifact|text|words))?\s{1,9}"
    r"(?:[\"“](?P<quoted>[^\"”]{0,8000})[\"”]|(?P<plain>[^\n]{1,4000}?))"
    r"\s{1,9}(?:as(?:\s(?:the\s)?(?:artifact|file))?|(?:to|in)\s(?:the\s)?(?:artifact|file))\s{1,9}"
    rf"[{QUOTES}]?(?P<name>{NAME})[{QUOTES}]?(?=[.,;!?]*(?:$|\s))[.,;!?]{{0,3}}"
    rf"|(?:save|store)\s{{1,9}}artifact\s{{1,9}}(?P<colon>{NAME}):\s{{0,9}}(?P<content>.{{1,8000}})",
    re.IGNORECASE | re.DOTALL,
)
_USE = re.compile(
    rf"(?:use|call|run)\s{{1,9}}(?:the\s)?(?:tool\s{{1,9}})?(?P<name>{NAME})(?:\s{{1,9}}tool)?(?:\s{{1,9}}with)?:?\s{{0,9}}"
    r"(?P<arguments>\{.{0,4000}\})\s*\.?",
    re.IGNORECASE | re.DOTALL,
)


def _delegation(text: str) -> tuple[Step, str] | None:
    """`Delegate to NAMES: TEXT`, `ask NAME to TEXT`: the text is passed on as it is, up to a next step or the end."""
    found = _DELEGATE.match(text)
    if found is None:
        return None
    body = text[found.end() :]
    if (quoted := re.match(r"[\"“]([^\"”]*)[\"”]", body)) and quoted[1].strip():
        message, rest = quoted[1], body[quoted.end() :].lstrip(".,; ")
    else:
        cut = _AFTER_DELEGATION.search(body)
        message, rest = (body[: cut.start()], body[cut.end() :]) if cut else (body, "")
    names = agent_names(found["names"])
    kind: Kind = "delegate" if names and message.strip() else "unclear"
    return Step(kind=kind, text=text[: len(text) - len(rest)].strip(), names=names, words=message.strip()), rest


def _saving(text: str) -> tuple[Step, str] | None:
    """`Save TEXT as NAME`, `save artifact NAME: TEXT`."""
    found = _SAVE.match(text)
    if found is None:
        return None
    content = found["content"] or found["quoted"] or found["plain"] or ""
    name = found["name"] or found["colon"]
    return Step(kind="save", text=found[0], names=(name,), words=content), text[found.end() :]


def _using(text: str) -> tuple[Step, str] | None:
    """`Use TOOL with {…}`: any tool, with its arguments written out as JSON."""
    found = _USE.fullmatch(text)
    return (Step(kind="use", text=text, names=(found["name"],), words=found["arguments"]), "") if found else None
