"""GET /healthz: whether this gateway should get requests, for load balancers that do not ask by gRPC."""

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from gateway.core.core import Core

PATH = "/healthz"


def routes(core: Core) -> list[Route]:
    async def show(_: Request) -> Response:
        problem = core.problem()
        # The words are those of /healthz beside the metrics.
        return PlainTextResponse(f"{problem or 'ok'}\n", status_code=503 if problem else 200)

    return [Route(PATH, show)]
