"""The gRPC server: built, bound to its address, given its services, started and drained."""

from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc
from tickets.hub.v1 import (
    admin_service_pb2_grpc,
    developer_service_pb2_grpc,
    directory_service_pb2_grpc,
    event_service_pb2,
    event_service_pb2_grpc,
    privacy_service_pb2_grpc,
    webhook_service_pb2_grpc,
)

from hub.api.descriptors import Connections
from hub.api.gate import Gate
from hub.api.grpc_core import Transport, transport_options
from hub.api.guards import Guards
from hub.api.health import Health
from hub.api.json_calls import Answer, JsonCalls
from hub.api.reflection import add_reflection
from hub.api.services.admin import AdminService
from hub.api.services.developer import DeveloperService
from hub.api.services.directory import DirectoryService
from hub.api.services.events import EventService
from hub.api.services.privacy import PrivacyService
from hub.api.services.webhook_calls import WebhookService
from hub.api.status import Handler
from hub.api.tls import NOT_TAKEN, Certificates, why_not_listening
from hub.api.validation import learn_rules
from hub.clock import Clock
from hub.config import Settings
from hub.control.registry import Registry
from hub.delivery.streams import Streams
from hub.errors import StartError
from hub.permissions import SERVICES, roles_allowed


class Server:
    """The gRPC server of a hub.

    Attributes:
        certificates: what it serves TLS with.
        connections: how many there may be.
        health: the health service.
        guards: the checks of calls.
    """

    def __init__(self, registry: Registry, settings: Settings, clock: Clock) -> None:
        roles = {path: allowed for service in SERVICES for path, allowed in roles_allowed(service).items()}
        learn_rules(SERVICES)
        self.certificates = Certificates(settings, clock)
        self.connections = Connections(settings)
        self.health = Health(settings.max_store_silence)
        self.guards = Guards(registry, settings, clock)
        options = [*transport_options(settings), self.connections.option]
        self._server = grpc.aio.server(interceptors=(Gate(self.guards, roles, settings),), options=options)
        health_pb2_grpc.add_HealthServicer_to_server(self.health.servicer, self._server)
        add_reflection(self._server)
        self._transport = Transport(self._server)
        self._settings = settings

    def bind(self, listen: str) -> int:
        """Bind the listening address; returns the port.

        Raises:
            StartError: the address cannot be bound.
        """
        try:
            if self.certificates.is_used:
                return self._server.add_secure_port(listen, self.certificates.credentials())
            return self._server.add_insecure_port(listen)
        except RuntimeError:
            why = why_not_listening(listen) or NOT_TAKEN
            raise StartError(f"cannot listen on {listen}: {why}") from None

    def add_services(  # noqa: PLR0913  one for each service
        self,
        events: EventService,
        admin: AdminService,
        developer: DeveloperService,
        directory: DirectoryService,
        privacy: PrivacyService,
        webhooks: WebhookService,
    ) -> None:
        """Register the services of the contract; before `start`."""
        _add_event_service(self._server, events)
        admin_service_pb2_grpc.add_AdminServiceServicer_to_server(admin, self._server)
        developer_service_pb2_grpc.add_DeveloperServiceServicer_to_server(developer, self._server)
        directory_service_pb2_grpc.add_DirectoryServiceServicer_to_server(directory, self._server)
        privacy_service_pb2_grpc.add_PrivacyServiceServicer_to_server(privacy, self._server)
        webhook_service_pb2_grpc.add_WebhookServiceServicer_to_server(webhooks, self._server)

    def json_calls(self, admin: AdminService, directory: DirectoryService) -> JsonCalls:
        """The methods that the console calls."""
        answers: dict[str, Answer] = {
            "AdminService/WatchHub": admin.status,
            "AdminService/GetIntegration": admin.GetIntegration,
            "AdminService/ListIntegrations": admin.ListIntegrations,
            "AdminService/ApproveIntegration": admin.ApproveIntegration,
            "AdminService/RejectIntegration": admin.RejectIntegration,
            "AdminService/SuspendIntegration": admin.SuspendIntegration,
            "AdminService/ResumeIntegration": admin.ResumeIntegration,
            "AdminService/GetPrivilegeReport": admin.GetPrivilegeReport,
            "AdminService/ListAuditEntries": admin.ListAuditEntries,
            "DirectoryService/ListScopes": directory.ListScopes,
        }
        return JsonCalls(self.guards, self._settings.max_request_bytes, answers)

    async def start(self) -> None:
        """Begin to serve."""
        await self._transport.start()
        self.health.begin()

    async def serve(self) -> None:
        """Serve until `drain`; fails when gRPC's serving task ends before that."""
        await self._transport.watch()

    async def drain(self, streams: Streams, time_limit: float) -> None:
        """Refuse new calls and end those that have begun; gRPC drops calls that come while it stops, so it is last."""
        self.guards.drain.begin()
        self.health.shut_down()
        await streams.drain(time_limit * 0.6)
        await self.guards.drain.wait(time_limit * 0.3)
        await self._transport.stop(time_limit * 0.1)


def _add_event_service(server: grpc.aio.Server, service: EventService) -> None:
    """Register EventService; Subscribe writes ready bytes, so its responses are not serialised again."""
    behaviour: Any = service.Subscribe  # a coroutine that writes, as grpc.aio allows
    subscribe: Handler = grpc.unary_stream_rpc_method_handler(
        behaviour,
        request_deserializer=event_service_pb2.SubscribeRequest.FromString,
        response_serializer=None,
    )
    # The first handler that knows a method serves it, so ours goes before the generated ones.
    name = event_service_pb2.DESCRIPTOR.services_by_name["EventService"].full_name
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {"Subscribe": subscribe}),))
    event_service_pb2_grpc.add_EventServiceServicer_to_server(service, server)
