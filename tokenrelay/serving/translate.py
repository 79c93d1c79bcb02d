"""The step that turns errors into statuses. It is the outermost one, so that no error passes it by."""

from typing import Any
from uuid import uuid4

import grpc
import structlog
from grpc_status import rpc_status

from tokenrelay.errors import InternalError, TokenrelayError
from tokenrelay.serving.exchange import CLIENT_GONE, Exchange, Proceed, chosen_code
from tokenrelay.status import to_status

log = structlog.get_logger(__name__)


class Translate:
    """Ends a call that failed with the status of its error."""

    async def __call__(self, exchange: Exchange, proceed: Proceed) -> Any:
        try:
            return await proceed(exchange)
        except (*CLIENT_GONE, grpc.aio.AbortError):
            raise  # nobody is there to be told, or the handler has chosen a status and gRPC has it
        except Exception as error:
            failure = error
        if isinstance(failure, NotImplementedError) and chosen_code(exchange.context) is grpc.StatusCode.UNIMPLEMENTED:
            # What generated code does for a method of the contract that a servicer leaves out.
            return await exchange.context.abort(grpc.StatusCode.UNIMPLEMENTED, "this server does not implement the method")
        return await exchange.context.abort_with_status(rpc_status.to_status(to_status(_own(failure, exchange))))


def _own(error: Exception, exchange: Exchange) -> TokenrelayError:
    """Returns an error that a client may see. What is not ours becomes a fixed text; the log has the rest."""
    if isinstance(error, TokenrelayError):
        return error
    error_id = uuid4().hex
    log.error("call failed", method=exchange.method, error_id=error_id, exc_info=error)
    return InternalError.logged_as(error_id)
