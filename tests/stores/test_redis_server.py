"""An open Redis: what is refused and in which words, whose clock counts, and that the password is never shown."""

from __future__ import annotations

import asyncio
import logging
import shutil
import ssl
import subprocess
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ConnectionError as Unreached
from redis.exceptions import ResponseError

from p2engine.errors import ConfigError, StoreBusy, StoreError
from p2engine.stores.redis_checks import Config, Info, judge
from p2engine.stores.redis_server import RedisAddress, RedisServer
from tests.servers import ValkeyServer, free_port

PASSWORD = "hunter2-hunter2"
LOSES = "can lose what it acknowledged"


@pytest.fixture(scope="module")
def valkey() -> Iterator[ValkeyServer]:
    """Safe settings, 16 databases."""
    with ValkeyServer() as server:
        yield server


@pytest.fixture(scope="module")
def locked() -> Iterator[ValkeyServer]:
    """One that wants a password, and has a user who may do little."""
    user = ["--user", "weak", "on", f">{PASSWORD}", "~*", "-@all", "+ping", "+client", "+select"]
    with ValkeyServer("--appendonly", "yes", "--appendfsync", "always", "--requirepass", PASSWORD, *user) as server:
        yield server


def at(server: ValkeyServer, **more: Any) -> RedisAddress:
    return RedisAddress(host="127.0.0.1", port=server.port, **more)


@asynccontextmanager
async def opened(address: RedisAddress, **how: Any) -> AsyncIterator[RedisServer]:
    server = await RedisServer.open(address, **{"durability": "refuse", **how})
    try:
        yield server
    finally:
        await server.aclose()


async def refused(address: RedisAddress, **how: Any) -> StoreError:
    """The error of opening it: one line, with a mend, that shows no password wherever it is printed."""
    with pytest.raises(StoreError) as raised:
        async with opened(address, **how):
            pass
    assert "\n" not in raised.value.message
    assert raised.value.hint
    assert str(address) in raised.value.message
    assert PASSWORD not in "".join(traceback.format_exception(raised.value)) + repr(raised.value) + raised.value.hint
    return raised.value


# What is taken, and what is said of it


async def test_a_safe_server_is_taken_without_a_word(valkey: ValkeyServer) -> None:
    """With an append-only file that is flushed each time and no eviction, there is nothing to tell."""
    async with opened(at(valkey)) as server:
        assert server.notes == []
        assert server.found.version.startswith(("Valkey ", "Redis "))
        assert await server.client.ping() is True


UNSAFE = [
    (
        ["--appendonly", "no", "--appendfsync", "always"],
        ["appendonly is no"],
        ["CONFIG SET appendonly yes", "`appendonly yes`"],
    ),
    (["--appendonly", "yes"], ["appendfsync is everysec"], ["CONFIG SET appendfsync always", "`appendfsync always`"]),
    (
        ["--appendonly", "yes", "--appendfsync", "no", "--maxmemory-policy", "allkeys-lru"],
        ["appendfsync is no", "maxmemory-policy is allkeys-lru"],
        ["CONFIG SET appendfsync always", "CONFIG SET maxmemory-policy noeviction", "redis.durability: warn"],
    ),
]


@pytest.mark.parametrize(("arguments", "whats", "mends"), UNSAFE, ids=range(len(UNSAFE)))
async def test_a_server_that_can_lose_writes_is_refused_or_told(
    arguments: list[str], whats: list[str], mends: list[str]
) -> None:
    """Each wrong setting is named with the line that mends it; `warn` goes on, with a note for each."""
    with ValkeyServer(*arguments) as valkey:
        error = await refused(at(valkey))
        assert LOSES in error.message
        assert all(what in error.message for what in whats)
        assert all(mend in error.hint for mend in mends)
        async with opened(at(valkey), durability="warn") as server:
            assert len(server.notes) == len(whats)
            assert all(what in note for what, note in zip(sorted(whats), sorted(server.notes), strict=True))


async def test_the_line_to_change_is_enough() -> None:
    """A server that was refused is taken after the commands that the refusal names."""
    with ValkeyServer("--appendonly", "no", "--maxmemory-policy", "volatile-ttl") as valkey:
        error = await refused(at(valkey))
        async with opened(at(valkey), durability="warn") as server:
            for command in [part for part in error.hint.split("`") if part.startswith("CONFIG SET")]:
                *_, setting, value = command.split()
                await server.client.config_set(setting, value)
        async with opened(at(valkey)) as server:
            assert server.notes == []


async def test_a_cluster_is_refused_with_its_reason() -> None:
    """One script touches keys of many slots, which a Cluster does not allow."""
    with ValkeyServer("--cluster-enabled", "yes", "--appendonly", "yes", "--appendfsync", "always") as valkey:
        error = await refused(at(valkey), durability="warn")
    assert "Cluster" in error.message
    assert "slots" in error.message
    assert "one primary" in error.hint


async def test_a_replica_is_refused_and_its_primary_named(valkey: ValkeyServer) -> None:
    """A replica takes no writes; the address to give is in the message."""
    with ValkeyServer("--replicaof", "127.0.0.1", str(valkey.port)) as replica:
        error = await refused(at(replica), durability="warn")
    assert f"replica of 127.0.0.1:{valkey.port}" in error.message


async def test_settings_that_cannot_be_read_are_said_to_be_unknown() -> None:
    """Where CONFIG is closed, as managed services do, the start goes on and says what was not checked."""
    with ValkeyServer("--appendonly", "yes", "--appendfsync", "always", "--rename-command", "CONFIG", "") as valkey:
        async with opened(at(valkey)) as server:
            (note,) = server.notes
    assert "appendfsync could not be checked" in note


# Doubles of what a server says, where none can be made to say it here
OLD: Info = {"redis_version": "6.2.14", "role": "master", "cluster_enabled": 0}
SENTINEL: Info = {"redis_version": "7.2.4", "redis_mode": "sentinel"}
SAFE: Info = {"redis_version": "7.2.4", "role": "master", "maxmemory_policy": "noeviction", "aof_enabled": 1}
SET: Config = {"appendfsync": "always", "maxmemory-policy": "noeviction"}


@pytest.mark.parametrize(
    ("info", "what"), [(OLD, "Redis 6.2.14"), (SENTINEL, "Sentinel"), ({}, "unknown version"), (SAFE, None)]
)
def test_other_servers_are_judged_by_what_they_say(info: Info, what: str | None) -> None:
    """Too old, a Sentinel, and one that says nothing are refused; Redis 7 is not."""
    refusal = judge(info, SET).refused
    assert (refusal is None) if what is None else (refusal is not None and what in refusal.what and refusal.mend)


def test_valkey_counts_as_the_redis_that_it_equals() -> None:
    """Valkey 8 says that it is Redis 7.2.4, and what it is itself."""
    found = judge({**SAFE, "valkey_version": "8.1.0"}, SET)
    assert (found.version, found.refused, found.unsafe, found.notes) == ("Valkey 8.1.0", None, (), ())


def test_an_append_only_file_that_cannot_be_written_is_told() -> None:
    """A server whose disk is full says so before it refuses a write."""
    (note,) = judge({**SAFE, "aof_last_write_status": "err"}, SET).notes
    assert "look at its disk" in note


# Who cannot be spoken to


async def test_failure_27_an_unreachable_server_is_named(valkey: ValkeyServer) -> None:
    """Nothing listens there: at once, with the settings to look at."""
    error = await refused(RedisAddress(host="127.0.0.1", port=free_port(), password=PASSWORD))
    assert isinstance(error, StoreBusy)
    assert "cannot be reached" in error.message
    assert "REDIS_HOST" in error.hint


async def test_failure_27_an_unknown_host_is_named() -> None:
    """A host without an address is unreachable, not a traceback."""
    error = await refused(RedisAddress(host="nowhere.invalid"))
    assert "cannot be reached" in error.message


@pytest.mark.parametrize(
    ("who", "what", "mend"),
    [
        ({}, "wants a password", "REDIS_PASSWORD"),
        ({"password": f"{PASSWORD}-wrong"}, "refuses the password", "REDIS_PASSWORD"),
        ({"username": "nobody", "password": PASSWORD}, "refuses the password", "redis.username"),
        ({"username": "weak", "password": PASSWORD}, "forbids", "redis.username"),
        ({"password": PASSWORD, "db": 99}, "no database of this number", "REDIS_DB"),
    ],
)
async def test_failure_27_a_wrong_name_password_or_database_is_one_line(
    locked: ValkeyServer, who: dict[str, Any], what: str, mend: str
) -> None:
    """Each says what is wrong and which setting mends it."""
    error = await refused(at(locked, **who))
    assert what in error.message
    assert mend in error.hint
    assert not isinstance(error, StoreBusy)


async def test_a_password_that_nobody_asked_for_is_one_line(valkey: ValkeyServer) -> None:
    """A server without a password does not take one."""
    error = await refused(at(valkey, password=PASSWORD))
    assert "has no password" in error.message


async def test_the_right_password_opens(locked: ValkeyServer, caplog: pytest.LogCaptureFixture) -> None:
    """And nothing that can be printed shows it."""
    caplog.set_level(logging.DEBUG)
    async with opened(at(locked, password=PASSWORD)) as server:
        shown = [repr(server.address), str(server.address), repr(server.client), repr(server), *server.notes]
        assert PASSWORD in server.address.url()
    assert PASSWORD not in "".join(shown) + caplog.text


def test_an_error_that_repeats_the_password_is_made_to_forget_it() -> None:
    """A server that does not know AUTH repeats its words: neither our error nor the one behind it shows them."""
    server = RedisServer(RedisAddress(password=PASSWORD))
    behind = ResponseError(f"unknown command 'AUTH', with args beginning with: '{PASSWORD}'")
    behind.__cause__ = Unreached(f"as said: {PASSWORD}")
    error = server.error(behind)
    error.__cause__ = behind
    assert "unknown command 'AUTH'" in error.message
    assert PASSWORD not in "".join(traceback.format_exception(error))


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x15\x03\x01\x00\x02\x02\x46", b""])
async def test_failure_27_a_port_of_something_else_is_said_to_be_one(answer: bytes) -> None:
    """A web server, one that speaks TLS, one that hangs up: the message names the address, the hint the settings."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        error = await refused(RedisAddress(host="127.0.0.1", port=port))
    assert "does not answer as Redis does" in error.message or (not answer and "cannot be reached" in error.message)
    assert "redis.port" in error.hint
    assert "redis.tls" in error.hint


async def test_a_server_that_says_nothing_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody takes the connection and never answers: the time-out of the socket ends it."""
    monkeypatch.setattr("p2engine.stores.redis_server.SOCKET_TIMEOUT_S", 0.2)
    silent = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await silent.wait()
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as listener:
        error = await refused(RedisAddress(host="127.0.0.1", port=listener.sockets[0].getsockname()[1]))
        silent.set()
    assert "gives no answer" in error.message


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for 127.0.0.1 that nobody but its holder signed."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on PATH: apt-get install openssl")
    folder = tmp_path_factory.mktemp("tls")
    made = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test -addext subjectAltName=IP:127.0.0.1"
    command = [*made.split(), "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@asynccontextmanager
async def door(leads_to: Callable[[], int], context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A port; each connection to it leads to the one that `leads_to` gives at that moment."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", leads_to())
        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer), return_exceptions=True)

    async with await asyncio.start_server(talk, "127.0.0.1", 0, ssl=context) as listener:
        yield listener.sockets[0].getsockname()[1]


@asynccontextmanager
async def tls_before(server: ValkeyServer, certificate: Path) -> AsyncIterator[int]:
    """The port of something that speaks TLS in front of the server, whose own program has none."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    async with door(lambda: server.port, context) as port:
        yield port


async def test_tls_is_spoken_with_who_is_trusted(valkey: ValkeyServer, certificate: Path) -> None:
    """With the certificate's authority named, the server opens; without, the message says that it is not trusted."""
    async with tls_before(valkey, certificate) as port:
        address = RedisAddress(host="127.0.0.1", port=port, tls=True, ca=str(certificate / "cert.pem"))
        async with opened(address) as server:
            assert await server.client.ping() is True
        error = await refused(RedisAddress(host="127.0.0.1", port=port, tls=True))
    assert "not trusted" in error.message
    assert "redis.ca" in error.hint
    assert not isinstance(error, StoreBusy)


async def test_tls_that_is_wanted_and_not_spoken_names_the_setting(valkey: ValkeyServer, certificate: Path) -> None:
    """Plain words to a port that wants TLS are no answer of Redis; the hint names the switch."""
    async with tls_before(valkey, certificate) as port:
        error = await refused(RedisAddress(host="127.0.0.1", port=port))
    assert "redis.tls" in error.hint


async def test_tls_with_a_port_that_has_none_names_the_setting(
    valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TLS to a plain server, which waits for the end of a line: the hint names the switch."""
    monkeypatch.setattr("p2engine.stores.redis_server.SOCKET_TIMEOUT_S", 0.5)
    error = await refused(at(valkey, tls=True))
    assert "redis.tls" in error.hint


@pytest.mark.parametrize(("content", "says"), [(None, "No such file"), ("no certificate", "holds no certificates")])
async def test_failure_27_a_file_of_certificates_that_is_none_is_named(
    tmp_path: Path, content: str | None, says: str
) -> None:
    """`redis.ca` that is missing or holds something else is a fault of the configuration."""
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=f"redis.ca: .*ca.pem: {says}"):
        await RedisServer.open(RedisAddress(tls=True, ca=str(path)), durability="refuse")


# Its clock


async def test_the_clock_is_the_servers(valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host whose clock is an hour off keeps the server's time, and is told by how much it is off."""
    wrong = time.time() + 3600
    monkeypatch.setattr("p2engine.stores.redis_server.time.time", lambda: wrong)
    async with opened(at(valkey)) as server:
        seconds, micros = await server.client.time()
        assert abs(server.now() - (int(seconds) + int(micros) / 1e6)) < 60
        assert 3500 < await server.sync() < 3700


async def test_a_slow_reading_of_the_clock_does_not_count(valkey: ValkeyServer) -> None:
    """Of several readings the one that took the shortest way is kept, as said in the middle of it."""
    async with opened(at(valkey)) as server:
        readings = iter([(5.0, (1000, 0)), (2.0, (2000, 0)), (5.0, (9000, 0))])

        async def answer() -> tuple[int, int]:  # a double of the server, and of time that passes on the way
            way_s, said = next(readings)
            monotonic["now"] += way_s
            return said

        monotonic = {"now": 100.0}
        server._monotonic = lambda: monotonic["now"]
        server.client.time = answer  # type: ignore[method-assign, assignment]
        await server.sync()
        assert server.now() == 2000 + 2 / 2 + 5


# A server that goes away


async def test_failure_35_a_call_that_may_be_made_twice_comes_through_a_restart(valkey: ValkeyServer) -> None:
    """`patiently` makes a call again until the server is back."""
    async with opened(at(valkey)) as server:
        await server.client.set("kept", "here")
        valkey.stop()
        call = asyncio.ensure_future(server.patiently(lambda: server.client.get("kept")))
        await asyncio.sleep(0)
        valkey.start(valkey.port)
        assert await call == b"here"


async def test_failure_35_a_fail_over_behind_one_address_is_followed() -> None:
    """The address leads to a new primary; connections to the old one, a replica that keeps them open, are left."""
    with ValkeyServer() as old, ValkeyServer() as new:
        leads_to = [old.port]
        async with door(lambda: leads_to[-1]) as port, opened(RedisAddress(host="127.0.0.1", port=port)) as server:
            leads_to.append(new.port)
            async with opened(at(old)) as demoted:
                await demoted.client.replicaof("127.0.0.1", str(new.port))
            await server.patiently(lambda: server.client.set("written", "here"))
        async with opened(at(new)) as there:
            assert await there.client.get("written") == b"here"


async def test_a_server_that_stays_away_is_given_up(valkey: ValkeyServer) -> None:
    """After the time that it was given, `patiently` says that it cannot be reached; nothing else is tried again."""
    with ValkeyServer() as other:
        async with opened(at(other)) as server:
            tried = 0

            async def wrong() -> None:
                nonlocal tried
                tried += 1
                raise ResponseError("ERR no such thing")

            with pytest.raises(StoreError, match="refuses: ERR no such thing"):
                await server.patiently(wrong)
            assert tried == 1
            other.stop()
            with pytest.raises(StoreBusy, match="cannot be reached"):
                await server.patiently(lambda: server.client.get("x"), wait_s=0.2)


async def test_failure_35_an_opening_may_wait_for_the_server(valkey: ValkeyServer) -> None:
    """A worker that starts before its Redis waits for it as long as it is told to."""
    with ValkeyServer() as later:
        port = later.port
        later.stop()
        opening = asyncio.ensure_future(RedisServer.open(at(later), durability="refuse", wait_s=20))
        await asyncio.sleep(0)
        later.start(port)
        await (await opening).aclose()


@pytest.mark.parametrize(
    ("say", "says", "busy"),
    [
        (lambda server: server.client.config_set("maxmemory", 1), "is full", False),
        (lambda server: server.client.replicaof("127.0.0.1", 1), "is a replica", True),
    ],
    ids=["full", "demoted"],
)
async def test_failure_35_a_server_that_takes_no_writes_says_why(
    say: Callable[[RedisServer], Any], says: str, busy: bool
) -> None:
    """A full one and one that became a replica are told apart; the latter may pass, with a fail-over."""
    with ValkeyServer() as valkey:
        async with opened(at(valkey)) as server:
            await say(server)
            with pytest.raises(StoreError, match=says) as raised:
                await server.patiently(lambda: server.client.set("a", "b"), wait_s=0.1)
            assert isinstance(raised.value, StoreBusy) == busy
            assert raised.value.hint
