"""What of this machine decides how the stack's processes are started."""

import os
from dataclasses import dataclass

from deploy.local import redis_server


@dataclass(frozen=True)
class Machine:
    """The machine on which a stack is to run.

    Attributes:
        redis: the path of a Redis or Valkey server; None if there is none.
        cores: the numbers of the cores that its processes may use.
        kv_cache_gib: how much memory vLLM's CPU build may take for its cache.
    """

    redis: str | None
    cores: tuple[int, ...]
    kv_cache_gib: str = "1"

    @classmethod
    def this(cls) -> "Machine":
        """Looks at this machine."""
        return cls(
            redis=next(iter(redis_server.executables().values()), None),
            cores=tuple(sorted(os.sched_getaffinity(0))),
            # The CPU build takes half of the machine's memory if it is not told otherwise.
            kv_cache_gib=os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1"),  # noqa: TID251  # vLLM's own variable
        )
