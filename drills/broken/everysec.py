"""A Redis that answers before anything is on disk, and asks for that once a second."""

from collections.abc import Sequence


def command(sound: Sequence[str]) -> list[str]:
    """Returns the command of such a Redis, made of a sound one's."""
    changed = list(sound)
    value = changed.index("--appendfsync") + 1
    assert changed[value] == "always"
    changed[value] = "everysec"
    return changed
