"""Driver for every endpoint that speaks chat completions, over aiohttp.

Knows sockets, time-outs and connection failures. The bytes are `wire`'s, refusals are `refusal`'s, and trying again
is `calling`'s: one call here is one HTTP request.
"""

import asyncio
import os
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, urlsplit

from p2engine.domain.messages import ModelReply, ModelRequest
from p2engine.errors import ConfigError, ModelError
from p2engine.limits import MODEL_TIMEOUT_S
from p2engine.models import pricing
from p2engine.models.refusal import Peer
from p2engine.models.wire import Answered, ReplyReader, RequestWriter, judged
from p2engine.ports import OnText

if TYPE_CHECKING:
    import aiohttp

OPENAI_BASE: Final = "https://api.openai.com/v1"
CONNECT_TIMEOUT_S: Final = 15.0  # a name that resolves and a host that answers do so sooner
LINGER_S: Final = 0.5  # after the last event, for the end of the body, so that the connection can be used again
ERROR_BYTES_MAX: Final = 64 * 1024  # of an error's body


class OpenAIModel:
    """`POST {base_url}/chat/completions`. Model ids may carry the provider: `openai/gpt-4o` is sent as `gpt-4o`.

    base_url with its version (`https://api.openai.com/v1`); api_key None for servers that want none; timeout_s bounds
    one call in seconds, its whole stream included. Raises ConfigError for a base or key that cannot be used, and
    ModelError from every call that comes to nothing. Belongs to the event loop of its first call.
    """

    def __init__(
        self, base_url: str, api_key: str | None, *, timeout_s: float = MODEL_TIMEOUT_S, provider: str = "openai"
    ) -> None:
        parts = _parts(provider, base_url)
        key = (api_key or "").strip()
        if not (key.isascii() and key.isprintable()):
            raise ConfigError(f"the key of {provider} has characters that a key cannot have; was it pasted whole?")
        self._provider = provider
        self._host = parts.netloc
        self._url = parts._replace(path=parts.path.rstrip("/") + "/chat/completions").geturl()
        self._timeout_s = timeout_s
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self._peer = Peer(provider, key)
        self._writer = RequestWriter(provider, limit_key(base_url))
        self._session: aiohttp.ClientSession | None = None
        self._prices: asyncio.Future[None] | None = None

    async def complete(self, request: ModelRequest, *, on_text: OnText | None = None) -> ModelReply:
        """One HTTP request; streamed when `on_text` is given. Raises ModelError."""
        import aiohttp

        session = self._session or self._open()
        body = self._writer.body(request, stream=on_text is not None)
        headers = {"Idempotency-Key": request.key} if request.key else None
        reader = ReplyReader(self._peer, on_text)
        began = time.monotonic()
        try:
            async with session.post(self._url, data=body, headers=headers, allow_redirects=False) as response:
                if response.status >= 300:
                    raise await self._refusal(response)
                await _read(response, reader)
        except TimeoutError as error:
            raise self._peer.failed(f"no answer within {self._timeout_s:g} s", retryable=True) from error
        except aiohttp.ClientError as error:
            raise self._unreached(error) from error
        answered = judged(reader.finish(), self._peer)
        return await self._reply(request, answered, time.monotonic() - began)

    async def aclose(self) -> None:
        """Close the connections. Twice is once."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _open(self) -> "aiohttp.ClientSession":
        import aiohttp

        # The number of connections is the limiter's to bound.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=self._timeout_s, sock_connect=CONNECT_TIMEOUT_S),
        )
        self._prices = asyncio.get_running_loop().run_in_executor(None, pricing.load)
        return self._session

    async def _refusal(self, response: "aiohttp.ClientResponse") -> ModelError:
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > ERROR_BYTES_MAX:
                break
        headers = {name.lower(): value for name, value in response.headers.items()}
        if 300 <= response.status < 400:
            body = bytearray(headers.get("location", "").encode())
        return self._peer.refused(response.status, bytes(body), headers, time.time())

    def _unreached(self, error: "aiohttp.ClientError") -> ModelError:
        import aiohttp

        why = str(error) or type(error).__name__
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            return self._peer.failed(f"{self._host} is not trusted: {why}", retryable=False)
        if not isinstance(error, aiohttp.ClientConnectorError):
            return self._peer.failed(f"no answer from {self._host}: {why}", retryable=True)
        number = error.os_error.errno or 0
        why = os.strerror(number) if number > 0 else error.strerror or why
        failure = self._peer.failed(f"no connection to {self._host}: {why}", retryable=True)
        failure.hint = f"is a server running at {self._host}, and is api_base right?"
        return failure

    async def _reply(self, request: ModelRequest, answered: Answered, latency_s: float) -> ModelReply:
        if self._prices is not None:
            await asyncio.shield(self._prices)
            self._prices = None
        return ModelReply(
            text=answered.text,
            calls=answered.calls,
            usage=pricing.usage(self._provider, request.model, answered, latency_s),
        )


async def _read(response: "aiohttp.ClientResponse", reader: ReplyReader) -> None:
    content = response.content
    async for chunk in content.iter_any():
        reader.feed(chunk)
        if reader.done:
            break
    if not content.at_eof():
        try:
            async with asyncio.timeout(LINGER_S):
                await content.readany()
        except TimeoutError:
            pass  # a server that keeps the stream open has said all the same


def _parts(provider: str, base_url: str) -> SplitResult:
    try:
        parts = urlsplit(base_url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(f"api_base of {provider} is no http address: {base_url!r}")
    if parts.username or parts.password:
        raise ConfigError(f"api_base of {provider} has a name or password in it; give it as the key")
    return parts


def limit_key(base_url: str) -> str:
    """What the server calls the bound on a reply: OpenAI retired `max_tokens`, most others know nothing else."""
    return "max_completion_tokens" if is_openai(base_url) else "max_tokens"


def is_openai(base_url: str) -> bool:
    """Whether this is OpenAI's own endpoint."""
    try:
        host = urlsplit(base_url).hostname or ""
    except ValueError:
        return False
    return host == "api.openai.com" or host.endswith(".api.openai.com")
