"""A chat-completions server over a real socket that says what a script tells it to, good and bad.

For tests of anything that speaks to a model over HTTP. `python -m p2engine.testing.server` runs one by itself. What
it may answer is in `completions`.
"""

import argparse
import asyncio
import inspect
import re
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec

from p2engine.domain.messages import ToolUse
from p2engine.errors import ConfigError
from p2engine.testing.completions import Answer, Fault, Reply, completion, events, read_answers, writes

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["Answer", "Fault", "Handler", "OpenAIServer", "Received", "Reply", "echo", "showcase"]

_encode = msgspec.json.encode


class Received(msgspec.Struct, frozen=True):
    """One request as it came. Header names are in lower case."""

    headers: dict[str, str]
    body: dict[str, Any]


Handler = Sequence[Answer] | Callable[[dict[str, Any]], Answer | Awaitable[Answer]]
"""Answers in order, or a function (may be async) from a request's body to its answer."""


def echo(body: dict[str, Any]) -> Answer:
    """Repeats the last message."""
    return f"You said: {_text(body['messages'][-1])}"


def showcase(body: dict[str, Any]) -> Answer:
    """A small model of manners: calls get_weather when asked about weather, delegates when asked to, tells results.

    `Delegate to agent_b: TASK` and `weather in CITY` (any number of either), where those tools are offered.
    """
    messages = body["messages"]
    results = [_text(message) for message in _trailing_results(messages)]
    if results:
        return "I was told: " + " | ".join(results)
    asked = _text(messages[-1])
    offered = {tool["function"]["name"] for tool in body.get("tools", ())}
    calls = []
    if "delegate" in offered:
        calls = [
            ("delegate", {"agent_id": agent, "message": task.strip()})
            for agent, task in re.findall(r"[Dd]elegate to (\w+): ([^;]+)", asked)
        ]
    if not calls and "get_weather" in offered:
        calls = [("get_weather", {"location": city}) for city in re.findall(r"weather (?:like )?in ([A-Z]\w+)", asked)]
    if calls:
        turn = len(messages)
        return Reply(calls=tuple(ToolUse(f"call_{turn}_{n}", name, given) for n, (name, given) in enumerate(calls)))
    return echo(body)


def _trailing_results(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    last = next((n for n in reversed(range(len(messages))) if messages[n]["role"] != "tool"), -1)
    return messages[last + 1 :]


def _text(message: Mapping[str, Any]) -> str:
    return str(message.get("content") or "")


class OpenAIServer:
    """Serves on loopback from `async with` (in this loop) or `with` (in a thread of its own). `base_url` ends in /v1.

    `requests` holds what came, in order. With api_key, any other key is refused with 401. A list that is exhausted
    answers 500 and says so. `log` is a file that each request's body is appended to, as JSON lines.
    """

    def __init__(
        self,
        handler: Handler = showcase,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        api_key: str | None = None,
        latency_s: float = 0.0,
        log: Path | None = None,
    ) -> None:
        self.requests: list[Received] = []
        self.base_url = ""
        self._answer = handler if callable(handler) else _in_order(handler)
        self._host = host
        self._port = port
        self._api_key = api_key
        self._latency_s = latency_s
        self._log = log
        self._runner: web.AppRunner | None = None
        self._thread: _Thread | None = None

    async def __aenter__(self) -> Self:
        from aiohttp import web

        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_get("/v1/models", self._models)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port)
        await site.start()
        port = self._runner.addresses[0][1]
        self.base_url = f"http://{self._host}:{port}/v1"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def __enter__(self) -> Self:
        self._thread = _Thread(self)
        self._thread.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is not None:
            self._thread.end()

    async def _models(self, request: "web.Request") -> "web.Response":
        return self._refused(request) or _json({"object": "list", "data": [{"id": "scripted", "object": "model"}]})

    async def _complete(self, request: "web.Request") -> "web.StreamResponse":
        received = Received(
            {name.lower(): value for name, value in request.headers.items()}, msgspec.json.decode(await request.read())
        )
        self.requests.append(received)
        if self._log is not None:
            with self._log.open("ab") as file:
                file.write(_encode(received.body) + b"\n")
        if (refused := self._refused(request)) is not None:
            return refused
        made = self._answer(received.body)
        answer = await made if inspect.isawaitable(made) else made
        if isinstance(answer, str):
            answer = Reply(text=answer)
        await _pass(self._latency_s + answer.latency_s)
        if isinstance(answer, Fault):
            return await _fail(request, answer, received.body)
        return await _reply(request, answer, received.body)

    def _refused(self, request: "web.Request") -> "web.Response | None":
        if self._api_key is None or request.headers.get("Authorization") == f"Bearer {self._api_key}":
            return None
        sent = request.headers.get("Authorization", "").removeprefix("Bearer ")
        error = {"message": f"Incorrect API key provided: {sent}", "code": "invalid_api_key"}
        return _json({"error": error}, status=401)


class _Thread:
    """A server in an event loop of its own, in a thread of its own."""

    def __init__(self, server: OpenAIServer) -> None:
        self._server = server
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="openai-server", daemon=True)

    def begin(self) -> None:
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._server.__aenter__(), self._loop).result()
        except OSError:
            self._stop()
            raise

    def end(self) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._stop()

    async def _close(self) -> None:
        await self._server.__aexit__(None, None, None)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _in_order(answers: Sequence[Answer]) -> Callable[[dict[str, Any]], Answer]:
    left = iter(answers)
    return lambda _: next(left, Fault(status=500, message=f"the script of {len(answers)} answers is exhausted"))


async def _pass(seconds: float) -> None:
    if seconds > 0:
        await asyncio.sleep(seconds)


def _json(body: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> "web.Response":
    from aiohttp import web

    return web.Response(body=_encode(body), status=status, headers=headers, content_type="application/json")


async def _fail(request: "web.Request", fault: Fault, body: dict[str, Any]) -> "web.StreamResponse":
    from aiohttp import web

    if fault.drop:
        if fault.drop == "midway":
            await _drop_midway(request, Reply(text=fault.text), body)
        if request.transport is not None:
            request.transport.abort()
        return web.Response()
    if fault.raw is not None:
        return web.Response(text=fault.raw, status=fault.status, headers=fault.headers)
    error = {"message": fault.message, "code": fault.code or None}
    return _json({"error": error}, status=fault.status, headers=fault.headers)


async def _drop_midway(request: "web.Request", reply: Reply, body: dict[str, Any]) -> None:
    from aiohttp import web

    whole = b"".join(events(reply, body)) if body.get("stream") else _encode(completion(reply, body))
    response = web.StreamResponse()
    if body.get("stream"):
        response.content_type = "text/event-stream"
    else:
        response.content_length = len(whole)
    await response.prepare(request)
    await response.write(whole[: len(whole) // 2])


async def _reply(request: "web.Request", reply: Reply, body: dict[str, Any]) -> "web.StreamResponse":
    from aiohttp import web

    if not body.get("stream") or reply.plain:
        return _json(completion(reply, body))
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    await response.prepare(request)
    for piece in writes(list(events(reply, body)), reply.write_bytes):
        await response.write(piece)
        await _pass(reply.gap_s)
    return response


async def _serve(server: OpenAIServer) -> None:
    stopped = asyncio.Event()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signal_number, stopped.set)
    async with server:
        sys.stdout.write(server.base_url + "\n")
        sys.stdout.flush()
        await stopped.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM; the first line on standard output is the base URL."""
    parser = argparse.ArgumentParser(prog="python -m p2engine.testing.server", description=main.__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--script", type=Path, help="answers in order, JSON lines or YAML (default: a showcase)")
    parser.add_argument("--api-key", help="refuse every other key")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--log", type=Path, help="append each request's body, as JSON lines")
    given = parser.parse_args(arguments)
    try:
        handler: Handler = showcase if given.script is None else read_answers(given.script)
    except ConfigError as error:
        parser.error(str(error))
    server = OpenAIServer(
        handler, host=given.host, port=given.port, api_key=given.api_key, latency_s=given.latency, log=given.log
    )
    asyncio.run(_serve(server))
    return 0


if __name__ == "__main__":
    sys.exit(main())
