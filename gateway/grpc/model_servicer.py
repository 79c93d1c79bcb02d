"""The public contract of ModelService."""

from typing import Any

from gateway.core.directory import ModelDirectory
from tokenrelay.errors import StoreUnavailableError
from tokenrelay.v1 import model_service_pb2, model_service_pb2_grpc


class ModelServicer(model_service_pb2_grpc.ModelServiceServicer):
    """Tells what is served."""

    def __init__(self, directory: ModelDirectory) -> None:
        self._directory = directory

    async def ListModels(
        self, request: model_service_pb2.ListModelsRequest, context: Any
    ) -> model_service_pb2.ListModelsResponse:
        await self._directory.refresh()
        if not self._directory.store_answers:
            raise StoreUnavailableError("Redis cannot be reached", retry_after=1.0)
        response = model_service_pb2.ListModelsResponse()
        for served, queued in self._directory.available():
            model = response.models.add()
            model.CopyFrom(served.model)
            model.queued = queued
        return response
