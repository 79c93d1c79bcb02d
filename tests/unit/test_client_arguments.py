"""Arguments that no server could take are refused by the library, with the field and the limit, before any call."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tokenrelay import errors
from tokenrelay.client import AsyncClient, Client
from tokenrelay.client.requests import Options, spec, to_submit
from tokenrelay.client.resumption import Deadline

NOBODY = "127.0.0.1:1"
HALF = "half a \ud800 pair"  # as the interpreter makes of undecodable bytes
PARAMS = "spec.sampling_params"


@pytest.mark.parametrize("target", ["http://127.0.0.1:50051", "grpc://host:1", "host", "host:x", "host:", ":1", "host:0"])
@pytest.mark.parametrize("make", [Client, AsyncClient])
def test_malformed_targets(target: str, make: Callable[[str], object]) -> None:
    with pytest.raises(ValueError, match="targets: "):
        make(f"localhost:50051,{target}")


@pytest.mark.parametrize("target", ["host:65536", "host:123456", "::1:50051", "a b:1", "user@host:1", "", " , ", "host:1/path"])
def test_more_malformed_targets(target: str) -> None:
    with pytest.raises(ValueError, match="targets: "):
        Client(target)


@pytest.mark.parametrize(
    "target",
    ["localhost:1", "127.0.0.1:65535", "[::1]:50051", "[fe80::1%eth0]:1", "a-b.example.com:443", "dns:///h:1", "unix:/x"],
)
def test_well_formed_targets(target: str) -> None:
    Client(target).close()


@pytest.mark.parametrize(
    ("metadata", "kind"),
    [
        ({"X-Key": "a"}, ValueError),
        ({"grpc-timeout": "1S"}, ValueError),
        ({"x key": "a"}, ValueError),
        ({"key": "a\nb"}, ValueError),
        ({"key": "é"}, ValueError),
        ({"key-bin": "text"}, ValueError),
        ({"key": b"bytes"}, ValueError),
        ({"key": 5}, TypeError),
        ([(5, "a")], TypeError),
    ],
)
def test_metadata_that_cannot_be_sent(metadata: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match="metadata: ") as caught:
        Client(NOBODY, metadata=metadata)
    assert "é" not in str(caught.value), "a value may be a secret"


@pytest.mark.parametrize("api_key", ["", "two words", "trk_é", "trk_\n"])
@pytest.mark.parametrize("make", [Client, AsyncClient])
def test_keys_that_cannot_be_one(make: Callable[..., object], api_key: str) -> None:
    with pytest.raises(ValueError, match="api_key: is empty, or has characters that no key has"):
        make(NOBODY, api_key=api_key)


@pytest.mark.parametrize("timeout", [float("inf"), float("nan"), 1e300, 10**12])
def test_timeouts_that_are_no_times(timeout: float) -> None:
    with pytest.raises(errors.InvalidRequestError, match=r"timeout: is .* seconds; must be at most 315576000"):
        Deadline.after(timeout)
    with pytest.raises(errors.InvalidRequestError, match="timeout"):
        Client(NOBODY, timeout=timeout)
    with Client(NOBODY) as client, pytest.raises(errors.InvalidRequestError, match="timeout"):
        client.generate("x", timeout=timeout)
    with Client(NOBODY) as client, pytest.raises(errors.InvalidRequestError, match="timeout"):
        client.stream("x", timeout=timeout)


def test_a_timeout_of_a_wrong_type() -> None:
    with pytest.raises(TypeError, match="timeout: must be a number of seconds"):
        Deadline.after("5")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "kind"), [("", errors.InvalidRequestError), (HALF, errors.InvalidRequestError), (None, TypeError), (5, TypeError)]
)
def test_ids_that_are_none(value: Any, kind: type[Exception]) -> None:
    async def use_asynchronously() -> None:
        async with AsyncClient(NOBODY) as client:
            with pytest.raises(kind, match="generation_id: "):
                client.attach(value)
            with pytest.raises(kind, match="generation_id: "):
                await client.get(value)
            with pytest.raises(kind, match="generation_id: "):
                await client.cancel(value)

    with Client(NOBODY) as client:
        for call in (client.attach, client.get, client.cancel):
            with pytest.raises(kind, match="generation_id: "):
                call(value)
    asyncio.run(use_asynchronously())


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (-1, errors.InvalidRequestError),
        (10**20, errors.InvalidRequestError),
        pytest.param(10**5000, errors.InvalidRequestError, id="thousands of digits"),
        ("1", TypeError),
    ],
)
def test_sequences_that_are_none(value: Any, kind: type[Exception]) -> None:
    with Client(NOBODY) as client, pytest.raises(kind, match="after_sequence: "):
        client.attach("0-1", after_sequence=value)


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        (b"hello", "prompt: must be a str.* is bytes"),
        (bytearray(b"hello"), "prompt: .* is bytearray"),
        ({"role": "user", "content": "x"}, "prompt: .* is dict"),
        (None, "prompt: .* is NoneType"),
        (5, "prompt: .* is int"),
        (["hello"], r"spec.token_ids.ids\[0\]: must be an int, is str"),
        ([1, 2.5], r"spec.token_ids.ids\[1\]: must be an int, is float"),
        ([1, {"role": "user", "content": "x"}], r"spec.token_ids.ids\[1\]: must be an int, is dict"),
        ([{"role": "user", "content": "x"}, 1], r"spec.chat.messages\[1\]: must be a mapping"),
        ([{"role": "user", "content": 5}], r"spec.chat.messages\[0\].content: must be a str, is int"),
    ],
)
def test_prompts_of_a_wrong_type(prompt: Any, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        spec(prompt, "", {})


@pytest.mark.parametrize(
    ("prompt", "field"),
    [
        (HALF, "spec.text"),
        ([2**31], "spec.token_ids.ids[0]"),
        ([1, -(2**40)], "spec.token_ids.ids[1]"),
        ([{"content": "x"}], "spec.chat.messages[0].role"),
        ([{"role": "user"}], "spec.chat.messages[0].content"),
        ([{"role": "user", "content": HALF}], "spec.chat.messages[0].content"),
    ],
)
def test_prompts_that_cannot_be_sent(prompt: Any, field: str) -> None:
    assert_names(field, lambda: spec(prompt, "", {}))


@pytest.mark.parametrize(
    ("name", "value", "field"),
    [
        ("max_tokens", 99_999_999_999, "max_tokens"),
        ("seed", 10**20, "seed"),
        ("temperature", 10**400, "temperature"),
        ("stop", HALF, "stop"),
        ("stop", ["a", HALF], "stop"),
        ("stop_token_ids", [2**40], "stop_token_ids"),
        ("logit_bias", {2**40: 1.0}, "logit_bias"),
        ("choice", ["a", HALF], "choice.texts[1]"),
        ("json_schema", HALF, "json_schema"),
    ],
)
def test_sampling_parameters_that_cannot_be_sent(name: str, value: Any, field: str) -> None:
    assert_names(f"{PARAMS}.{field}", lambda: spec("x", "", {name: value}))


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", "hot"), ("n", 1.5), ("stop", 1), ("stop", [1]), ("json_schema", {}), ("choice", 1), ("logit_bias", [1])],
)
def test_sampling_parameters_of_a_wrong_type(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"{PARAMS}.{name}"):
        spec("x", "", {name: value})


def test_limits_are_named() -> None:
    with pytest.raises(errors.InvalidRequestError, match="max_tokens: is out of range; must be from -2147483648 to 2147483647"):
        spec("x", "", {"max_tokens": 99_999_999_999})


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (Options(idempotency_key=HALF), "idempotency_key"),
        (Options(time_limit=float("inf")), "time_limit"),
        (Options(queue_timeout=float("nan")), "queue_timeout"),
        (Options(time_limit=1e300), "time_limit"),
        (Options(on_disconnect=2**40), "on_disconnect"),  # type: ignore[arg-type]
    ],
)
def test_options_that_cannot_be_sent(options: Options, field: str) -> None:
    assert_names(field, lambda: to_submit("x", "", options, {}))


def test_a_model_that_cannot_be_sent() -> None:
    assert_names("spec.model", lambda: spec("x", HALF, {}))
    assert spec("x", None, {}).model == ""


def assert_names(field: str, build: Callable[[], object]) -> None:
    with pytest.raises(errors.InvalidRequestError) as caught:
        build()
    assert [violation.field for violation in caught.value.violations] == [field]
    assert caught.value.message.isprintable()
    assert caught.value.message.startswith(f"{field}: ")


def test_a_closed_client_makes_no_connection() -> None:
    client = Client(NOBODY)
    client.close()
    with pytest.raises(RuntimeError, match="this client is closed"):
        client.models()
