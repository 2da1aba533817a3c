"""Server reflection, v1 and v1alpha, so that grpcurl works without proto files."""

from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from grpc_reflection.v1alpha import _async as reflection_async
from grpc_reflection.v1alpha import reflection_pb2

from hub.api.status import Context
from hub.permissions import SERVICES

HEALTH = "grpc.health.v1.Health"
REFLECTION = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
"""Both versions have the same messages; the library knows the older name only."""


class Symbols:
    """The default pool of descriptors, which also finds the file of ``<package>.<service>.<method>``."""

    def __init__(self) -> None:
        self._pool = descriptor_pool.Default()

    def __getattr__(self, name: str) -> object:
        """Delegate everything else to the pool."""
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:  # noqa: N802  the pool's name
        """The file that defines a symbol.

        Raises:
            KeyError: none does.
        """
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            service, _, method = symbol.rpartition(".")
            return self._pool.FindServiceByName(service).methods_by_name[method].containing_service.file


def add_reflection(server: grpc.aio.Server) -> None:
    """Serve reflection, v1 and v1alpha."""
    names = [service.full_name for service in SERVICES] + [HEALTH, *REFLECTION]
    servicer = reflection_async.ReflectionServicer(names, pool=Symbols())

    async def answer(requests: Any, context: Context) -> None:  # noqa: ANN401  messages of the library
        async for response in servicer.ServerReflectionInfo(requests, context):
            await context.write(response)

    behaviour: Any = answer
    handler = grpc.stream_stream_rpc_method_handler(
        behaviour,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    for name in REFLECTION:
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler}),)
        )
