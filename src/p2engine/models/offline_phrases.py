"""What one sentence asks for: a table of patterns and no understanding.

Knows words only: neither which tools are offered nor what happened before. What no pattern fits is `unclear`.
Every gap in a pattern is bounded, so that no text makes reading it slow. What moves money must begin its sentence:
a question about a payment, or a warning against one, is no order to pay.
"""

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Final, Literal

import msgspec

CITIES_MAX: Final = 16  # of one step
REASON_CHARS_MAX: Final = 200  # of a payment's reason
KNOWN_CITIES: Final = ("Paris", "Tokyo", "San Francisco", "London", "New York", "Oslo")
THEM: Final = "them"  # whoever was delegated to last

Kind = Literal[
    "weather",
    "delegate",
    "balance",
    "transfer",
    "shares",
    "reward",
    "history",
    "save",
    "read",
    "list",
    "use",
    "write",
    "who",
    "unclear",
]
Build = Callable[[str, re.Match[str]], "Step | None"]


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was asked for.

    names: cities, agents, an artifact or a tool. words: a message, a reason, a content, a unit or arguments, as typed.
    each: the amount is for each of the names. listed: an item of a list. if_well: only if the agent asked did well.
    """

    kind: Kind
    text: str
    names: tuple[str, ...] = ()
    amount: Decimal | None = None
    words: str = ""
    each: bool = False
    listed: bool = False
    if_well: bool = False


def read_phrase(clause: str) -> Step:
    """What one sentence asks for."""
    condition = _IF.fullmatch(clause)
    if condition is None:
        return _look_up(clause)
    what, then = condition["what"] or condition["after"], condition["rest"] or condition["first"]
    if not _WELL.match(what) or _NOT_WELL.search(what):
        return Step(kind="unclear", text=clause)
    return msgspec.structs.replace(_look_up(then.strip()), text=clause, if_well=True)


def agent_names(text: str) -> tuple[str, ...]:
    """The names in `a, b and c`, each once; none where one of them is no name but a word such as `everybody`."""
    words = re.split(r"[\s,&]+", re.sub(r"\band\b", " ", text, flags=re.IGNORECASE).strip())
    names = dict.fromkeys(THEM if word.lower() in _THEM else word for word in words if word)
    return () if any(_NO_NAME.fullmatch(name) for name in names) else tuple(names)


def _look_up(clause: str) -> Step:
    if not CONTEXT.match(clause):
        for pattern, build in _TABLE:
            if (found := pattern.search(clause)) and (step := build(clause, found)):
                return step
    return Step(kind="unclear", text=clause)


# Words

NAME: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,62}[A-Za-z0-9_-])?(?![\w-])"
NAMES: Final = rf"{NAME}(?:(?:,\s{{0,9}}(?:and\s{{1,9}})?|\s{{1,9}}and\s{{1,9}}|\s{{0,9}}&\s{{0,9}}){NAME}){{0,15}}"
QUOTES: Final = "\"'“”‘’`"
LEADING_DO: Final = (
    r"(?:use\s{1,9}(?:the\s)?\w{1,64}(?:\stool)?\s{1,9}to\s{1,9}|you\s{1,9}(?:must|should|have to|need to)\s{1,9})?"
)
CONTEXT: Final = re.compile(
    r"(?:you(?: are|['’]re)|your (?:goal|job|role|task)|agent_\w{1,64} has|this is|note)\b", re.IGNORECASE
)
"""How a sentence begins that describes and does not ask."""

_AMOUNT = (
    r"[$€£]?(?P<amount>[-+]?(?:\d{1,3}(?:,\d{3}){1,5}|\d{1,18})(?:\.\d{1,10})?)(?![\d,.]*\d|[\w%-])"
    r"(?:\s{0,9}(?:units?|coins?|tokens?|credits?|dollars?|usd|euros?)\b)?"
)
_THEM = {"them", "him", "her", "they"}
_MYSELF = {"i", "me", "my", "mine", "own", "you", "your", "yours", "yourself", "myself", "the", "wallet", "current"}
_NO_NAME = re.compile(
    r"a|all|an|any|both|each|either|every|everybody|everyone|i|it|its|me|my|one|others?|our|some|somebody|someone"
    r"|that|the|their|these|this|those|us|we|what|which|whichever|who|whoever|you|your",
    re.IGNORECASE,
)
_IF = re.compile(
    r"if\s(?P<what>[^,\n]{1,80}?)(?:,\s{0,9}(?:then\s)?|\s(?:then\s)?(?=(?:reward|transfer|pay|send|give)\b))(?P<rest>.+)"
    r"|(?P<first>.{1,400}?)\s(?:but\s)?(?:only\s)?if\s(?P<after>[^,\n]{1,80})",
    re.IGNORECASE | re.DOTALL,
)
_WELL = re.compile(
    rf"{NAME}\s.{{0,20}}\b(?:did|do|does|was|were|is|are|performed|worked)\b.{{0,30}}"
    r"\b(?:well|good|great|fine|ok|okay|right|helpful|correct|job)\b",
    re.IGNORECASE,
)
_NOT_WELL = re.compile(r"\b(?:not|never|badly|poorly)\b|n['’]t\b", re.IGNORECASE)


# How a found pattern becomes a step


def _as(kind: Kind) -> Build:
    return lambda clause, found: Step(kind=kind, text=clause)


def _named(kind: Kind) -> Build:
    return lambda clause, found: Step(kind=kind, text=clause, names=(found["name"],) if found["name"] else ())


def _payment(kind: Kind) -> Build:
    """An amount, who gets it, and why. None where the rest of the sentence is no reason."""

    def build(clause: str, found: re.Match[str]) -> Step | None:
        names, reason = agent_names(found["names"]), _reason(clause[found.end() :])
        if not names or reason is None:
            return None
        each = "each" in found[0].lower().split()
        return Step(kind=kind, text=clause, names=names, amount=_decimal(found["amount"]), words=reason, each=each)

    return build


def _decimal(digits: str | None) -> Decimal | None:
    return Decimal(digits.replace(",", "")) if digits else None


_ENDS = " \t\r\n,.!?;()"
_PLEASE = re.compile(r"\b(?:now|please|thanks|thank you)$", re.IGNORECASE)


def _reason(tail: str) -> str | None:
    words = _PLEASE.sub("", tail.strip(_ENDS)).strip(_ENDS)
    if not words:
        return ""
    intro = re.match(r"(?:with\s)?(?:the\s)?(?:reason|for|because(?:\sof)?|as)\b[\s:=]*", words, re.IGNORECASE)
    return words[intro.end() :].strip(QUOTES + " ")[:REASON_CHARS_MAX] if intro else None


_EQUALLY = re.compile(r"\b(?:equal|equally|even|evenly)\b", re.IGNORECASE)
_SHARED = re.compile(rf"\s{_AMOUNT}", re.IGNORECASE)
_AMONG = re.compile(
    rf"\b(?:among|amongst|between|across|to)\s{{1,9}}(?:the\s)?(?:agents\s)?(?P<names>{NAMES})(?:\s(?:equally|evenly)\b)?",
    re.IGNORECASE,
)


def _shares(clause: str, found: re.Match[str]) -> Step | None:
    amount, among = _SHARED.search(clause), _AMONG.search(clause)
    if amount is None or among is None or not _EQUALLY.search(clause):
        return None
    names, reason = agent_names(among["names"]), _reason(clause[among.end() :])
    if not names or reason is None:
        return None
    return Step(kind="shares", text=clause, names=names, amount=_decimal(amount["amount"]), words=reason)


_WHOSE = re.compile(
    rf"\b(?!what['’]s)(?P<owner>{NAME})['’]s\s|\b(?:of|for|on)\s{{1,9}}(?P<names>{NAMES})", re.IGNORECASE
)


def _balance(clause: str, found: re.Match[str]) -> Step | None:
    whose = _WHOSE.search(clause)
    text = (whose["owner"] or whose["names"]) if whose else "my"
    if any(word.lower() in _MYSELF for word in text.split()):
        return Step(kind="balance", text=clause)
    names = agent_names(text)
    return Step(kind="balance", text=clause, names=names) if names else None


def _history(clause: str, found: re.Match[str]) -> Step:
    count = re.search(r"\b(\d{1,4})\s(?:\w{1,20}\s)?transactions", clause, re.IGNORECASE)
    return Step(kind="history", text=clause, amount=_decimal(count[1]) if count else None)


_CITY = re.compile(r"[^\W\d_][\w .'’-]{0,63}")
_BEFORE_CITY = re.compile(
    r"(?:a|about|and|any|can|check|could|current|fetch|find|get|give|how|i|is|it|let|look|me|of|provide|report|retrieve"
    r"|show|tell|the|up|us|what|what['’]?s|you),?",
    re.IGNORECASE,
)
_TIMES = re.compile(
    r"\b(?:right now|at the moment|this (?:week|weekend|morning|evening)|today|tonight|tomorrow|now|currently|please"
    r"|in (?:degrees )?(?:celsius|fahrenheit)|like)\b(?:['’]s)?",
    re.IGNORECASE,
)
_WEATHER = r"\b(?:weather|temperatures?|forecasts?|get_weather)\b"
_NO_CITY = re.compile(rf"^\s{{0,9}}(?:also|at|for|in|of)\s|{_WEATHER}|\b(?:the\s)?(?:cities|city) of\b", re.IGNORECASE)
_MANY_CITIES = re.compile(
    r"\b(?:all|big|capital|few|large|major|many|several|some|world|various)\b.{0,20}\bcities\b", re.IGNORECASE
)
_THOSE_CITIES = re.compile(r"\b(?:each|every|that|these|this|those)\s.{0,20}\bcit(?:y|ies)\b", re.IGNORECASE)


def _weather(clause: str, found: re.Match[str]) -> Step | None:
    """Cities after a preposition (`in Paris and Tokyo`), or before the word (`Tokyo weather`)."""
    unit = "fahrenheit" if re.search(r"fahrenheit|°\s?f\b", clause, re.IGNORECASE) else ""
    if _THOSE_CITIES.search(clause):
        return None
    if _MANY_CITIES.search(clause):
        return Step(kind="weather", text=clause, names=KNOWN_CITIES, words=unit)
    words = _TIMES.sub(" ", clause)
    if place := re.search(r"\b(?:in|for|at|of)\s(.+)", words, re.IGNORECASE | re.DOTALL):
        places = place[1]
    else:
        before = re.split(_WEATHER, words, maxsplit=1, flags=re.IGNORECASE)[0].split()[-8:]
        while before and _BEFORE_CITY.fullmatch(before[0]):
            before.pop(0)
        places = re.sub(r"['’]s$", "", " ".join(before))
    ones = (one.strip(QUOTES + " \t\r.?!;:") for one in re.split(r",|&|\band\b", places, flags=re.IGNORECASE))
    cities = tuple(dict.fromkeys(city for one in ones if (city := " ".join(_NO_CITY.sub(" ", one).split()))))
    if not all(_CITY.fullmatch(city) for city in cities):
        cities = ()
    known = {city.lower(): city for city in KNOWN_CITIES}
    names = tuple(known.get(city.lower(), city) for city in cities[:CITIES_MAX])
    return Step(kind="weather", text=clause, names=names, words=unit)


_WRITE = (
    r"\b(?:compose|create|draft|give|invent|make up|make|tell|write)\b.{0,80}"
    r"\b(?:ballad|essay|haiku|joke|limerick|lyrics|novel|poem|pun|song|speech|story|tale)s?\b"
)
_TRANSFER = (
    rf"^{LEADING_DO}(?:give|pay|send|transfer|wire)\s{{1,9}}{_AMOUNT}(?:\seach)?(?:\sfrom\smy\s\w{{1,20}})?\s{{1,9}}to\s{{1,9}}"
    rf"(?:each\s(?:of\s)?)?(?:the\s)?(?P<names>{NAMES})(?:\seach\b)?"
)
_PAY = rf"^{LEADING_DO}(?:pay|send|give)\s{{1,9}}(?:the\s)?(?P<names>{NAMES})\s{{1,9}}{_AMOUNT}(?:\seach\b)?"
_REWARD = (
    rf"^{LEADING_DO}reward\s{{1,9}}(?:each of\s)?(?:the\s)?(?P<names>{NAMES})(?:\seach)?"
    rf"(?:\s{{1,9}}(?:with\s{{1,9}})?{_AMOUNT})?(?:\seach\b)?"
)
_REWARD_TO = rf"^{LEADING_DO}reward\s{{1,9}}{_AMOUNT}(?:\seach)?\s{{1,9}}to\s{{1,9}}(?P<names>{NAMES})(?:\seach\b)?"
_BALANCE = r"\bbalances?\b|\bcheck_balance\b|\bhow (?:much|many) (?:money|funds|units) do (?:I|you) have\b"
_LIST = (
    r"\b(?:list|show|what)(?:_|\s)(?:\w{1,20}\s){0,3}?artifacts\b"
    rf"(?:\s(?:starting with|with prefix|under|below)\s[{QUOTES}]?(?P<name>{NAME}))?"
)
_WHO = (
    r"^(?:hello|hi|hey|good (?:morning|day|evening))\b[\w\s,]{0,30}[!.]{0,3}$"
    r"|\bwhat (?:can|do) you do\b|\bintroduce yourself\b|\b(?:who|what) are you\b"
    r"|\bare you (?:an? )?(?:ai|bot|human|llm|machine|model|real)\b|^help\b.{0,20}$"
    r"|\byour (?:key )?(?:skills|abilities|capabilities|tools)\b"
)
_TABLE: tuple[tuple[re.Pattern[str], Build], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE | re.DOTALL), build)
    for pattern, build in (
        (_WRITE, _as("write")),
        (rf"^{LEADING_DO}(?:equally |evenly )?(?:distribute|divide|share|split)\b", _shares),
        (_TRANSFER, _payment("transfer")),
        (_PAY, _payment("transfer")),
        (_REWARD, _payment("reward")),
        (_REWARD_TO, _payment("reward")),
        (_BALANCE, _balance),
        (r"\btransactions?\b|\btransaction_history\b|\bpayment history\b", _history),
        (_LIST, _named("list")),
        (
            rf"\b(?:cat|open|read|show)(?:_|\s)(?:me\s)?(?:the\s)?artifact\s[{QUOTES}]?(?P<name>{NAME})",
            _named("read"),
        ),
        (rf"{_WEATHER}|\bhow (?:cold|hot|warm) is it\b", _weather),
        (_WHO, _as("who")),
    )
)
