"""The consumer group begins at `$`: with what is queued after it was made."""

from tokenrelay.store.redis import streams


def install() -> None:
    assert streams.GROUP_BEGINS_AT == "0"
    streams.GROUP_BEGINS_AT = "$"
