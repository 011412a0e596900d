"""Driver for every provider that the wire driver does not speak to, through the litellm package (an extra).

Knows litellm's call and its errors, and turns both into what the wire driver makes of its own. Importing litellm takes
seconds of CPU, so that happens in a thread at the first call.
"""

import asyncio
import time
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import msgspec

from p2engine.domain.messages import ModelReply, ModelRequest, wire_tools
from p2engine.errors import ConfigError, ModelError
from p2engine.limits import MODEL_TIMEOUT_S
from p2engine.models import pricing
from p2engine.models.refusal import Peer
from p2engine.models.wire import Assembly, Piece, answer_format, judged
from p2engine.ports import OnText

PACKAGE = "litellm"


def is_installed() -> bool:
    """Whether the extra is there. Imports nothing."""
    return find_spec(PACKAGE) is not None


class LiteLLMModel:
    """Calls `litellm.acompletion` with the id as it stands, `provider/model`.

    api_key None leaves the credentials to litellm; api_base None is the vendor's own; timeout_s bounds one call in
    seconds. Raises ConfigError when the package is missing, and ModelError from every call that comes to nothing.
    """

    def __init__(
        self,
        provider: str,
        *,
        api_key: str | None = None,
        api_base: str | None = None,
        timeout_s: float = MODEL_TIMEOUT_S,
    ) -> None:
        if not is_installed():
            raise ConfigError(f"models of {provider} need the package litellm", hint="pip install 'p2engine[litellm]'")
        self._provider = provider
        self._api_key = api_key
        self._api_base = api_base
        self._timeout_s = timeout_s
        self._peer = Peer(provider, api_key)
        self._litellm: Any = None

    async def complete(self, request: ModelRequest, *, on_text: OnText | None = None) -> ModelReply:
        """One call, without litellm's own retries; streamed when `on_text` is given. Raises ModelError."""
        litellm = self._litellm or await self._load()
        assembly = Assembly(self._peer, on_text)
        began = time.monotonic()
        try:
            answer = await litellm.acompletion(**self._arguments(request, stream=on_text is not None))
            if on_text is None:
                assembly.add(_piece(answer))
            else:
                async for chunk in answer:
                    assembly.add(_piece(chunk))
        except litellm.exceptions.openai.OpenAIError as error:  # every error of litellm's calls descends from it
            raise self._refusal(error) from error
        except msgspec.ValidationError as error:
            raise self._peer.failed(f"what came back cannot be read: {error}", retryable=True) from error
        answered = judged(assembly.answered(), self._peer)
        usage = pricing.usage(self._provider, request.model, answered, time.monotonic() - began)
        return ModelReply(text=answered.text, calls=answered.calls, usage=usage)

    async def aclose(self) -> None:
        """Close litellm's connections."""
        litellm, self._litellm = self._litellm, None
        if litellm is not None:
            await litellm.close_litellm_async_clients()

    async def _load(self) -> Any:
        self._litellm = await asyncio.to_thread(import_module, PACKAGE)
        self._litellm.suppress_debug_info = True  # it would print advice to standard output
        await asyncio.to_thread(pricing.load)
        return self._litellm

    def _arguments(self, request: ModelRequest, *, stream: bool) -> dict[str, Any]:
        messages = [msgspec.json.decode(fragment.wire) for fragment in request.fragments]
        if request.instructions:
            messages.insert(0, {"role": "system", "content": request.instructions})
        given = {
            "tools": msgspec.json.decode(wire_tools(request.tools)) if request.tools else None,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "max_tokens": request.max_tokens,
            "seed": request.seed,
            "response_format": answer_format(request.answer_schema) if request.answer_schema else None,
            "api_key": self._api_key,
            "api_base": self._api_base,
            "stream": True if stream else None,
            "stream_options": {"include_usage": True} if stream else None,
        }
        return {
            "model": request.model,
            "messages": messages,
            "timeout": self._timeout_s,
            "num_retries": 0,
            "max_retries": 0,
            # Tools are functions here: without this litellm imports its proxy for them, which needs further packages.
            "_skip_mcp_handler": True,
        } | {key: value for key, value in given.items() if value is not None}

    def _refusal(self, error: Any) -> ModelError:
        status = getattr(error, "status_code", None)
        headers = getattr(getattr(error, "response", None), "headers", None) or {}
        return self._peer.refused(
            status if isinstance(status, int) else 500,
            str(getattr(error, "message", "") or error),
            {str(name).lower(): str(value) for name, value in headers.items()},
            time.time(),
        )


def _piece(answer: Any) -> Piece:
    return msgspec.convert(answer.model_dump(mode="json"), Piece)
