"""Opens the store as the settings say; what gateways and workers have in common."""

from dataclasses import dataclass
from functools import partial

from tokenrelay.settings import StoreSettings
from tokenrelay.store import redis_users
from tokenrelay.store.attempts import Attempts
from tokenrelay.store.generations import Generations
from tokenrelay.store.log import TokenLog
from tokenrelay.store.queue import Queue
from tokenrelay.store.redis.connection import RedisConnection
from tokenrelay.store.redis_users import RedisUser
from tokenrelay.store.scripting import Scripts
from tokenrelay.store.shards import Shards
from tokenrelay.store.values import StoreLimits


@dataclass(frozen=True)
class Store:
    """The store's parts over one connection. Only a composition root has all of it; others take the parts that they need.

    Attributes:
        generations: the gateway's part, a GatewayStore.
        attempts: the worker's part, a WorkerStore.
    """

    connection: RedisConnection
    limits: StoreLimits
    scripts: Scripts
    log: TokenLog
    queue: Queue
    generations: Generations
    attempts: Attempts

    @property
    def shards(self) -> Shards:
        return self.scripts.shards


def open_store(settings: StoreSettings, user: RedisUser) -> Store:
    """Returns a store whose connection the caller closes.

    Args:
        settings: where it is, and its limits.
        user: the kind of process that this is, whose commands Redis must allow.
    """
    limits = StoreLimits(
        retention_ms=round(settings.retention_seconds * 1000),
        lease_ms=round(settings.lease_seconds * 1000),
        queued_generations=settings.queue_generations,
        queued_bytes=settings.queue_bytes,
        accept_below=settings.memory_accept_below,
        drop_above=settings.memory_drop_above,
    )
    connection = RedisConnection(
        settings.redis_url,
        patience=settings.redis_patience_seconds,
        password_file=settings.redis_password_file,
        sends=partial(redis_users.may_send, user, settings.redis_url),
    )
    return assemble(connection, limits, settings.shards)


def assemble(connection: RedisConnection, limits: StoreLimits, shards: int = 1) -> Store:
    """Puts the store's parts on a connection."""
    scripts = Scripts(connection, Shards(shards))
    return Store(
        connection=connection,
        limits=limits,
        scripts=scripts,
        log=TokenLog(connection, scripts.shards),
        queue=Queue(connection, scripts, limits.retention_ms),
        generations=Generations(scripts, limits),
        attempts=Attempts(scripts, limits),
    )
