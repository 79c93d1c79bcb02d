"""The ASGI application of everything that is HTTP and not gRPC: finds the resource, and says what is wrong.

Paths are routed by Starlette's router, which was chosen because it is plain ASGI, small, and what vLLM's own server runs on;
nothing else of Starlette stands between a resource and its client.
"""

from uuid import uuid4

import structlog
from starlette.exceptions import HTTPException
from starlette.routing import Router

from gateway.core.core import Core
from gateway.http import errors, health, models
from gateway.http.answer import CALLER, Answer, ClientLeftError, Receive, Scope, Send
from gateway.http.errors import HttpError
from tokenrelay.errors import InternalError, TokenrelayError
from tokenrelay.header_limits import HeaderLimits
from tokenrelay.identity.callers import EVERYBODY

log = structlog.get_logger(__name__)

OPTIONS = "OPTIONS"


class HttpApplication:
    """Answers one request at a call.

    Args:
        core: what the resources stand on.
        max_body_bytes: the largest request.
        header_limits: the bound on its headers.
    """

    def __init__(self, core: Core, max_body_bytes: int, header_limits: HeaderLimits) -> None:
        self._header_limits = header_limits
        self._max_body_bytes = max_body_bytes
        self._authentication = core.authentication
        routes = [*health.routes(core), *models.routes(core)]
        self._router = Router(routes, redirect_slashes=False, default=_nothing_there)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves an ASGI scope of HTTP; also errors of the resources are answered here."""
        answer = Answer(scope, receive, send)
        try:
            self._check_size(scope)
            # With this key a route raises where a method is not allowed; without, it answers in plain text.
            scope["app"] = self
            await self._serve(scope, answer)
        except ClientLeftError:
            log.debug("the client left while it was answered", path=scope["path"])
        except HTTPException as error:
            await _tell_methods(scope, answer, (error.headers or {}).get("Allow", ""))
        except Exception as error:
            if answer.is_begun:
                raise  # what has begun is cut off, so that nobody takes it for whole
            await answer.refuse(_told(error, scope))

    async def _serve(self, scope: Scope, answer: Answer) -> None:
        """Finds out who calls before anything is looked for, so that strangers do not learn which paths there are."""
        if self._authentication is None or scope["path"] == health.PATH:
            scope[CALLER] = EVERYBODY
            await self._router(scope, answer.receive, answer.send)
            return
        caller = scope[CALLER] = await self._authentication.caller(_authorization(scope))
        with self._authentication.opened(caller):
            await self._router(scope, answer.receive, answer.send)

    def _check_size(self, scope: Scope) -> None:
        self._header_limits.check(scope["headers"])
        # Envoy counts what comes without a length.
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if int(length) > self._max_body_bytes:
            raise errors.too_large(self._max_body_bytes)


def _authorization(scope: Scope) -> str | None:
    """Returns the header of that name; None if there is none, or more than one."""
    found = [value for name, value in scope["headers"] if name == b"authorization"]
    return found[0].decode("latin-1") if len(found) == 1 else None


async def _nothing_there(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001  # ASGI's signature
    raise errors.not_found()


async def _tell_methods(scope: Scope, answer: Answer, of_route: str) -> None:
    """Answers a method that a path has not, among them OPTIONS, which is how to ask for those that it has."""
    allow = ", ".join(sorted({OPTIONS, *of_route.split(", ")}))
    if scope["method"] == OPTIONS:
        await answer.whole(204, b"", {"allow": allow})
    else:
        await answer.refuse(errors.method_not_allowed(allow))


def _told(error: Exception, scope: Scope) -> HttpError:
    """Returns an error that a client may see. What is not ours becomes a fixed text; the log has the rest."""
    if isinstance(error, HttpError):
        return error
    if not isinstance(error, TokenrelayError):
        error_id = uuid4().hex
        log.error("request failed", path=scope["path"], error_id=error_id, exc_info=error)
        error = InternalError.logged_as(error_id)
    return errors.of(error)
