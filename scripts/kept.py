"""One process of a project that is up as several: it ends when those that need it are gone, in whatever way they went.

Knows nothing of what it runs. `p2engine LIFE USE WORDS…` is a command line of P2Engine that lasts no longer than the
script at the other end of the pipe LIFE. `server USE COMMAND…` is a server that lasts as long as somebody holds USE.
"""

import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence

END_S = 15.0  # from when it is asked to end, before it is made to


def main(role: str, *words: str) -> int:
    if role == "server":
        return serve(words[0], words[1:])
    life, use, *words_of_command = words
    return run(int(life), int(use), words_of_command)


def run(life: int, use: int, words: Sequence[str]) -> int:
    """life: the end of a pipe that nobody writes to. use: held open, which says that the server is in use."""
    for handle in (life, use):
        os.set_inheritable(handle, False)
    threading.Thread(target=_end_with, args=(life,), name="kept", daemon=True).start()
    sys.argv = [sys.argv[0], *words]
    interrupted = signal.signal(signal.SIGINT, signal.SIG_DFL)  # while it loads there is nothing to tell about it
    from p2engine.cli.main import run as run_p2engine

    signal.signal(signal.SIGINT, interrupted)
    run_p2engine()
    return 0


def _end_with(life: int) -> None:
    """When the script is gone: end as on SIGTERM, which every command knows."""
    os.read(life, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(END_S)
    os._exit(1)


def serve(use: str, command: Sequence[str]) -> int:
    """use: a file that everybody who needs the server holds a shared lock on. Asked to end, the server is asked to."""
    servers: list[subprocess.Popen[bytes]] = []

    def end(*_: object) -> None:
        for server in servers:
            server.terminate()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, end)
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as server:
        servers.append(server)
        threading.Thread(target=_end_unused, args=(use, end), name="kept", daemon=True).start()
        status = server.wait()
    return status if status >= 0 else 128 - status


def _end_unused(use: str, end: Callable[[], None]) -> None:
    handle = os.open(use, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX)  # comes when the last of them is gone, and keeps others out until it has ended
    end()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
