"""Calls to the hub, and what people read where one fails."""

import logging
import math
from typing import TypeVar

import grpc
from google.protobuf.message import Message
from tickets_hub import AsyncClient, HubCallError
from tickets_hub.transport import failure_of
from tickets_hub.v1.developer_service_pb2_grpc import DeveloperServiceStub
from tickets_hub.v1.directory_service_pb2 import ListScopesRequest, ScopeDescription
from tickets_hub.v1.directory_service_pb2_grpc import DirectoryServiceStub
from tickets_hub.v1.privacy_service_pb2_grpc import PrivacyServiceStub
from tickets_hub.v1.webhook_service_pb2_grpc import WebhookServiceStub

from .texts import plain

Request = TypeVar("Request", bound=Message)
Answer = TypeVar("Answer", bound=Message)

logger = logging.getLogger(__name__)

PATIENCE = 10.0
"""Seconds that somebody who waits in Discord is willing to wait."""


class Hub:
    """The hub's services, called with the bot's key."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self.directory = DirectoryServiceStub(client.channel)
        self.developers = DeveloperServiceStub(client.channel)
        self.privacy = PrivacyServiceStub(client.channel)
        self.webhooks = WebhookServiceStub(client.channel)

    async def call(
        self,
        method: "grpc.aio.UnaryUnaryMultiCallable[Request, Answer]",
        request: Request,
        seconds: float = PATIENCE,
    ) -> Answer:
        """Call a method once.

        Raises:
            HubCallError: the hub refused, or is not there.
        """
        try:
            return await method(request, timeout=seconds, metadata=self._client.metadata)
        except grpc.aio.AioRpcError as error:
            failure = failure_of(error)
        if not failure.reason or failure.code in ("UNAUTHENTICATED", "INTERNAL"):
            logger.error("a call to the hub failed: %s", failure)  # nothing that the person who asked can mend
        raise failure

    async def scopes(self) -> dict[int, ScopeDescription]:
        """What each scope delivers, and how sensitive that is, in the hub's own words."""
        answer = await self.call(self.directory.ListScopes, ListScopesRequest())
        return {scope.scope: scope for scope in answer.scopes}


def explanation(failure: HubCallError) -> str:
    """Why the hub did not do what somebody asked for."""
    if not failure.reason:  # gRPC's own words, which name addresses
        return "The hub of Tickets cannot be reached at the moment. Try again in a minute."
    if failure.code == "UNAUTHENTICATED":
        return f"The hub of Tickets does not accept this bot's key: its maintainers have to look. (`{failure.reason}`)"
    again = "" if failure.retry_after is None else f" Try again in {math.ceil(failure.retry_after)} s."
    return f"The hub of Tickets says: {plain(failure.message)}.{again} (`{failure.reason}`)"
