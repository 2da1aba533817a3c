"""DirectoryService: what there is to be granted."""

from tickets.hub.v1 import directory_service_pb2, directory_service_pb2_grpc, permissions_pb2

from hub import scopes as table
from hub.api.failures import Context


class DirectoryService(directory_service_pb2_grpc.DirectoryServiceServicer):
    """The contract's DirectoryService."""

    async def ListScopes(  # noqa: N802  the contract's name
        self, request: directory_service_pb2.ListScopesRequest, context: Context
    ) -> directory_service_pb2.ListScopesResponse:
        """The permission table, by scope."""
        del request, context
        return directory_service_pb2.ListScopesResponse(
            scopes=[
                directory_service_pb2.ScopeDescription(
                    scope=permissions_pb2.Scope.ValueType(scope.number),
                    name=scope.name,
                    level=permissions_pb2.SensitivityLevel.ValueType(scope.level),
                    title=scope.title,
                    description=scope.description,
                    fields=table.fields_of(scope.number),
                )
                for scope in table.SCOPES.values()
            ]
        )
