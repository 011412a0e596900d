"""A chat-completions server in a process of its own, which calls the tool and then answers, as the bench's model does.

Run it as `python -m bench.server LATENCY_S TOOLS`: the first line it prints is its base URL. It ends with its input.
"""

import asyncio
import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from p2engine.domain.messages import ToolUse
from p2engine.testing.server import Answer, OpenAIServer, Reply

ROOT = Path(__file__).parents[1]
ANSWER = "It is sunny in Paris, twenty degrees, and it will stay so."


def scripted(tools: int, body: dict[str, Any]) -> Answer:
    """The next reply of the turn: a call until there are `tools` results, then the answer."""
    done = 0
    for message in reversed(body["messages"]):
        if message["role"] == "user":
            break
        done += message["role"] == "tool"
    if done < tools:
        return Reply(calls=(ToolUse(f"c{done}", "weather", {"city": "Paris", "day": done}),))
    return Reply(text=ANSWER)


async def serve(latency_s: float, tools: int) -> None:
    """Serve until the input ends."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        loop.call_soon_threadsafe(ended.set)

    async with OpenAIServer(lambda body: scripted(tools, body), latency_s=latency_s) as server:
        print(server.base_url, flush=True)
        threading.Thread(target=wait_for_the_end, daemon=True).start()
        while not ended.is_set():
            server.requests.clear()  # or it would grow with every request
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await ended.wait()


@contextlib.contextmanager
def serving(*, latency_s: float = 0.0, tools: int = 5) -> Iterator[str]:
    """Such a server while the block runs; gives its base URL."""
    command = [sys.executable, "-m", "bench.server", str(latency_s), str(tools)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url:
            raise RuntimeError("the server did not start")
        try:
            yield url
        finally:
            process.communicate("")


if __name__ == "__main__":
    asyncio.run(serve(float(sys.argv[1]), int(sys.argv[2])))
