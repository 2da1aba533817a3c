"""Subscriptions as callers see them: what was committed, and who is connected, from two rooms put together."""

from tickets.hub.v1 import event_service_pb2

from hub.api import convert
from hub.control.registry import Registry
from hub.delivery.streams import Streams
from hub.delivery.subscriptions import Subscriptions


class SubscriptionList:
    """Shows subscriptions; who is connected is known for this replica only."""

    def __init__(self, registry: Registry, streams: Streams, subscriptions: Subscriptions) -> None:
        self._registry = registry
        self._streams = streams
        self._subscriptions = subscriptions

    async def of_integration(self, integration_id: str) -> list[event_service_pb2.Subscription]:
        """Every subscription of an integration, by name."""
        return [await self._shown(integration_id, name) for name in self._registry.subscriptions(integration_id)]

    async def after(self, place: tuple[str, str], limit: int) -> list[event_service_pb2.Subscription]:
        """Up to `limit` subscriptions of all integrations after a place (integration, name), in that order."""
        found: list[event_service_pb2.Subscription] = []
        for integration_id in sorted(self._registry.integrations):
            if integration_id < place[0]:
                continue
            names = self._registry.subscriptions(integration_id)
            found += [await self._shown(integration_id, name) for name in names if (integration_id, name) > place]
            if len(found) >= limit:
                break
        return found[:limit]

    async def _shown(self, integration_id: str, name: str) -> event_service_pb2.Subscription:
        held = self._registry.cursors.get(f"{integration_id}/{name}")
        stream = self._streams.live(integration_id, name)
        kept = held.record if held is not None else None
        lag = stream.lag if stream is not None else await self._subscriptions.lag(kept) if kept is not None else 0.0
        return event_service_pb2.Subscription(
            subscription_id=name,
            integration_id=integration_id,
            cursor=self._subscriptions.cursor(kept) if kept is not None else "",
            commit_time=convert.timestamp(kept.commit_time) if kept is not None else None,
            lag=convert.duration(lag),
            connected=stream is not None,
            connect_time=convert.timestamp(stream.open_time) if stream is not None else None,
            key_id=stream.caller.key_id if stream is not None else "",
            peer=stream.caller.peer if stream is not None else "",
        )
