"""GET /v1/models: what is served, as OpenAI lists it."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.core.core import Core
from gateway.http.answer import CALLER
from tokenrelay.identity.callers import Caller, Scope

CREATED = 0  # no one notes when a model began, and clients want a number that is the same from every gateway
OWNER = "tokenrelay"


def routes(core: Core) -> list[Route]:
    async def show(request: Request) -> Response:
        caller: Caller = request.scope[CALLER]
        caller.require(Scope.MODELS)
        names = [served.model.name for served, _ in await core.directory.listed(caller)]
        data = [{"id": name, "object": "model", "created": CREATED, "owned_by": OWNER} for name in names]
        return JSONResponse({"object": "list", "data": data})

    return [Route("/v1/models", show)]
