"""The public contract of ModelService."""

from typing import Any

from gateway.core.directory import ModelDirectory
from tokenrelay.v1 import model_service_pb2, model_service_pb2_grpc


class ModelServicer(model_service_pb2_grpc.ModelServiceServicer):
    """Tells what is served."""

    def __init__(self, directory: ModelDirectory) -> None:
        self._directory = directory

    async def ListModels(
        self, request: model_service_pb2.ListModelsRequest, context: Any
    ) -> model_service_pb2.ListModelsResponse:
        response = model_service_pb2.ListModelsResponse()
        for served, queued in await self._directory.listed():
            model = response.models.add()
            model.CopyFrom(served.model)
            model.queued = queued
        return response
