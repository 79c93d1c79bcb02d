"""The public contract of ModelService."""

from typing import Any

from gateway.core.directory import ModelDirectory
from tokenrelay import calls
from tokenrelay.v1 import model_service_pb2, model_service_pb2_grpc


class ModelServicer(model_service_pb2_grpc.ModelServiceServicer):
    """Tells what is served."""

    def __init__(self, directory: ModelDirectory) -> None:
        self._directory = directory

    async def ListModels(
        self, request: model_service_pb2.ListModelsRequest, context: Any
    ) -> model_service_pb2.ListModelsResponse:
        response = model_service_pb2.ListModelsResponse()
        caller = calls.current().caller
        for served, queued in await self._directory.listed(caller):
            model = response.models.add()
            model.CopyFrom(served.model)
            if caller.sees_load:
                model.queued = queued
            else:
                model.ClearField("running")
        return response
