"""Each fault of the drills does to real sockets, processes and servers what it says, and nothing after it was healed."""

import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio

from deploy.local import redis_server
from drills.faults import preload
from drills.faults.clock import JumpingClock
from drills.faults.memory import RedisMemory
from drills.faults.network import Network
from drills.faults.proxy_link import Silence
from drills.faults.proxy_stream import QUEUE_BYTES
from drills.faults.slow_disk import SlowDisk
from drills.faults.tcp_proxy import TcpProxy
from tests.support.waiting import eventually

MINUTE, HOUR = 60, 3600
OUT_OF_MEMORY = "used memory > 'maxmemory'"
TCP_INFO_RETRANSMITS = 2  # the byte of Linux' struct tcp_info that counts the tries to send a segment again


class Peer(asyncio.Protocol):
    """One end of a connection, which remembers what it was told."""

    def __init__(self, connected: Callable[["Peer"], None] | None = None) -> None:
        self._connected = connected
        self.received = bytearray()
        self.has_ended = False
        self.was_reset = False
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        if self._connected is not None:
            self._connected(self)

    def data_received(self, data: bytes) -> None:
        self.received += data

    def eof_received(self) -> bool:
        self.has_ended = True
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.was_reset = isinstance(exc, ConnectionResetError)

    def reset(self) -> None:
        connection = self.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.transport.abort()


class Line:
    """A proxy before a server, and the pairs of peers that it connects."""

    def __init__(self) -> None:
        self.proxy: TcpProxy
        self._server: asyncio.Server
        self._peers: list[Peer] = []
        self._served: asyncio.Queue[Peer] = asyncio.Queue()

    async def start(self) -> "Line":
        self._server = await asyncio.get_running_loop().create_server(self._serve, "127.0.0.1", 0)
        self.proxy = await TcpProxy(self._server.sockets[0].getsockname()[1]).start()
        return self

    async def connect(self) -> tuple[Peer, Peer]:
        """Returns a client and the server's end of its connection."""
        client = await self.call()
        return client, await self._served.get()

    async def call(self) -> Peer:
        _, client = await asyncio.get_running_loop().create_connection(Peer, "127.0.0.1", self.proxy.port)
        self._peers.append(client)
        return client

    def hang_up(self) -> None:
        self._server.close()

    async def close(self) -> None:
        await self.proxy.close()
        self._server.close()
        for peer in self._peers:
            peer.transport.abort()
        await eventually(lambda: not any(peer.transport.get_write_buffer_size() for peer in self._peers), "the peers left")

    def _serve(self) -> Peer:
        peer = Peer(self._served.put_nowait)
        self._peers.append(peer)
        return peer


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    line = await Line().start()
    yield line
    await line.close()


async def received(peer: Peer, expected: bytes) -> None:
    await eventually(lambda: len(peer.received) >= len(expected), f"{len(expected)} bytes arrive")
    assert bytes(peer.received) == expected, "other bytes arrived than were sent"
    peer.received.clear()


async def round_trips() -> None:
    """Returns when all that is on its way through the loop has long arrived."""
    ends = socket.socketpair()
    (reader, writer), (other_reader, other_writer) = [await asyncio.open_connection(sock=end) for end in ends]
    for _ in range(20):
        writer.write(b"x")
        await other_reader.readexactly(1)
        other_writer.write(b"x")
        await reader.readexactly(1)
    writer.close()
    other_writer.close()


async def both_reset(*peers: Peer) -> None:
    await eventually(lambda: all(peer.was_reset for peer in peers), "both ends are reset")


class TestTcpProxy:
    async def test_passes_bytes_and_ends_both_ways(self, line: Line) -> None:
        client, server = await line.connect()
        question, answer = random.randbytes(3_000_000), random.randbytes(3_000_000)
        client.transport.write(question)
        client.transport.write_eof()
        await received(server, question)
        await eventually(lambda: server.has_ended, "the client's end arrives")
        server.transport.write(answer)
        server.transport.write_eof()
        await received(client, answer)
        await eventually(lambda: client.has_ended, "the server's end arrives")
        await eventually(lambda: line.proxy.connections == 0, "the proxy lets go of the connection")
        assert (line.proxy.to_target.passed, line.proxy.to_client.passed) == (len(question), len(answer))

    async def test_resets_a_client_whose_target_is_not_there(self, line: Line) -> None:
        line.hang_up()
        client = await line.call()
        await both_reset(client)

    async def test_passes_a_reset_on(self, line: Line) -> None:
        client, server = await line.connect()
        client.reset()
        await both_reset(server)

    async def test_passes_a_reset_on_that_follows_an_end(self, line: Line) -> None:
        client, server = await line.connect()
        client.transport.write_eof()
        await eventually(lambda: server.has_ended, "the client's end arrives")
        client.reset()
        # The kernel tells of it only who writes.
        await eventually(lambda: server.transport.write(b"?") or server.transport.is_closing(), "the reset arrives")

    async def test_delays_bytes_and_lets_go_of_them_when_healed(self, line: Line) -> None:
        client, server = await line.connect()
        line.proxy.to_target.delay(0.1)
        began = time.monotonic()
        client.transport.write(b"late")
        await received(server, b"late")
        assert time.monotonic() - began >= 0.1
        server.transport.write(b"at once")
        await received(client, b"at once")
        line.proxy.to_target.delay(HOUR)
        client.transport.write(b"in an hour")
        await eventually(lambda: line.proxy.to_target.waiting, "the proxy has the bytes")
        assert not server.received
        await line.proxy.heal()
        await received(server, b"in an hour")

    async def test_keeps_the_order_with_jitter(self, line: Line) -> None:
        client, server = await line.connect()
        line.proxy.to_target.delay(0.0, jitter=0.02)
        chunks = [bytes([number]) * 10 for number in range(20)]
        for chunk in chunks:
            passed = line.proxy.to_target.passed + line.proxy.to_target.waiting
            client.transport.write(chunk)
            await eventually(lambda: line.proxy.to_target.passed + line.proxy.to_target.waiting > passed, "it is read")  # noqa: B023
        await received(server, b"".join(chunks))

    async def test_caps_the_bandwidth_of_all_connections_together(self, line: Line) -> None:
        (one, one_server), (other, other_server) = await line.connect(), await line.connect()
        line.proxy.to_target.limit(100_000)
        began = time.monotonic()
        for client in (one, other):
            client.transport.write(bytes(15_000))
        await asyncio.gather(received(one_server, bytes(15_000)), received(other_server, bytes(15_000)))
        # The first piece, of 2,000 bytes, is free.
        assert 0.27 <= time.monotonic() - began < MINUTE
        one.transport.write(bytes(1_000_000))
        await eventually(lambda: line.proxy.to_target.waiting, "the proxy has bytes")
        await line.proxy.heal()
        await received(one_server, bytes(1_000_000))

    async def test_cuts_the_connection_that_carries_the_last_byte(self, line: Line) -> None:
        (client, server), (other, other_server) = await line.connect(), await line.connect()
        line.proxy.to_target.cut_after(100)
        other.transport.write(b"o" * 30)
        await received(other_server, b"o" * 30)
        client.transport.write(b"c" * 500)
        await both_reset(client, server)
        assert bytes(server.received) == b"c" * 70
        other.transport.write(b"o" * 500)
        await received(other_server, b"o" * 500)

    async def test_holds_the_bytes_of_one_direction(self, line: Line) -> None:
        client, server = await line.connect()
        line.proxy.to_target.be_silent(Silence.HELD)
        client.transport.write(b"held")
        client.transport.write_eof()
        server.transport.write(b"not held")
        await received(client, b"not held")
        await eventually(lambda: line.proxy.to_target.waiting == 4, "the proxy has the bytes")
        await round_trips()
        assert not server.received
        assert not server.has_ended
        await line.proxy.heal()
        await received(server, b"held")
        await eventually(lambda: server.has_ended, "the end arrives behind the bytes")

    async def test_holds_no_more_than_its_queue(self, line: Line) -> None:
        client, server = await line.connect()
        line.proxy.to_target.be_silent(Silence.HELD)
        much = random.randbytes(20_000_000)  # more than the kernel takes for two sockets
        client.transport.write(much)
        await eventually(lambda: line.proxy.to_target.waiting >= QUEUE_BYTES, "the queue is full")
        await round_trips()
        assert line.proxy.to_target.waiting < 2 * QUEUE_BYTES
        assert client.transport.get_write_buffer_size() > 0, "the sender has not felt it"
        await line.proxy.heal()
        await received(server, much)

    async def test_holds_no_more_than_a_slow_reader_takes(self, line: Line) -> None:
        client, server = await line.connect()
        server.transport.pause_reading()
        much = random.randbytes(20_000_000)
        client.transport.write(much)
        await eventually(lambda: client.transport.get_write_buffer_size() < len(much), "some has gone")
        await round_trips()
        assert client.transport.get_write_buffer_size() > 0, "the sender has not felt it"
        server.transport.resume_reading()
        await received(server, much)

    async def test_swallows_bytes_and_resets_what_lost_some(self, line: Line) -> None:
        (client, server), (quiet, quiet_server) = await line.connect(), await line.connect()
        line.proxy.be_silent(Silence.SWALLOWED)
        client.transport.write(b"lost")
        await eventually(lambda: line.proxy.to_target.swallowed == 4, "the proxy has the bytes")
        await round_trips()
        assert not client.was_reset
        await line.proxy.heal()
        await both_reset(client, server)
        assert not server.received
        quiet.transport.write(b"nothing was lost here")
        await received(quiet_server, b"nothing was lost here")

    @pytest.mark.parametrize("silence", Silence)
    async def test_tells_nobody_of_a_death_while_silent(self, line: Line, silence: Silence) -> None:
        client, server = await line.connect()
        line.proxy.be_silent(silence)
        client.reset()
        await eventually(lambda: all(one._to_target._end for one in line.proxy._connections), "the proxy knows of it")
        server.transport.write(b"to whom?")
        await round_trips()
        assert not server.was_reset
        assert not server.transport.is_closing()
        await line.proxy.heal()
        await both_reset(server)

    async def test_refuses_new_connections_only(self, line: Line) -> None:
        client, server = await line.connect()
        line.proxy.refuse_new()
        with pytest.raises(ConnectionRefusedError):
            await line.call()
        client.transport.write(b"still here")
        await received(server, b"still here")
        port = line.proxy.port
        await line.proxy.heal()
        await line.connect()
        assert line.proxy.port == port

    async def test_resets_everything(self, line: Line) -> None:
        (client, server), (other, other_server) = await line.connect(), await line.connect()
        line.proxy.reset_all()
        await both_reset(client, server, other, other_server)
        assert line.proxy.connections == 0


class RedisProcess:
    """A redis-server with an environment of its own, on a unix socket."""

    def __init__(self, executable: str, folder: Path) -> None:
        self._executable = executable
        self._folder = folder
        self._clients: list[Any] = []
        self._child: subprocess.Popen[bytes] | None = None

    async def start(self, environment: dict[str, str]) -> Any:
        """Starts it and returns a client."""
        command = [
            self._executable,
            "--port",
            "0",
            "--unixsocket",
            str(self._folder / "redis.sock"),
            "--dir",
            str(self._folder),
        ]
        with (self._folder / "redis.log").open("wb") as log:
            self._child = subprocess.Popen(  # noqa: ASYNC220  # it starts at once
                [*command, *redis_server.options()], stdout=log, stderr=log, env={"PATH": os.environ["PATH"], **environment}
            )
        client = self.client()
        await eventually(lambda: self._answers(client), "Redis answers")
        return client

    def client(self) -> Any:
        client = redis.asyncio.Redis(unix_socket_path=str(self._folder / "redis.sock"), socket_timeout=120)
        self._clients.append(client)
        return client

    async def close(self) -> None:
        for client in self._clients:
            await client.aclose()
        if self._child is not None:
            self._child.kill()
            self._child.wait()

    async def _answers(self, client: Any) -> bool:
        assert self._child is not None
        assert self._child.poll() is None, (self._folder / "redis.log").read_text()
        with suppress(redis.ConnectionError, redis.BusyLoadingError):
            return bool(await client.ping())
        return False


@pytest.fixture(params=redis_server.executables())
async def redis_process(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RedisProcess]:
    folder = tmp_path / "redis"
    folder.mkdir()
    process = RedisProcess(redis_server.executables()[request.param], folder)
    yield process
    await process.close()


@pytest.fixture(scope="module")
def slow_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlowDisk]:
    disk = SlowDisk(tmp_path_factory.mktemp("disk"))
    yield disk
    disk.close()


@pytest.fixture
def disk(slow_disk: SlowDisk) -> Iterator[SlowDisk]:
    yield slow_disk
    slow_disk.heal()


@pytest.fixture(scope="module")
def jumping_clock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JumpingClock]:
    clock = JumpingClock(tmp_path_factory.mktemp("clock"))
    yield clock
    clock.close()


@pytest.fixture
def clock(jumping_clock: JumpingClock) -> Iterator[JumpingClock]:
    yield jumping_clock
    jumping_clock.heal()


async def seconds_of(work: Awaitable[object]) -> float:
    began = time.monotonic()
    await work
    return time.monotonic() - began


class TestSlowDisk:
    async def test_lets_a_durable_write_last_longer(self, redis_process: RedisProcess, disk: SlowDisk) -> None:
        client = await redis_process.start(disk.environment())
        assert await seconds_of(client.set("key", "value")) < 2
        disk.set_delay(2000)
        assert await seconds_of(client.set("key", "value")) >= 2
        disk.heal()
        assert await seconds_of(client.set("key", "value")) < 2

    async def test_ends_a_wait_when_healed(self, redis_process: RedisProcess, disk: SlowDisk) -> None:
        client = await redis_process.start(disk.environment())
        before = disk.delayed_calls
        disk.set_delay(HOUR * 1000)
        write = asyncio.create_task(client.set("key", "value"))
        await eventually(lambda: disk.delayed_calls == before + 1, "a write waits for the disk")
        assert not write.done()
        disk.heal()
        assert await write

    @pytest.mark.parametrize("call", ["fsync", "fdatasync"])
    def test_delays_both_calls(self, disk: SlowDisk, tmp_path: Path, call: str) -> None:
        disk.set_delay(100)
        before = disk.delayed_calls
        program = (
            f"import os, time; began = time.monotonic(); os.{call}({self.opened(tmp_path)}); print(time.monotonic() - began)"
        )
        environment = {**os.environ, **disk.environment()}
        outcome = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True, timeout=120)
        assert 0.1 <= float(outcome.stdout) < MINUTE
        assert disk.delayed_calls == before + 1

    def opened(self, folder: Path) -> str:
        return f"os.open({str(folder)!r}, os.O_RDONLY)"

    def test_leaves_a_process_alone_whose_control_file_is_missing(self, disk: SlowDisk, tmp_path: Path) -> None:
        disk.set_delay(HOUR * 1000)
        environment = {**disk.environment(), "SLOW_DISK_CONTROL": str(tmp_path / "missing")}
        sync = f"import os; os.fsync({self.opened(tmp_path)})"
        subprocess.run([sys.executable, "-c", sync], env=environment, check=True, timeout=120)

    def test_says_that_there_is_no_compiler(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(preload.NoCompilerError, match=r"slow_disk\.c needs a C compiler, and none of cc, gcc, clang"):
            SlowDisk(tmp_path)

    def test_says_what_the_compiler_said(self, tmp_path: Path) -> None:
        source = tmp_path / "broken.c"
        source.write_text("this is not C")
        with pytest.raises(preload.NoCompilerError, match=r"could not compile broken\.c: .*error"):
            preload.compiled(source, tmp_path)


# Answers each line on its input with what the clocks say, and how long waits of 50 ms took.
CLOCK_WATCHER = """
import ctypes, datetime, json, sys, threading, time

library = ctypes.CDLL(None)
FUTEX_WAIT_UNTIL_WALL_INSTANT, SYS_FUTEX = 9 | 128 | 256, {"x86_64": 202, "aarch64": 98}[__import__("os").uname().machine]

class Instant(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]

def soon():
    return Instant(*divmod(time.time_ns() + 50_000_000, 1_000_000_000))

def asked(function, *after):
    instant = Instant()
    getattr(library, function)(ctypes.byref(instant), *after)
    return instant.seconds

def condition_wait():
    condition, mutex = ctypes.create_string_buffer(64), ctypes.create_string_buffer(64)
    library.pthread_mutex_lock(mutex)
    library.pthread_cond_timedwait(condition, mutex, ctypes.byref(soon()))

def semaphore_wait():
    library.sem_timedwait(ctypes.create_string_buffer(64), ctypes.byref(soon()))

def futex_wait():
    arguments = ctypes.byref(ctypes.c_int(0)), FUTEX_WAIT_UNTIL_WALL_INSTANT, 0, ctypes.byref(soon()), None, -1
    library.syscall(SYS_FUTEX, *arguments)

def sleep_until():
    library.clock_nanosleep(time.CLOCK_REALTIME, 1, ctypes.byref(soon()), None)

def event_wait():
    threading.Event().wait(0.05)

def seconds_of(wait):
    began = time.monotonic()
    wait()
    return time.monotonic() - began

WAITS = condition_wait, semaphore_wait, futex_wait, sleep_until, event_wait

for _ in sys.stdin:
    walls = {
        "time.time": time.time(),
        "datetime": datetime.datetime.now(datetime.timezone.utc).timestamp(),
        "gettimeofday": asked("gettimeofday", None),
        "timespec_get": asked("timespec_get", 1),
        "time": library.time(None),
        "coarse": time.clock_gettime(5),  # CLOCK_REALTIME_COARSE, which Python does not name
    }
    waits = {wait.__name__: seconds_of(wait) for wait in WAITS}
    print(json.dumps({"walls": walls, "monotonic": time.monotonic(), "waits": waits}), flush=True)
"""


@pytest.fixture
def watch_clock(clock: JumpingClock) -> Iterator[Callable[[], dict[str, Any]]]:
    """A process with that clock, and a way to ask what it sees."""
    with subprocess.Popen(
        [sys.executable, "-c", CLOCK_WATCHER],
        env={"PATH": os.environ["PATH"], **clock.environment()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        stdin, stdout = child.stdin, child.stdout

        def ask() -> dict[str, Any]:
            stdin.write("\n")
            stdin.flush()
            return dict(json.loads(stdout.readline()))

        try:
            yield ask
        finally:
            child.kill()


class TestJumpingClock:
    def test_moves_the_wall_clock_of_a_running_process_only(
        self, clock: JumpingClock, watch_clock: Callable[[], dict[str, Any]]
    ) -> None:
        for jump, offset in ((0, 0), (HOUR, HOUR), (-2 * HOUR, -HOUR), (0.5, 0.5 - HOUR)):
            clock.jump(jump)
            assert clock.offset == offset
            self.check(watch_clock(), offset)
        clock.heal()
        self.check(watch_clock(), 0)

    def check(self, seen: dict[str, Any], offset: float) -> None:
        now = time.time()
        differences = {name: wall - now for name, wall in seen["walls"].items()}
        # Some tell whole seconds only.
        assert all(abs(difference - offset) < MINUTE for difference in differences.values()), differences
        assert abs(seen["monotonic"] - time.monotonic()) < MINUTE
        assert all(0.04 < wait < MINUTE for wait in seen["waits"].values()), seen["waits"]

    @pytest.mark.parametrize("jump", [HOUR, -HOUR])
    async def test_redis_goes_on_after_a_jump(self, redis_process: RedisProcess, clock: JumpingClock, jump: int) -> None:
        client = await redis_process.start(clock.environment())
        reading = asyncio.create_task(redis_process.client().xread({"stream": "$"}, block=HOUR * 1000))
        await eventually(lambda: self.has_blocked_clients(client), "a client is blocked")
        clock.jump(jump)
        await self.redis_has_jumped(client, jump)
        assert 0.1 <= await seconds_of(client.xread({"other": "$"}, block=100)) < MINUTE
        assert 0.1 <= await seconds_of(client.blpop("list", 0.1)) < MINUTE
        # What was blocked over the jump: forward, its time is over; back, it is still there for what comes.
        if jump < 0:
            await client.xadd("stream", {"field": "value"})
        answer = await reading
        assert bool(answer) == (jump < 0)

    async def redis_has_jumped(self, client: Any, jump: int) -> None:
        # Valkey asks for the wall clock once in a millisecond; in between it adds what its monotonic clock says.
        async def jumped() -> bool:
            return abs((await client.time())[0] - time.time() - jump) < MINUTE

        await eventually(jumped, "Redis' clock has jumped")

    async def has_blocked_clients(self, client: Any) -> bool:
        return bool((await client.info("clients"))["blocked_clients"])

    async def test_redis_counts_expiries_on_it(self, redis_process: RedisProcess, clock: JumpingClock) -> None:
        client = await redis_process.start(clock.environment())
        await client.set("key", "value", ex=60)
        clock.jump(HOUR)
        await self.redis_has_jumped(client, HOUR)
        assert await client.get("key") is None

    async def test_goes_together_with_a_slow_disk(
        self, redis_process: RedisProcess, clock: JumpingClock, disk: SlowDisk
    ) -> None:
        client = await redis_process.start(preload.combined(clock.environment(), disk.environment()))
        clock.jump(HOUR)
        disk.set_delay(100)
        assert await seconds_of(client.set("key", "value")) >= 0.1
        await self.redis_has_jumped(client, HOUR)


class TestRedisMemory:
    async def test_refuses_what_needs_memory_until_healed(self, redis_process: RedisProcess) -> None:
        client = await redis_process.start({})
        await client.config_set("maxmemory", 100_000_000)
        await client.set("key", "value")
        memory = RedisMemory(client)
        await memory.exhaust()
        with pytest.raises(redis.ResponseError, match=OUT_OF_MEMORY):
            await client.set("other", "value")
        assert await client.get("key") == b"value"
        await memory.exhaust(headroom=10_000_000)
        await client.set("other", bytes(2_000_000))
        with pytest.raises(redis.ResponseError, match=OUT_OF_MEMORY):
            for number in range(10):
                await client.set(f"more-{number}", bytes(2_000_000))
        await memory.heal()
        await client.set("other", "value")
        assert (await client.config_get("maxmemory"))["maxmemory"] == "100000000"


@pytest.fixture
def network() -> Iterator[Network]:
    obstacle = Network.obstacle()
    if obstacle is not None:
        pytest.skip(obstacle)
    network = Network()
    yield network
    network.close()


@contextmanager
def child_in(network: Network, program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [*network.command_prefix, sys.executable, "-c", program, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as child:
        try:
            yield child
        finally:
            child.kill()


ECHO = """
import os, socket, sys
server = socket.create_server((sys.argv[1], 0))
print(os.getpid(), server.getsockname()[1], flush=True)
connection, _ = server.accept()
while data := connection.recv(100):
    connection.sendall(data)
"""
CALL = """
import socket, sys
print(socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=120).recv(100).decode())
"""


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True).stdout


class TestNetwork:
    async def test_lets_packets_vanish_while_the_cable_is_pulled(self, network: Network) -> None:
        with child_in(network, ECHO, network.address) as child:
            assert child.stdout is not None
            pid, port = child.stdout.readline().split()
            assert int(pid) == child.pid, "a signal would not reach the process itself"
            _, peer = await asyncio.get_running_loop().create_connection(Peer, network.address, int(port))
            peer.transport.write(b"before")
            await received(peer, b"before")
            network.take_down()
            peer.transport.write(b"meanwhile")
            connection = peer.transport.get_extra_info("socket")
            await eventually(lambda: self.tries_again(connection), "the kernel has sent it in vain")
            assert not peer.received
            assert not peer.transport.is_closing()
            network.bring_up()
            await received(peer, b"meanwhile")
            peer.transport.abort()

    def tries_again(self, connection: Any) -> int:
        return int(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[TCP_INFO_RETRANSMITS])

    async def test_reaches_a_service_on_loopback_through_a_proxy(self, network: Network) -> None:
        async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"welcome")
            writer.close()

        server = await asyncio.start_server(greet, "127.0.0.1", 0)
        proxy = await TcpProxy(server.sockets[0].getsockname()[1], host=network.host_address).start()
        with child_in(network, CALL, network.host_address, str(proxy.port)) as child:
            answer, _ = await asyncio.to_thread(child.communicate)
        assert answer.strip() == "welcome"
        await proxy.close()
        server.close()

    def test_leaves_nothing_behind(self, network: Network) -> None:
        suffix = network.name.removeprefix("drill-")
        assert suffix in ip("link")
        assert network.name in ip("netns", "list")
        with child_in(network, "input()"):
            network.close()
            assert suffix not in ip("link")
            assert network.name not in ip("netns", "list")

    def test_does_not_use_what_another_one_has(self, network: Network) -> None:
        other = Network()
        try:
            assert len({network.address, network.host_address, other.address, other.host_address}) == 4
            assert network.name != other.name
        finally:
            other.close()

    def test_says_why_it_is_not_possible(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        assert "by root only" in (Network.obstacle() or "")
        monkeypatch.undo()
        if Network.obstacle() is None:
            monkeypatch.setenv("PATH", str(tmp_path))
            assert "iproute2" in (Network.obstacle() or "")
