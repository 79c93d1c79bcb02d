"""Server reflection, so that grpcurl and buf curl can ask for the contract: v1, and v1alpha for older tools.

grpcio-reflection has v1alpha alone. The two differ in nothing but the package's name, so v1 is served by the same code,
and its file is made of v1alpha's.
"""

from collections.abc import Sequence
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from google.protobuf.descriptor import FileDescriptor
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

OLD, NEW = "v1alpha", "v1"
V1_SERVICE = "grpc.reflection.v1.ServerReflection"


def add_to_server(services: Sequence[str], server: Any) -> None:
    """Serves the contract of some services, and reflection's own, under both of reflection's names."""
    names = (*services, reflection.SERVICE_NAME, V1_SERVICE)
    pool = _pool(names[:-1])
    # Not enable_server_reflection, which gives its blocking servicer to every server that is not grpc.aio's own.
    servicer = reflection.aio.ReflectionServicer(names, pool=pool)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)
    handlers = {
        "ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(
            servicer.ServerReflectionInfo,
            request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
            response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
    }
    # Both, as generated code does: only what is registered is called by its own name (see tokenrelay.serving.server).
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(V1_SERVICE, handlers),))
    server.add_registered_method_handlers(V1_SERVICE, handlers)


def _pool(services: Sequence[str]) -> descriptor_pool.DescriptorPool:
    """Returns the files of some services, of v1, and of errors' details.

    A pool of its own, since v1's file in the process' pool would clash with that of a library that brings it too.
    """
    pool, known = descriptor_pool.DescriptorPool(), descriptor_pool.Default()
    added: set[str] = set()
    for service in services:
        _add(known.FindFileContainingSymbol(service), pool, added)
    # No service names the details of its errors, and without their file grpcurl shows them as bytes.
    _add(error_details_pb2.DESCRIPTOR, pool, added)
    pool.AddSerializedFile(_file_of_v1().SerializeToString())
    return pool


def _add(file: FileDescriptor, pool: descriptor_pool.DescriptorPool, added: set[str]) -> None:
    """Adds a file after those that it depends on."""
    if file.name in added:
        return
    added.add(file.name)
    for dependency in file.dependencies:
        _add(dependency, pool, added)
    pool.AddSerializedFile(file.serialized_pb)


def _file_of_v1() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    text = text_format.MessageToString(file)
    for separator in "./":
        text = text.replace(f"reflection{separator}{OLD}", f"reflection{separator}{NEW}")
    return text_format.Parse(text, descriptor_pb2.FileDescriptorProto())
