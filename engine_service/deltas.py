"""The public delta of new tokens, serialized: the bytes that reach the client."""

from collections.abc import Sequence

from engine_service.engines import Tokens
from tokenrelay.v1 import generation_pb2
from tokenrelay.wire import varint

TEXT, TOKEN_IDS = b"\x12", b"\x1a"  # tags of a Delta's fields: field number * 8 + 2


def merged(pieces: Sequence[Tokens]) -> Tokens:
    """Returns the pieces of one choice, in order, as one."""
    if len(pieces) == 1:
        return pieces[0]
    return Tokens(
        index=pieces[0].index,
        text="".join([piece.text for piece in pieces]),
        token_ids=[token for piece in pieces for token in piece.token_ids],
        end=pieces[-1].end,
        logprobs=[entry for piece in pieces for entry in piece.logprobs],
        prompt_logprobs=[entry for piece in pieces for entry in piece.prompt_logprobs],
    )


def delta(tokens: Tokens) -> bytes:
    """Returns the delta of some tokens."""
    if tokens.index or tokens.logprobs or tokens.prompt_logprobs:
        return _whole(tokens)
    # Nearly all are like this, and a message of protobuf's library would take twice as long.
    text, ids = tokens.text.encode(), tokens.token_ids
    written = TEXT + varint(len(text)) + text if text else b""
    if not ids:
        return written
    packed = varint(ids[0]) if len(ids) == 1 else b"".join(map(varint, ids))
    return written + TOKEN_IDS + varint(len(packed)) + packed


def _whole(tokens: Tokens) -> bytes:
    delta = generation_pb2.Delta(
        index=tokens.index,
        text=tokens.text,
        token_ids=tokens.token_ids,
        logprobs=tokens.logprobs,
        prompt_logprobs=tokens.prompt_logprobs,
    )
    return delta.SerializeToString()
