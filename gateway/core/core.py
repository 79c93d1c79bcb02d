"""The core as one object: what the protocols of a gateway stand on."""

from collections.abc import Callable
from dataclasses import dataclass

from gateway.core.authentication import KeyAuthentication
from gateway.core.directory import ModelDirectory


@dataclass(frozen=True)
class Core:
    """What a protocol is given at its start; it adds its own way to say things, and nothing else.

    Attributes:
        directory: the models.
        authentication: finds out who calls; None: everybody may.
        problem: says in a few words why this gateway should get no calls now; None: it should.
    """

    directory: ModelDirectory
    authentication: KeyAuthentication | None
    problem: Callable[[], str | None]
