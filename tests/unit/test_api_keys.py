"""API keys: made, parsed, refused, and never shown by accident."""

import pytest

from tokenrelay.identity.api_keys import ALPHABET, LENGTH, ApiKey, KeyKind, NoKeyError


@pytest.mark.parametrize("kind", KeyKind)
def test_a_key_is_read_back_from_its_text(kind: KeyKind) -> None:
    key = ApiKey.new(kind)
    text = key.reveal()
    assert len(text) == LENGTH
    assert text.startswith(kind.value)
    again = ApiKey.parse(text)
    assert (again.kind, again.key_id) == (kind, key.key_id)
    assert again.fits(key.digest())


def test_two_keys_have_nothing_in_common() -> None:
    first, second = ApiKey.new(KeyKind.CALLS), ApiKey.new(KeyKind.CALLS)
    assert first.key_id != second.key_id
    assert not first.fits(second.digest())


def test_every_single_typo_is_noticed() -> None:
    text = ApiKey.new(KeyKind.CALLS).reveal()
    for position, right in enumerate(text):
        wrong = ALPHABET[(ALPHABET.index(right) + 1) % len(ALPHABET)] if right != "_" else "-"
        with pytest.raises(NoKeyError):
            ApiKey.parse(text[:position] + wrong + text[position + 1 :])


@pytest.mark.parametrize("text", ["", "trk_", "ä" * LENGTH, "x" * LENGTH, "trk_" + "0" * (LENGTH - 4), "trk_" + "0" * LENGTH])
def test_what_is_no_key_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(NoKeyError) as caught:
        ApiKey.parse(text)
    assert str(caught.value) == "is no key"


def test_printing_a_key_shows_its_id_alone() -> None:
    key = ApiKey.new(KeyKind.CALLS)
    secret = key.reveal()[16:]
    for shown in (repr(key), str(key), f"{key}", repr([key]), repr({"key": key})):
        assert key.key_id in shown
        assert secret not in shown
