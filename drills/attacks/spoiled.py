"""Requests that are whole calls of HTTP/2, and wrong inside: their bytes, prefixes, fields, names, and headers."""

from collections.abc import Callable
from random import Random

from drills.attacks.good import CANCELS, GET, SERVICE, good_requests
from drills.raw_http2.frames import message, request_fields
from tokenrelay.v1 import generation_pb2 as g
from tokenrelay.v1 import generation_service_pb2 as s

Headers = list[tuple[bytes, bytes]]
Call = tuple[Headers, bytes]
"""A call's header fields and its body, prefix included."""

NAMES = (
    "",
    "x",
    "0-",
    "0-" + "f" * 31,
    "9-" + "0" * 32,
    "-1-" + "0" * 32,
    "0-" + "0" * 32,
    "{}*?[]\r\n\0",
    "é" * 5000,
)
PATHS = (
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
)
HEADERS = (b"x-odd", b"x-odd-bin", b"traceparent", b"grpc-timeout", b"grpc-encoding", b"X-UPPER", b"te", b":path")


class Spoiled:
    """Makes wrong calls up, each kind with a method of its own."""

    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self._good = good_requests()

    def method(self) -> bytes:
        """Returns some method."""
        return self._chance.choice(list(self._good))

    def body(self, method: bytes) -> bytes:
        """Returns a good request of a method."""
        return self._good[method].SerializeToString()

    def bytes_of(self, most: int) -> bytes:
        """Returns some random bytes."""
        return self._chance.randbytes(self._chance.randrange(most))

    def random_bytes(self) -> Call:
        return request_fields(self.method()), message(self.bytes_of(400))

    def mutated(self) -> Call:
        method = self.method()
        body = bytearray(self.body(method))
        for _ in range(self._chance.randint(1, 4)):
            body[self._chance.randrange(len(body))] ^= 1 << self._chance.randrange(8)
        return request_fields(method), message(bytes(body))

    def wrong_prefix(self) -> Call:
        method = self.method()
        body = self.body(method)
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
            self.bytes_of(40),
        )
        headers = request_fields(method, *([(b"grpc-encoding", encoding)] if encoding else []))
        return headers, self._chance.choice(wrong)

    def wrong_fields(self) -> Call:
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

    def wrong_name(self) -> Call:
        name = self._chance.choice([*NAMES, self._chance.randbytes(20).hex()])
        after = self._chance.choice([0, -1, 2**62, -(2**62)])
        method, request = self._chance.choice(
            [
                (SERVICE + b"AttachGeneration", s.AttachGenerationRequest(generation_id=name, after_sequence=after)),
                (GET, s.GetGenerationRequest(generation_id=name)),
                (CANCELS, s.CancelGenerationRequest(generation_id=name)),
            ]
        )
        return request_fields(method), message(request.SerializeToString())

    def wrong_headers(self) -> Call:
        chance, method = self._chance, self.method()
        headers = request_fields(method)
        odd = chance.choice(
            [b"", b"\xff\xfe", b"a\x00b", b"\xe9" * 40, b"0" * 4000, b"9999999999H", b"-1S", chance.randbytes(30)]
        )
        match chance.randrange(5):
            case 0:
                headers = request_fields(chance.choice(PATHS))
            case 1:
                headers.pop(chance.randrange(len(headers)))
            case 2:
                place = chance.randrange(len(headers))
                headers[place] = (headers[place][0], odd)
            case 3:
                headers += [(chance.choice(HEADERS), odd)] * chance.choice([1, 2, 20])
            case _:
                many = range(chance.choice([50, 200]))
                headers += [(b"x-many-%d" % number, b"v" * chance.choice([1, 500])) for number in many]
        return headers, message(self.body(method))


KINDS: dict[str, Callable[[Spoiled], Call]] = {
    "random bytes": Spoiled.random_bytes,
    "mutated": Spoiled.mutated,
    "wrong prefixes": Spoiled.wrong_prefix,
    "wrong fields": Spoiled.wrong_fields,
    "wrong names": Spoiled.wrong_name,
    "wrong headers": Spoiled.wrong_headers,
}
"""What each kind of wrong call is made by."""
