"""What a bot and an integration use to talk to the hub, in Python.

``Client`` is for threads, ``hub.client.aio.AsyncClient`` for asyncio; both do the same::

    from hub.client import Client, Start

    with Client("127.0.0.1:50051", key) as hub:
        for event in hub.subscribe(start=Start.earliest()):
            print(event)

This package imports the generated contract and gRPC only, never the rest of the hub.
"""

from hub.client.failure import HubCallError, Violation
from hub.client.requests import Start, event_id
from hub.client.session import Notice, Policy, Reconnecting
from hub.client.subscription import Subscription
from hub.client.sync import Client
from hub.client.transport import tls

__all__ = [
    "Client",
    "HubCallError",
    "Notice",
    "Policy",
    "Reconnecting",
    "Start",
    "Subscription",
    "Violation",
    "event_id",
    "tls",
]
