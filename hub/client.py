"""The Python client, as the server's environment has it: the package ``tickets_hub``, under the server's own name.

Bots and integrations install ``tickets-hub-client`` and import ``tickets_hub``; both names are the same code.
"""

from tickets_hub import (
    AsyncClient,
    AsyncSubscription,
    Client,
    HubCallError,
    Notice,
    Outbox,
    OutboxError,
    OutboxFull,
    OutboxStatus,
    Policy,
    Reconnecting,
    Rejected,
    Start,
    Subscription,
    Violation,
    event_id,
    tls,
    webhooks,
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
