"""A caller: for which tenant somebody calls, with which key, and what that allows."""

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

from tokenrelay.errors import PermissionDeniedError
from tokenrelay.identity.quotas import UNLIMITED, Quota

NO_TENANT = ""  # that of every caller where there is no authentication, and of what was stored before there was one


class Scope(Enum):
    """What a key may do."""

    GENERATE = "generate"  # new generations
    READ = "read"  # those that are there: get, attach
    CANCEL = "cancel"
    SESSIONS = "sessions"
    MODELS = "models"  # which models there are, and the contract by reflection
    TRACE = "trace"  # whether its spans join the caller's own trace
    ADMIN_KEYS = "admin:keys"
    ADMIN_TENANTS = "admin:tenants"
    ADMIN_READ = "admin:read"


USUAL_SCOPES = frozenset({Scope.GENERATE, Scope.READ, Scope.CANCEL, Scope.SESSIONS, Scope.MODELS})
ADMIN_SCOPES = frozenset({Scope.ADMIN_KEYS, Scope.ADMIN_TENANTS, Scope.ADMIN_READ})


@dataclass(frozen=True)
class Caller:
    """Who calls.

    Attributes:
        tenant: whose generations it sees, and makes.
        key_id: the key that it has shown; empty without one.
        scopes: what it may do.
        models: the names of the models that it may use; None: all.
        tenant_quota, key_quota: what both may use.
    """

    tenant: str
    key_id: str
    scopes: Collection[Scope]
    models: Collection[str] | None = None
    tenant_quota: Quota = UNLIMITED
    key_quota: Quota = UNLIMITED

    def require(self, scope: Scope) -> None:
        """Raises PermissionDeniedError if the caller may not do something."""
        if scope not in self.scopes:
            raise PermissionDeniedError(f"the key lacks the scope {scope.value!r}")

    @property
    def sees_load(self) -> bool:
        """Whether it may know how much waits and runs, which tells of other tenants."""
        return Scope.ADMIN_READ in self.scopes

    def may_use(self, model: str) -> bool:
        """Tells whether it may use a model, and may know that it is there."""
        return self.models is None or model in self.models


EVERYBODY = Caller(NO_TENANT, "", frozenset(Scope))
"""Who calls where there is no authentication."""
