"""The simulated engine's text: what comes out in pieces is what the whole would be."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from engine_service.incremental_text import TextStream

alphabet = st.text("abcé中🙂 ", max_size=40)


def cut(whole: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(whole), *(place % (len(whole) + 1) for place in places)})
    return [whole[start:end] for start, end in pairwise(edges)]


@given(alphabet, st.lists(st.integers(0, 200)))
def test_without_stop_strings_all_text_comes_out_however_it_is_cut(text: str, places: list[int]) -> None:
    stream, out = TextStream((), include_stop=False), ""
    for piece in cut(text.encode(), places):
        assert stream.add(piece) is None
        out += stream.release(ended=False)
    assert out + stream.release(ended=True) == text


@given(
    alphabet,
    st.lists(st.integers(0, 200)),
    st.lists(st.text("abcé", min_size=1, max_size=4), min_size=1, max_size=3),
    st.booleans(),
)
def test_text_ends_at_the_first_stop_string(text: str, places: list[int], stop: list[str], include: bool) -> None:
    stream, out = TextStream(stop, include_stop=include), ""
    for piece in cut(text.encode(), places):
        found = stream.add(piece)
        out += stream.release(ended=found is not None)
        if found is not None:
            break
    else:
        out += stream.release(ended=True)
    ends = [text.find(one) + len(one) for one in stop if one in text]
    if ends:
        end = min(ends)
        candidates = [one for one in stop if text[:end].endswith(one)]
        assert out in ([text[:end]] if include else [text[: end - len(one)] for one in candidates])
    else:
        assert out == text


@given(alphabet, st.lists(st.integers(0, 200)), st.integers(0, 200))
def test_a_continued_stream_releases_exactly_the_rest(text: str, places: list[int], seam: int) -> None:
    stop = ["ab中"]
    pieces = cut(text.encode(), places)
    first, seam = TextStream(stop, include_stop=False), seam % (len(pieces) + 1)
    out = ""
    for piece in pieces[:seam]:
        if first.add(piece) is not None:
            return
        out += first.release(ended=False)
    second = TextStream(stop, include_stop=False, released=len(out))
    for piece in pieces[:seam]:
        second.add(piece)
    undisturbed = TextStream(stop, include_stop=False)
    ended = False
    for piece in pieces:
        ended = ended or undisturbed.add(piece) is not None
    for piece in pieces[seam:]:
        if second.add(piece) is not None:
            break
    assert out + second.release(ended=True) == undisturbed.release(ended=True)
