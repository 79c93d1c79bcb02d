"""Opens the store as the settings say; what gateways and workers have in common."""

from tokenrelay.settings import StoreSettings
from tokenrelay.store.generations import GenerationStore
from tokenrelay.store.redis.connection import RedisConnection
from tokenrelay.store.values import StoreLimits


def open_store(settings: StoreSettings) -> GenerationStore:
    """Returns a store whose connection the caller closes."""
    limits = StoreLimits(
        retention_ms=round(settings.retention_seconds * 1000),
        lease_ms=round(settings.lease_seconds * 1000),
        queued_generations=settings.queue_generations,
        queued_bytes=settings.queue_bytes,
        accept_below=settings.memory_accept_below,
        drop_above=settings.memory_drop_above,
    )
    connection = RedisConnection(settings.redis_url, patience=settings.redis_patience_seconds)
    return GenerationStore(connection, limits, settings.shards)
