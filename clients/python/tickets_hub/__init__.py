"""The Python client of the Tickets integration hub, for bots and integrations.

``Client`` is for threads, ``AsyncClient`` for asyncio; both do the same::

    from tickets_hub import Client, Start

    with Client("127.0.0.1:50051", key) as hub:
        for event in hub.subscribe(start=Start.earliest()):
            print(event)

This package imports the generated contract and gRPC only, never the rest of the hub. Importing it makes the contract's
messages print without the secrets of keys.
"""

from tickets_hub import webhooks
from tickets_hub.aio_client import AsyncClient
from tickets_hub.aio_subscription import AsyncSubscription
from tickets_hub.failure import HubCallError, Violation
from tickets_hub.outbox import Outbox, OutboxError, OutboxFull, OutboxStatus, Rejected
from tickets_hub.redaction import redact_secrets
from tickets_hub.requests import Start, event_id
from tickets_hub.session import Notice, Policy, Reconnecting
from tickets_hub.sync_client import Client
from tickets_hub.sync_subscription import Subscription
from tickets_hub.transport import tls
from tickets_hub.v1 import (
    admin_service_pb2,
    developer_service_pb2,
    directory_service_pb2,
    integration_pb2,
    webhook_service_pb2,
)

__all__ = [
    "AsyncClient",
    "AsyncSubscription",
    "Client",
    "HubCallError",
    "Notice",
    "Outbox",
    "OutboxError",
    "OutboxFull",
    "OutboxStatus",
    "Policy",
    "Reconnecting",
    "Rejected",
    "Start",
    "Subscription",
    "Violation",
    "event_id",
    "tls",
    "webhooks",
]

redact_secrets((integration_pb2, admin_service_pb2, developer_service_pb2, directory_service_pb2, webhook_service_pb2))
