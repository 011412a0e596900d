"""The stand-in for a model that cannot be reached: it follows instructions by their wording, and says what it is.

Knows the request and nothing else: no clock, no chance, no memory. How far an instruction has come is read from the
calls after it, whose ids carry the step. It never judges, and what it cannot follow it says so.
"""

import re
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

import msgspec

from p2engine.domain.messages import CUT_SHORT, Message, ModelReply, ModelRequest, ToolUse, Usage, tokens_estimate
from p2engine.models.offline_calls import Calls, Tools, agents_offered, calls_for
from p2engine.models.offline_phrases import THEM
from p2engine.models.offline_steps import INSTRUCTION_CHARS_MAX, plan
from p2engine.models.offline_words import NOT_DONE, clip, has_failed, outcome_line, quoted
from p2engine.ports import OnText

MODEL: Final = "offline/stand-in"
STEPS_MAX: Final = 20  # steps of one turn that are carried out, each in a round of its own
REPLY_CHARS_MAX: Final = 64_000
NOTE_CHARS_MAX: Final = 4000

INTRODUCTION: Final = (
    "I am P2Engine's offline stand-in, not a language model: I follow a few instructions by their wording, no others."
)
KEY_HINT: Final = "For real answers, set the API key of the agent's model provider (OpenAI: OPENAI_API_KEY)."
UNDECIDED: Final = '{"score": null, "comment": "undecided: the offline stand-in does not judge"}'
EXAMPLES: Final = (
    ("get_weather", "What's the weather in Paris?"),
    ("delegate", "Delegate to {agent}: What's the weather in Tokyo?"),
    ("check_balance", "Check my balance"),
    ("transfer_funds", "Transfer 25 to agent_beta for helping with analysis"),
    ("transfer_funds", "Distribute 100 units equally among agent_beta, agent_helper and child"),
    ("reward_agent", "If they did well, reward them 20 units"),
    ("transaction_history", "Show all recent transactions"),
    ("save_artifact", 'Save "a few words" as notes.txt'),
    ("read_artifact", "Read artifact notes.txt"),
    ("list_artifacts", "List artifacts"),
)

_JUDGE = re.compile(
    r"\b(?:you are|you['’]re|act(?:ing)? as|your role is)\b[^.\n]{0,60}\b(?:judge|evaluator|grader)\b", re.IGNORECASE
)
_SCORE_KEY = re.compile(r"[\"'`]score[\"'`]")
_CALL_ID = re.compile(r"call_(\d{1,9})_([0-9a-f]{6})_(\d{1,4})")
_NOTE = re.compile(r"\[[A-Za-z0-9_.-]{1,120}\] ")
_WHAT_WAS_SAID = re.compile(r"it|that|this|the (?:answer|report|result|reply)s?", re.IGNORECASE)
_PAYS = ("transfer", "shares", "reward")
_FOR_GOOD = (
    *_PAYS,
    "use",
)  # a turn that was ended by hand may stand before a new message: these are not taken up again


class OfflineModel:
    """A Model without a network: small and deterministic. The same request gives the same reply; it raises nothing."""

    async def complete(self, request: ModelRequest, *, on_text: OnText | None = None) -> ModelReply:
        """The next calls of the instruction; when none are left, what came of it."""
        text, calls = _reply(request)
        if on_text is not None:
            for piece in re.findall(r"\S+\s*", text):
                on_text(piece)
        usage = Usage(
            model=MODEL,
            tokens_in=max(1, (len(request.instructions) + sum(len(one.wire) for one in request.fragments)) // 4),
            tokens_out=tokens_estimate(text + "".join(f"{call.name}{call.arguments}" for call in calls)),
            cost_usd=0.0,
            offline=True,
        )
        return ModelReply(text=text, calls=calls, usage=usage)


def _reply(request: ModelRequest) -> tuple[str, tuple[ToolUse, ...]]:
    scene = _Scene(request)
    if _is_judging(request, scene.last):
        return UNDECIDED, ()
    for number in range(scene.done + 1, len(scene.steps)):
        wanted = scene.wanted(number)
        if isinstance(wanted, list):
            return "", scene.named(number, wanted)
    return clip("\n".join(_report(scene)), REPLY_CHARS_MAX), ()


def _is_judging(request: ModelRequest, text: str) -> bool:
    """Whether a score is asked for. What a user says counts only where no tool makes the model an agent."""
    asked = "\n".join([request.instructions, *(m.text for m in request.messages[:1] if m.role == "system")])
    if not request.tools:
        asked = f"{asked}\n{text[:INSTRUCTION_CHARS_MAX]}"
    return bool(_JUDGE.search(asked)) or ("json" in asked.lower() and bool(_SCORE_KEY.search(asked)))


class _Scene:
    """A request, read: what this turn asks for, what was called for it, and what came back.

    A turn is all since the last answer; what its messages ask for is done in their order. steps: each with the mark of
    its message and its number there, which is how its calls are known again. rounds: by step, where its calls stand,
    and they. foreign: calls that are not the stand-in's; what was said before them is somebody else's to do.
    """

    def __init__(self, request: ModelRequest) -> None:
        self.messages = request.messages
        self.tools: Tools = {tool.name: tool for tool in request.tools}
        self.results = {message.call_id: message.text for message in self.messages if message.role == "tool"}
        self.last = ""  # what was said last
        self.foreign: list[ToolUse] = []
        self.notes: list[str] = []
        said: dict[str, str] = {}  # mark: text
        own: dict[tuple[str, int], tuple[int, tuple[ToolUse, ...]]] = {}
        for place in range(_start(self.messages), len(self.messages)):
            message = self.messages[place]
            if _is_note(self.messages, place):
                self.notes.append(message.text)
            elif message.role == "user":
                said.setdefault(_mark(message.text), message.text)
                self.last = message.text
            elif message.calls:
                known = _CALL_ID.fullmatch(message.calls[0].call_id)
                if known and known[2] in said:
                    own[known[2], int(known[3])] = place, message.calls
                else:
                    self.foreign += message.calls
                    said.clear()
        self.steps = [((mark, n), step) for mark, text in said.items() for n, step in enumerate(plan(text))]
        self.rounds = {number: own[key] for number, (key, _) in enumerate(self.steps) if key in own}
        self.done = max(self.rounds, default=-1)

    def wanted(self, number: int) -> Calls | str | None:
        """What the step wants called, as things stand; a str is why it cannot be. None: it calls nothing."""
        (mark, _), step = self.steps[number]
        asked = self._asked(number)
        who = quoted(step.text)
        if step.kind in _FOR_GOOD and mark != _mark(self.last):
            return f"{who}: you wrote again since; say it once more if it still holds"
        if (step.if_well or THEM in step.names) and not asked:
            return f"{who}: I have asked nobody yet"
        if (step.if_well or (step.kind in _PAYS and self._delegates_before(number))) and (
            failed := self._failed(asked)
        ):
            return f"{who}: {failed} did not do what was asked"
        if len(self.rounds) >= STEPS_MAX:
            return f"{who}: I carry out at most {STEPS_MAX} steps in one turn"
        them = [str(call.arguments.get("agent_id")) for call in asked]
        names = dict.fromkeys(one for name in step.names for one in (them if name == THEM else [name]))
        words = step.words
        if step.kind == "save" and _WHAT_WAS_SAID.fullmatch(words):
            words = "\n".join(line for n in range(number) for line in self.outcomes(n)) or self._last_answer()
        return calls_for(msgspec.structs.replace(step, names=tuple(names), words=words), self.tools)

    def named(self, number: int, wanted: Calls) -> tuple[ToolUse, ...]:
        """The calls with ids that say which step they belong to, unique within the conversation."""
        mark, n = self.steps[number][0]
        ids = (_CALL_ID.fullmatch(call.call_id) for message in self.messages for call in message.calls)
        first = 1 + max((int(one[1]) for one in ids if one), default=0)
        return tuple(ToolUse(f"call_{first + place}_{mark}_{n}", *call) for place, call in enumerate(wanted))

    def outcomes(self, number: int) -> list[str]:
        """What the calls of a step came to, in words; empty where it has made none."""
        return [self.outcome(call) for call in self.rounds.get(number, (0, ()))[1]]

    def outcome(self, call: ToolUse) -> str:
        return outcome_line(call, self._result(call))

    def _result(self, call: ToolUse) -> str:
        return self.results.get(call.call_id, "no result")

    def _asked(self, number: int) -> tuple[ToolUse, ...]:
        """The delegations that `them` means at a step: those of the last reply before it that delegated."""
        end = min((place for later, (place, _) in self.rounds.items() if later > number), default=len(self.messages))
        replies = (tuple(c for c in message.calls if c.name == "delegate") for message in reversed(self.messages[:end]))
        return next((asked for asked in replies if asked), ())

    def _delegates_before(self, number: int) -> bool:
        return any(c.name == "delegate" for step, (_, calls) in self.rounds.items() if step < number for c in calls)

    def _failed(self, asked: Sequence[ToolUse]) -> str:
        """The agents of these delegations that failed, or said that they did not do it."""
        return ", ".join(str(call.arguments.get("agent_id")) for call in asked if has_failed(self._result(call)))

    def _last_answer(self) -> str:
        return next((m.text for m in reversed(self.messages) if m.role == "assistant" and m.text), "")


def _start(messages: Sequence[Message]) -> int:
    """Where the turn begins: after the last answer, or where calls were left without a result because it ended.

    A first message with another one right behind it was never taken up, or is shown from long ago: it does not count.
    """
    for place in range(len(messages) - 1, -1, -1):
        message = messages[place]
        if (message.role == "assistant" and not message.calls) or (
            message.role == "tool" and message.text.startswith(CUT_SHORT)
        ):
            return place + 1
    return 1 if [message.role for message in messages[:2]] == ["user", "user"] else 0


def _is_note(messages: Sequence[Message], place: int) -> bool:
    """Whether this is what an agent added to a result (`[agent] …`), and not what a user said."""
    beside = place > 0 and messages[place - 1].role in ("tool", "user")
    return beside and messages[place].role == "user" and bool(_NOTE.match(messages[place].text))


def _mark(text: str) -> str:
    """What tells one message of a turn from another."""
    return blake2b(text.encode(), digest_size=3).hexdigest()


def _report(scene: _Scene) -> list[str]:
    """What came of the turn, step by step."""
    lines = [scene.outcome(call) for call in scene.foreign]
    steps = [step for _, step in scene.steps]
    for number, step in enumerate(steps):
        if step.kind == "write":
            lines.append(_template(step.text))
        elif step.kind == "unclear":
            lines.append(f"{NOT_DONE}{quoted(step.text)}: I cannot follow that.")
        elif step.kind != "who":
            if step.if_well and number in scene.rounds:
                lines.append("They answered, and no more is known to me: I do not judge how well.")
            lines += scene.outcomes(number) or [_why_not(scene, number)]
    lines += [clip(note, NOTE_CHARS_MAX) for note in scene.notes]
    if not lines or any(step.kind == "who" for step in steps):
        lines += [INTRODUCTION, "I can follow:", *(f"- {one}" for one in _known(scene.tools)), KEY_HINT]
    elif any(step.kind == "unclear" for step in steps):
        lines.append(f"{INTRODUCTION} I can follow: {' · '.join(_known(scene.tools))}. {KEY_HINT}")
    return lines


def _why_not(scene: _Scene, number: int) -> str:
    wanted = scene.wanted(number)
    passed = f"{quoted(scene.steps[number][1].text)}: it was passed over"
    return f"{NOT_DONE}{wanted if isinstance(wanted, str) else passed}."


def _template(request: str) -> str:
    return (
        f"[A fixed text, not written for the request] You asked: {quoted(request)}. Once upon a time an agent was "
        f"asked exactly that. It had no model to write with, so it said so, and everybody went on. {KEY_HINT}"
    )


def _known(tools: Tools) -> list[str]:
    """An instruction for each tool, as it may be typed."""
    agent = (agents_offered(tools.get("delegate")) or ["agent_helper"])[0]
    named = [example.replace("{agent}", agent) for tool, example in EXAMPLES if tool in tools]
    named += [f"Use {tool} with {{…JSON…}}" for tool in tools if tool not in dict(EXAMPLES)]
    return named or ["nothing here, because I have no tools"]
