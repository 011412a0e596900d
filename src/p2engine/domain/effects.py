"""What the machine may ask of the world. Each is owed until it is settled, once, by its id."""

from typing import Any, Literal

import msgspec

from p2engine.domain.evaluation import Evaluation
from p2engine.domain.ids import AgentId, EffectId, StackRef, WaitKey, ref_of, wait_key
from p2engine.domain.setup import Budget, Repeat, Spent
from p2engine.domain.states import Caller, Status


class Effect(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, tag_field="k", gc=False):
    """Something owed. Its id is its idempotency key."""

    id: EffectId

    @property
    def ref(self) -> StackRef:
        """The stack that decided it."""
        return ref_of(self.id)

    @property
    def key(self) -> WaitKey:
        """Its position on that stack."""
        return wait_key(self.id)


class Think(Effect, frozen=True, tag="think"):
    """Ask the agent what to do next. max_tokens: what the turn's token budget still allows the reply."""

    max_tokens: int | None = None


class CallTool(Effect, frozen=True, tag="call_tool"):
    call_id: str
    tool: str
    arguments: dict[str, Any] = {}
    repeat: Repeat = "never"
    duplicate: int = 0


class CallAgent(Effect, frozen=True, tag="call_agent"):
    """Open a child branch, forked from `base` (what the caller last saw of that agent), or from nothing."""

    call_id: str
    agent: AgentId
    message: str
    caller: Caller
    grant: Budget = Budget()
    base: tuple[StackRef, int] | None = None


class Return(Effect, frozen=True, tag="return"):
    """Carry a finished stack's answer to whoever waits for it."""

    to: Caller
    agent: AgentId
    status: Status
    text: str
    child: tuple[StackRef, int]
    spent: Spent = Spent()


class Ask(Effect, frozen=True, tag="ask"):
    """Ask a person. `call_id` is the question's, or the call's that wants approval."""

    call_id: str
    question: str
    kind: Literal["input", "approval"] = "input"
    choices: tuple[str, ...] = ()


class Cancel(Effect, frozen=True, tag="cancel"):
    """End a child whose caller has ended."""

    child: StackRef


class Judge(Effect, frozen=True, tag="judge"):
    """Have the stack judged up to the entry before this effect's own place. Nobody waits for the verdict.

    place: which of the setup's evaluations it is, from 0.
    """

    evaluation: Evaluation
    place: int = 0


AnyEffect = Think | CallTool | CallAgent | Return | Ask | Cancel | Judge


def kind_of(effect: AnyEffect) -> str:
    """What has to be known to find somebody who can do it: its tag, and the name of the tool or evaluator."""
    tag = str(effect.__struct_config__.tag)
    match effect:
        case CallTool():
            return f"{tag}.{effect.tool}"
        case Judge():
            return f"{tag}.{effect.evaluation.evaluator}"
        case _:
            return tag
