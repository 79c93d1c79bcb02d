"""Hostile clients, as a process of its own: `python -m drills.attacks TARGET REQUESTS SEED`; writes JSON.

Every request that is answered must be answered with a proper status, and what could be answered must be.
"""

import asyncio
import json
import logging
import re
import struct
import sys
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from random import Random

import grpc
from google.protobuf.message import Message

from drills.raw_http2 import (
    CANCEL,
    END_HEADERS,
    END_STREAM,
    PREFACE,
    Answer,
    Frame,
    RawConnection,
    frame,
    header_block,
    message,
    request_fields,
)
from tokenrelay.v1 import generation_pb2 as g
from tokenrelay.v1 import generation_service_pb2 as s

CALLERS = 8
BATCH = 16  # calls at a time of each caller
LARGE_BATCH = 4  # the same for calls of up to some 100 KB
RESETS = 100  # calls that are begun and broken off in one go
HELD = 200  # connections, and calls, that are left hanging at a time
PATIENCE = 40.0  # seconds for an answer
RUNS_AFTER = 2.0  # seconds after which a fuzzed request that was accepted is left
STATUSES = {code.value[0]: code.name for code in grpc.StatusCode}
OUR_FAULT = re.compile(
    r"Traceback|Exception|<class|object at 0x|\.py\b|error_id|(Decode|Value|Type|Key|Attribute|Unicode)Error"
)
SERVICE = b"/tokenrelay.v1.GenerationService/"
SUBMIT, CANCELS = SERVICE + b"SubmitGeneration", SERVICE + b"CancelGeneration"

Headers = list[tuple[bytes, bytes]]


def good_requests() -> dict[bytes, Message]:
    """Returns a good request for each method."""
    params = g.SamplingParams(max_tokens=5, temperature=0.5, seed=7, stop=["end"], logit_bias={5: 1.0})
    spec = g.GenerationSpec(text="a good request", sampling_params=params)
    chat = g.GenerationSpec(chat=g.Chat(messages=[g.ChatMessage(role="user", content="hi")]), sampling_params=params)
    name = "0-" + "0123456789abcdef" * 2
    return {
        SERVICE + b"Generate": s.GenerateRequest(spec=chat),
        SERVICE + b"GenerateStream": s.GenerateStreamRequest(spec=spec, on_disconnect=g.DISCONNECT_POLICY_CANCEL),
        SUBMIT: s.SubmitGenerationRequest(spec=spec),
        SERVICE + b"AttachGeneration": s.AttachGenerationRequest(generation_id=name, after_sequence=3),
        SERVICE + b"GetGeneration": s.GetGenerationRequest(generation_id=name),
        CANCELS: s.CancelGenerationRequest(generation_id=name),
        b"/tokenrelay.v1.ModelService/ListModels": s.GetGenerationRequest(generation_id="?"),
        b"/grpc.health.v1.Health/Check": s.GetGenerationRequest(generation_id="?"),
        b"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": s.GetGenerationRequest(generation_id="?"),
    }


class Attack:
    """Hostile requests of all kinds, and what came of them."""

    def __init__(self, target: str, requests: int, chance: Random) -> None:
        self.left = requests
        self.outcomes: dict[str, Counter[str]] = defaultdict(Counter)
        self.bad: list[str] = []
        self._target = target
        self._chance = chance
        self._good = good_requests()
        self._held = asyncio.Semaphore(HELD)
        self._hanging: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Returns when all requests have been made and nothing hangs any more."""
        await asyncio.gather(*(self._caller() for _ in range(CALLERS)))
        await asyncio.gather(*self._hanging)

    async def _caller(self) -> None:
        # How many of a hundred rounds are of which kind; a round of the first ones is many requests.
        kinds: tuple[tuple[int, Callable[[RawConnection], Awaitable[int]]], ...] = (
            (16, self._random_bytes),
            (16, self._mutated),
            (30, self._wrong_fields),
            (10, self._wrong_prefixes),
            (8, self._wrong_headers),
            (8, self._wrong_names),
            (6, self._resets),
            (6, self._floods),
            (6, self._broken_frames),
            (6, self._abandoned),
            (4, self._half_open),
            (4, self._slow),
        )
        connection = RawConnection(self._target)
        try:
            while self.left > 0:
                if not connection.is_open:
                    await connection.close()
                    connection = RawConnection(self._target)
                    await connection.open()
                _, chosen = self._chance.choices(kinds, weights=[weight for weight, _ in kinds])[0]
                made = await chosen(connection)
                self.left -= made
        finally:
            await connection.close()

    def note(self, kind: str, answer: Answer, *, may_break: bool = False) -> None:
        """Counts an answer, and keeps it if it was not a proper one.

        Args:
            may_break: whether what was sent breaks HTTP/2's own rules, so that a reset or a cut is an answer too.
        """
        status = answer.status
        if status is None:
            outcome = "cut" if answer.cut else "none" if answer.reset is None else f"reset {answer.reset}"
            proper = may_break
        else:
            outcome = STATUSES.get(status, str(status))
            proper = outcome not in ("UNKNOWN", "CANCELLED") and not OUR_FAULT.search(answer.text)
        self.outcomes[kind][outcome] += 1
        if not proper:
            self.bad.append(f"{kind}: {outcome}: {answer.text[:200]}")

    async def _call(
        self, connection: RawConnection, kind: str, headers: Headers, body: bytes, *, may_break: bool = False
    ) -> None:
        """Makes a call; what turns out to be a good request is let go after a while."""
        call = asyncio.ensure_future(connection.call(headers, body))
        stream = connection.newest
        try:
            done, _ = await asyncio.wait({call}, timeout=RUNS_AFTER)
            if not done and connection.is_accepted(stream):
                connection.reset(stream)
                self.outcomes[kind]["accepted"] += 1
                return
            answer = await asyncio.wait_for(call, PATIENCE)
        except TimeoutError:
            self.outcomes[kind]["no answer"] += 1
            self.bad.append(f"{kind}: no answer within {PATIENCE:.0f} s to {dict(headers)[b':path'][:60]!r} {body[:60]!r}")
            return
        finally:
            call.cancel()
        self.note(kind, answer, may_break=may_break)
        if (b":path", SUBMIT) in headers and answer.status == 0:
            # Nobody reads it, so it would run to its end, which may be far away.
            name = s.SubmitGenerationResponse.FromString(answer.messages()[0]).generation_id
            wanted = s.CancelGenerationRequest(generation_id=name).SerializeToString()
            await asyncio.wait_for(connection.call(request_fields(CANCELS), message(wanted)), PATIENCE)

    async def _calls(
        self,
        connection: RawConnection,
        kind: str,
        make: Callable[[], tuple[Headers, bytes]],
        *,
        batch: int = BATCH,
        may_break: bool = False,
    ) -> int:
        await asyncio.gather(*(self._call(connection, kind, *make(), may_break=may_break) for _ in range(batch)))
        return batch

    def _method(self) -> bytes:
        return self._chance.choice(list(self._good))

    def _bytes(self, most: int) -> bytes:
        return self._chance.randbytes(self._chance.randrange(most))

    async def _random_bytes(self, connection: RawConnection) -> int:
        return await self._calls(
            connection, "random bytes", lambda: (request_fields(self._method()), message(self._bytes(400)))
        )

    async def _mutated(self, connection: RawConnection) -> int:
        def make() -> tuple[Headers, bytes]:
            method = self._method()
            body = bytearray(self._good[method].SerializeToString())
            for _ in range(self._chance.randint(1, 4)):
                body[self._chance.randrange(len(body))] ^= 1 << self._chance.randrange(8)
            return request_fields(method), message(bytes(body))

        return await self._calls(connection, "mutated", make)

    async def _wrong_prefixes(self, connection: RawConnection) -> int:
        def make() -> tuple[Headers, bytes]:
            method = self._method()
            body = self._good[method].SerializeToString()
            size, encoding = len(body), self._chance.choice([b"gzip", b"deflate", b"identity", b"rot13", b""])
            wrong = (
                b"",
                message(body)[: self._chance.randrange(size + 5)],
                message(body, length=self._chance.randrange(size)),
                message(body, length=size + self._chance.randrange(1, 1000)),
                message(body, length=self._chance.choice([2**32 - 1, 2**31, 2**24 + 1, 2**24])),
                message(body, flag=1),
                message(body, flag=self._chance.randrange(256)),
                message(body) * self._chance.randint(2, 5),
                self._bytes(40),
            )
            headers = request_fields(method, *([(b"grpc-encoding", encoding)] if encoding else []))
            return headers, self._chance.choice(wrong)

        return await self._calls(connection, "wrong prefixes", make)

    async def _wrong_fields(self, connection: RawConnection) -> int:
        return await self._calls(connection, "wrong fields", self._wrong_request, batch=LARGE_BATCH)

    def _wrong_request(self) -> tuple[Headers, bytes]:
        chance = self._chance
        wrong = chance.choice([-1, -(2**31), 2**31 - 1])
        odd = chance.choice([float("nan"), float("inf"), -float("inf"), -1e308, 1e308])
        params = chance.choice(
            [
                g.SamplingParams(temperature=odd),
                g.SamplingParams(max_tokens=wrong),
                g.SamplingParams(n=wrong, top_k=wrong, min_tokens=wrong, logprobs=wrong),
                g.SamplingParams(stop=["x"] * 5000),
                g.SamplingParams(stop_token_ids=[wrong] * 5000),
                g.SamplingParams(logit_bias=dict.fromkeys(range(1000), odd)),
                g.SamplingParams(json_schema="[" * 20_000),
                g.SamplingParams(json_schema='{"a":' * 5000 + "1" + "}" * 5000),
                g.SamplingParams(regex="(" * 1000, n=17),
                g.SamplingParams(repetition_detection=g.RepetitionDetection(min_count=wrong)),
            ]
        )
        spec = chance.choice(
            [
                g.GenerationSpec(text="x", sampling_params=params),
                g.GenerationSpec(model="\0" * 1000, text="x"),
                g.GenerationSpec(token_ids=g.TokenIds(ids=[wrong] * chance.choice([1, 100, 20_000])), sampling_params=params),
                g.GenerationSpec(chat=g.Chat(messages=[g.ChatMessage(role="?", content="x")] * 2000)),
                g.GenerationSpec(chat=g.Chat()),
            ]
        )
        request = s.GenerateStreamRequest(spec=spec, idempotency_key="k" * chance.choice([0, 257, 10_000]))
        request.on_disconnect = 9  # type: ignore[assignment]  # there is none
        request.time_limit.seconds = chance.choice([-1, 0, 2**62])
        body = request.SerializeToString()
        if chance.random() < 0.3:
            # Bytes that are no UTF-8, in the place of the text.
            bad = b"\x12\x04\xff\xfe\xfd\xfc"
            body = b"\x0a" + bytes((len(bad),)) + bad
        elif chance.random() < 0.1:
            body = b"\x0b" * 5000  # groups within groups
        return request_fields(SERVICE + chance.choice([b"GenerateStream", b"Generate", b"SubmitGeneration"])), message(body)

    async def _wrong_names(self, connection: RawConnection) -> int:
        def make() -> tuple[Headers, bytes]:
            shapes = [
                "",
                "x",
                "0-",
                "0-" + "f" * 31,
                "9-" + "0" * 32,
                "-1-" + "0" * 32,
                "0-" + "0" * 32,
                "{}*?[]\r\n\0",
                "é" * 5000,
            ]
            name = self._chance.choice([*shapes, self._chance.randbytes(20).hex()])
            after = self._chance.choice([0, -1, 2**62, -(2**62)])
            method, request = self._chance.choice(
                [
                    (b"AttachGeneration", s.AttachGenerationRequest(generation_id=name, after_sequence=after)),
                    (b"GetGeneration", s.GetGenerationRequest(generation_id=name)),
                    (b"CancelGeneration", s.CancelGenerationRequest(generation_id=name)),
                ]
            )
            return request_fields(SERVICE + method), message(request.SerializeToString())

        return await self._calls(connection, "wrong names", make)

    async def _wrong_headers(self, connection: RawConnection) -> int:
        return await self._calls(connection, "wrong headers", self._wrong_head, may_break=True)

    def _wrong_head(self) -> tuple[Headers, bytes]:
        chance, method = self._chance, self._method()
        body = message(self._good[method].SerializeToString())
        headers = request_fields(method)
        odd = chance.choice(
            [b"", b"\xff\xfe", b"a\x00b", b"\xe9" * 40, b"0" * 4000, b"9999999999H", b"-1S", chance.randbytes(30)]
        )
        name = chance.choice(
            [b"x-odd", b"x-odd-bin", b"traceparent", b"grpc-timeout", b"grpc-encoding", b"X-UPPER", b"te", b":path"]
        )
        kind = chance.randrange(5)
        if kind == 0:
            paths = [
                b"",
                b"x",
                b"/",
                b"//",
                SERVICE,
                SERVICE + b"Nothing",
                b"/" + b"x" * 6000,
                b"/\xff/\xfe",
                b"*",
                b"/a/b/c/d",
            ]
            headers = request_fields(chance.choice(paths))
        elif kind == 1:
            headers.pop(chance.randrange(len(headers)))
        elif kind == 2:
            place = chance.randrange(len(headers))
            headers[place] = (headers[place][0], odd)
        elif kind == 3:
            headers += [(name, odd)] * chance.choice([1, 2, 20])
        else:
            headers += [(b"x-many-%d" % number, b"v" * chance.choice([1, 500])) for number in range(chance.choice([50, 200]))]
        return headers, body

    async def _resets(self, connection: RawConnection) -> int:
        """Begins calls and breaks them off, at every point of a call's way."""
        for _ in range(RESETS):
            method = self._method()
            body = message(self._good[method].SerializeToString())
            part = self._chance.choice([None, body[:7], body])
            stream, _ = connection.begin(request_fields(method))
            if part is not None:
                connection.send(frame(Frame.DATA, END_STREAM if part == body else 0, stream, part))
            connection.reset(stream, self._chance.choice([0, CANCEL, 2, 2**32 - 1]))
        await connection.flush()
        self.outcomes["rapid resets"]["reset"] += RESETS
        await self._call(connection, "after rapid resets", request_fields(SERVICE + b"GetGeneration"), message(b""))
        return RESETS + 1

    async def _floods(self, _: RawConnection) -> int:
        flood = self._chance.choice(
            [
                frame(Frame.PING, 0, 0, b"12345678") * 200,
                frame(Frame.SETTINGS, 0, 0, struct.pack(">HI", 4, 65_535)) * 200,
                frame(Frame.SETTINGS, 0, 0, struct.pack(">HI", 1, 0) + struct.pack(">HI", 1, 2**31)) * 200,
                frame(Frame.WINDOW_UPDATE, 0, 0, (1).to_bytes(4, "big")) * 200,
                frame(0x2, 0, 1, b"\0\0\0\0\x10") * 200,
                frame(0xEE, 0, 0, b"x" * 100) * 200,
                frame(Frame.RST_STREAM, 0, 1, b"\0\0\0\x08") * 200,
            ]
        )
        return await self._on_one_of_its_own("floods", flood)

    async def _broken_frames(self, _: RawConnection) -> int:
        block = header_block(request_fields(self._method()))
        broken = self._chance.choice(
            [
                frame(Frame.HEADERS, 0, 1, block) + frame(Frame.CONTINUATION, 0, 1, b"\x00\x01a\x01b") * 3000,
                frame(Frame.HEADERS, END_HEADERS, 2, block),
                frame(Frame.HEADERS, END_HEADERS, 0, block),
                frame(Frame.HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"),
                frame(Frame.HEADERS, END_HEADERS, 1, b"\xbe" * 500),
                frame(Frame.HEADERS, END_HEADERS | 0x8, 1, b"\xff" + block),
                frame(Frame.HEADERS, END_HEADERS, 1, block) + frame(Frame.DATA, 0, 1, b"x" * 16_384) * 40,
                frame(Frame.DATA, 0, 1, b"x" * 10),
                frame(Frame.WINDOW_UPDATE, 0, 0, (2**31 - 1).to_bytes(4, "big")) * 2,
                frame(Frame.WINDOW_UPDATE, 0, 0, b"\0\0\0\0"),
                frame(Frame.PING, 0, 0, b"short"),
                frame(Frame.SETTINGS, 0, 0, b"odd"),
                frame(Frame.SETTINGS, 0, 0, struct.pack(">HI", 5, 1)),
                frame(Frame.CONTINUATION, 0, 1, block),
                frame(0x5, END_HEADERS, 1, b"\0\0\0\2" + block),
                b"\xff\xff\xff" + self._chance.randbytes(60),
                self._chance.randbytes(200),
            ]
        )
        return await self._on_one_of_its_own("broken frames", broken)

    async def _on_one_of_its_own(self, kind: str, data: bytes) -> int:
        """Sends bytes on a new connection and looks whether it, or its end, is there afterwards."""
        async with RawConnection(self._target) as connection:
            connection.send(data)
            call = connection.call(request_fields(SERVICE + b"GetGeneration"), message(b""))
            try:
                self.note(kind, await asyncio.wait_for(call, 5.0), may_break=True)
            except TimeoutError:
                self.outcomes[kind]["left alone"] += 1  # it waits for the rest of a frame
        return 1

    async def _abandoned(self, _: RawConnection) -> int:
        """Hangs up in the middle of headers, of a message, of an answer, or of something that is not HTTP/2."""
        connection = RawConnection(self._target)
        with suppress(OSError):
            await connection.open(preface=self._chance.random() < 0.8)
            method = self._method()
            body = message(self._good[method].SerializeToString())
            whole = frame(Frame.HEADERS, END_HEADERS, 1, header_block(request_fields(method)))
            whole += frame(Frame.DATA, END_STREAM, 1, body)
            other = [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", self._bytes(100)]
            connection.send(self._chance.choice([whole, whole[: self._chance.randrange(len(whole))], *other]))
            await connection.flush()
            await asyncio.sleep(self._chance.choice([0.0, 0.005, 0.02]))
        await connection.close()
        self.outcomes["abandoned"]["abandoned"] += 1
        return 1

    async def _half_open(self, _: RawConnection) -> int:
        """Connects and says nothing, or hello and nothing more, until the server has had enough."""

        async def hang() -> None:
            async with self._held:
                connection = RawConnection(self._target, polite=False)
                try:
                    await connection.open(preface=False)
                    connection.send(self._chance.choice([b"", PREFACE[:5], PREFACE, PREFACE + frame(Frame.SETTINGS, 0, 0)]))
                    ended = await connection.wait_until_closed(PATIENCE)
                    self.outcomes["half open"]["closed by the server" if ended else "still open"] += 1
                    if not ended:
                        self.bad.append(f"half open: still there after {PATIENCE:.0f} s")
                finally:
                    await connection.close()

        return await self._hang(hang)

    async def _slow(self, _: RawConnection) -> int:
        """Begins a call and goes on a byte at a time, or not at all."""

        async def crawl() -> None:
            async with self._held, RawConnection(self._target) as connection:
                method = self._chance.choice(
                    [SERVICE + b"Generate", SERVICE + b"GenerateStream", b"/grpc.health.v1.Health/Check"]
                )
                stream, answer = connection.begin(request_fields(method))
                body = message(b"\0" * self._chance.choice([20, 1000])) if self._chance.random() < 0.7 else b""
                for byte in body:
                    if answer.done():
                        break
                    connection.send(frame(Frame.DATA, 0, stream, bytes((byte,))))
                    await asyncio.sleep(0.1)
                try:
                    self.note("slow senders", await asyncio.wait_for(answer, PATIENCE))
                except TimeoutError:
                    self.outcomes["slow senders"]["no answer"] += 1
                    self.bad.append(f"slow senders: no answer within {PATIENCE:.0f} s")

        return await self._hang(crawl)

    async def _hang(self, hanging: Callable[[], Awaitable[None]]) -> int:
        async def run() -> None:
            await hanging()

        if self._held.locked():
            return 0
        task = asyncio.create_task(run())
        self._hanging.add(task)
        await asyncio.sleep(0)
        return 1


async def main(target: str, requests: int, seed: str) -> None:
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # it tells of every connection that was cut
    attack = Attack(target, requests, Random(seed))
    await attack.run()
    made = sum(sum(counts.values()) for counts in attack.outcomes.values())
    outcomes = {kind: dict(counts) for kind, counts in sorted(attack.outcomes.items())}
    print(json.dumps({"requests": made, "outcomes": outcomes, "bad": attack.bad[:50], "bad_count": len(attack.bad)}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
