"""What passes before the application: which paths, and pages of which origins."""

import re
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.edge import envoy_filters
from gateway.edge.envoy_filters import DECODABLE
from gateway.settings import GatewaySettings

NUMBERS = st.one_of(
    st.integers(0x80, 0xFF).map(lambda number: bytes([number])),
    st.integers(0, 0x10FFFF).filter(lambda number: not 0xD800 <= number < 0xE000).map(lambda number: chr(number).encode()),
    st.binary(max_size=4),
)


def is_utf8(path: str) -> bool:
    try:
        unquote_to_bytes(path).decode()
    except UnicodeDecodeError:
        return False
    return True


@given(st.lists(NUMBERS, max_size=3).map(b"".join), st.booleans())
@example(b"\xed\xa0\x80", False)
@example(b"\xc0\x80", False)
@example(b"\xf4\x90\x80\x80", False)
@example(b"\xf0\x80\x80\x80", False)
@example(b"\xe0\x80\x80", True)
def test_paths_pass_whose_bytes_are_utf8(raw: bytes, is_lower: bool) -> None:
    digits = "%{:02x}" if is_lower else "%{:02X}"
    path = "/" + "".join(digits.format(byte) for byte in raw)
    assert bool(re.fullmatch(DECODABLE, path)) == is_utf8(path)


@pytest.mark.parametrize("path", ["/a b", "/\x7f", "/%", "/%4", "/%zz", "/\u00e4", "/?\u00e4"])
def test_what_is_no_path_does_not_pass(path: str) -> None:
    assert not re.fullmatch(DECODABLE, path)


@pytest.mark.parametrize(
    "path", ["*", "/", "/v1/models/a%2Fb", "/tokenrelay.v1.GenerationService/Generate", "/~!$&'()*+,;=:@", "/?a=%ff?%"]
)
def test_ordinary_paths_pass(path: str) -> None:
    assert re.fullmatch(DECODABLE, path)


def origins(setting: str | None) -> Any:
    policy = envoy_filters.cors_policy(GatewaySettings(cors_origins=setting))
    return policy and policy["typed_per_filter_config"][envoy_filters.CORS]["allow_origin_string_match"]


def test_no_page_may_call_unless_its_origin_is_named() -> None:
    assert origins(None) == {}
    assert origins("https://a,http://b:8000") == [{"exact": "https://a"}, {"exact": "http://b:8000"}]
    assert origins("any") == [{"prefix": ""}]
