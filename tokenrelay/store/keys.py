"""Every Redis key and channel: its type, what it holds, and who deletes it.

All keys of one shard begin with `tokenrelay:{shard}:`. The braces are Redis Cluster's hash tag: everything about one
generation, its queue and its idempotency key lies in one slot, so that one script may touch it all.

| key                              | type        | holds                                                     | deleted                |
| -------------------------------- | ----------- | --------------------------------------------------------- | ---------------------- |
| `tokenrelay:{s}:generation:<id>` | hash        | the record; its fields are below                          | expires by retention   |
| `tokenrelay:{s}:log:<id>`        | stream      | the token log: `<sequence>-0` with field `e`, a LogEntry; | expires by retention   |
|                                  |             | last `<sequence>-1` with `t`, a Terminal, and `at`, its µs |                       |
| `tokenrelay:{s}:jobs:<model>`    | stream      | new generations that wait: fields `id`, `n`, for a suspect | entries by finish    |
|                                  |             | `engine_deaths`; group `workers`                          |                        |
| `tokenrelay:{s}:returned:<model>`| stream      | the same for requeued ones, read first                    | entries by finish      |
| `tokenrelay:{s}:dead:<model>`    | stream      | dead letters: fields `id`, `letter`, a DeadLetter         | entries by discard     |
| `tokenrelay:{s}:depth:<model>`   | hash        | `generations` and `bytes` that wait                       | never; it is small     |
| `tokenrelay:{s}:tenant:<t>`      | hash        | what a tenant has open, reserved and left; see accounts.lua | never; it is small   |
| `tokenrelay:{s}:quota:<t>:<key>` | hash        | the same of one of its keys                               | never; it is small     |
| `tokenrelay:{s}:usage:<t>:<day>` | hash        | the ledger: `<key> <model> prompt_tokens` and so on        | expires after 40 days  |
| `tokenrelay:{s}:idempotency:<h>` | string      | the id that an idempotency key, by its hash, stands for   | expires by retention   |
| `tokenrelay:{s}:due`             | sorted set  | ids by the millisecond at which reap must look at them    | members by finish      |
| `tokenrelay:{s}:finished`        | sorted set  | ids by the millisecond of their end, for early dropping   | members by reap        |
| `tokenrelay:{s}:server`          | hash        | `run_id` of Redis, `since` when it is there without a gap, | never; it is small    |
|                                  |             | `seen`, when somebody reaped last                         |                        |
| `tokenrelay:{s}:foreign`         | hash        | keys of ours that held another type, and as what they are  | by reap, when told     |
|                                  |             | kept: `tokenrelay:{s}:foreign:<key>:<µs>`                 |                        |
| `tokenrelay:{registry}:workers`  | hash        | worker id to "milliseconds WorkerAnnouncement"            | fields by announce     |
| `tokenrelay:{registry}:models`   | hash        | model to the same of the worker seen last                 | never; one per model   |

| `tokenrelay:{auth}:key:<id>`     | hash        | an API key: `sha256`, `tenant`, `name`, `scopes`, `models`, limits, | never     |
|                                  |             | `created_us`, `expires_us`, `revoked_us`, its last `change` |                      |
| `tokenrelay:{auth}:tenant:<t>`   | hash        | a tenant: `title`, `suspended`, `models`, limits, and so on | never                |
| `tokenrelay:{auth}:keys:<t>`     | set         | the ids of a tenant's keys                                | never                  |
| `tokenrelay:{auth}:tenants`      | set         | the names of all tenants                                  | never                  |
| `tokenrelay:{auth}:audit`        | stream      | `entry`: JSON of each change, with the SHA-256 of the one before | never           |

| channel                          | carries                                                                               |
| -------------------------------- | ------------------------------------------------------------------------------------- |
| `tokenrelay:feed:<gateway>`      | FeedFrames: new log entries of what this gateway reads;    may lose anything           |
| `tokenrelay:auth`                | `key <id>` or `tenant <name>` whose entry has changed; may be lost                    |
| `tokenrelay:worker:<worker>`     | ids that this worker owns and should renew at once, to learn of a cancel; may be lost |

Fields of a record, instants in milliseconds of Redis' clock unless the name ends in `_us`, microseconds:

| field                               | holds                                                                           |
| ----------------------------------- | ------------------------------------------------------------------------------- |
| `state`                             | number of tokenrelay.v1.GenerationState                                         |
| `tenant`, `key_id`                  | whose it is, and by which API key; absent where there is no authentication      |
| `model`, `n`, `job`, `spec`         | the model; choices; a store Job; the serialized GenerationSpec, dropped at the end |
| `reserved`, `estimate`              | tokens reserved in the tenant's account; those of the prompt, before the engine has counted |
| `size`, `request_hash`              | bytes counted in `depth`; SHA-256 of the request                                |
| `idempotency`                       | hash of the tenant's idempotency key, if there is one                                    |
| `queue`, `entry`                    | where its queue entry is: `jobs` or `returned`, and the entry's id              |
| `last`                              | the last sequence in the log                                                    |
| `epoch`, `fence`, `owner`, `lease`  | attempt number; `epoch:nonce`; the owning worker; until when it owns            |
| `policy`, `grace`, `watchers`       | DisconnectPolicy; its grace in ms; `gateway=until`, `gateway!=until` for the end only |
| `queue_deadline`, `deadline`        | when it expires unless it was claimed; when it expires anywhere                 |
| `cancelled`                         | 1 once somebody has cancelled it; its owner is to end it                        |
| `cancel_at`, `watch`                | when it is to be cancelled unless somebody reads longer; ms of the last reader lease |
| `submitted_us`, `started_us`        | accepted; first claimed                                                         |
| `claimed_us`, `appended_us`         | last claimed; last appended by that attempt                                     |
| `first_us`, `finished_us`           | first token in the log; terminal                                                |
| `history`                           | `claimed,appended,last;` of each attempt before this one: two `_us`, and its last sequence |
| `engine_deaths`                     | how often in a row its engine died before it gave a token; deleted by a token   |
| `fingerprint`                       | the fingerprint of the engine that wrote the log's tokens                       |
| `expires`                           | when the record will be gone                                                    |
"""

import hashlib
import hmac
import secrets
import zlib
from datetime import date

GROUP = "workers"
JOBS = "jobs"
RETURNED = "returned"
REGISTRY_PREFIX = "tokenrelay:{registry}:"
AUTH_PREFIX = "tokenrelay:{auth}:"
AUTH_CHANNEL = "tokenrelay:auth"
AUDIT = f"{AUTH_PREFIX}audit"
TENANTS = f"{AUTH_PREFIX}tenants"


def prefix(shard: int) -> str:
    """Returns what all keys of a shard begin with."""
    return f"tokenrelay:{{{shard}}}:"


def new_generation_id(shard: int) -> str:
    """Returns a new id: the shard, a dash, and 128 random bits in hexadecimal."""
    return f"{shard}-{secrets.token_hex(16)}"


def shard_of(generation_id: str) -> int | None:
    """Returns the shard that an id names, or None if it is no id of ours."""
    shard, dash, random = generation_id.partition("-")
    well_formed = dash and shard.isascii() and shard.isdecimal() and len(shard) <= 4 and len(random) == 32
    return int(shard) if well_formed and set(random) <= set("0123456789abcdef") else None


def shard_of_ours(generation_id: str) -> int:
    """Returns the shard of an id that is known to be ours."""
    return int(generation_id.partition("-")[0])


def shard_of_tenant(tenant: str, shards: int) -> int:
    """Returns the shard of all generations of a tenant, so that one script sees all that it has open."""
    return zlib.crc32(tenant.encode()) % shards


def shard_of_idempotency_key(key_hash: str, shards: int) -> int:
    """Returns the shard of all generations with an idempotency key."""
    return int(key_hash[:8], 16) % shards


def idempotency_hash(key: str, tenant: str) -> str:
    """Returns the name under which a tenant's idempotency key is stored; the key itself may be long or secret.

    Two tenants' names for the same key have nothing in common, or one could join the other's generation by guessing its key.
    """
    if not tenant:
        return hashlib.sha256(key.encode()).hexdigest()
    return hmac.digest(tenant.encode(), key.encode(), "sha256").hex()


def record(generation_id: str, shard: int) -> str:
    return f"{prefix(shard)}generation:{generation_id}"


def log(generation_id: str, shard: int) -> str:
    return f"{prefix(shard)}log:{generation_id}"


def queue(name: str, model: str, shard: int) -> str:
    """Returns the stream of one of a model's two queues, JOBS or RETURNED."""
    return f"{prefix(shard)}{name}:{model}"


def depth(model: str, shard: int) -> str:
    return f"{prefix(shard)}depth:{model}"


def dead(model: str, shard: int) -> str:
    return f"{prefix(shard)}dead:{model}"


def usage(tenant_name: str, day: date, shard: int) -> str:
    """Returns the ledger of one tenant and one day of UTC."""
    return f"{prefix(shard)}usage:{tenant_name}:{day:%Y%m%d}"


def api_key(key_id: str) -> str:
    return f"{AUTH_PREFIX}key:{key_id}"


def tenant(name: str) -> str:
    return f"{AUTH_PREFIX}tenant:{name}"


def keys_of(tenant_name: str) -> str:
    return f"{AUTH_PREFIX}keys:{tenant_name}"


def feed_channel(gateway: str) -> str:
    return f"tokenrelay:feed:{gateway}"


def worker_channel(worker: str) -> str:
    return f"tokenrelay:worker:{worker}"
