"""The agent that a language model decides for. Knows requests and replies; never a provider."""

from msgspec.structs import replace

from p2engine.agents.moves import decision
from p2engine.domain.decisions import Decision
from p2engine.domain.messages import ModelRequest, prompt_hash
from p2engine.errors import ModelError
from p2engine.ports import AgentView, Model


class LlmAgent:
    """Asks `model` once for each decision."""

    def __init__(self, model: Model) -> None:
        self._model = model

    async def decide(self, view: AgentView) -> Decision:
        """What the model answered, as moves. Raises ModelError when it does not answer, or answers nothing."""
        request = request_for(view)
        reply = await self._model.complete(request, on_text=view.on_text)
        if not reply.calls and not reply.text.strip():
            raise ModelError(f"{request.model}: answered nothing", retryable=True)
        return decision(reply, replace(reply.usage, prompt=prompt_hash(request)))


def request_for(view: AgentView) -> ModelRequest:
    """The exact request that this view makes."""
    setup = view.setup
    return ModelRequest(
        model=setup.model,
        instructions=view.instructions,
        fragments=view.fragments,
        tools=view.tools,
        temperature=setup.temperature,
        top_p=setup.top_p,
        seed=setup.seed,
        max_tokens=_least(setup.max_tokens, view.max_tokens),
        key=view.effect,
        agent=view.agent,
        conversation=view.conversation,
    )


def _least(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return one if other is None else other
    return min(one, other)
