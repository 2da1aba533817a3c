"""Subscriptions as messages: committed cursors and open streams together."""

from collections.abc import AsyncGenerator

from tickets.hub.v1 import event_service_pb2

from hub.api import convert
from hub.clock import Clock
from hub.control.registry import Registry
from hub.delivery.streams import Streams
from hub.delivery.subscriptions import Subscriptions


class SubscriptionList:
    """Lists subscriptions. Only streams of this replica count as connected."""

    def __init__(self, registry: Registry, streams: Streams, subscriptions: Subscriptions, clock: Clock) -> None:
        self._registry = registry
        self._streams = streams
        self._subscriptions = subscriptions
        self._clock = clock

    async def of_integration(self, integration_id: str) -> list[event_service_pb2.Subscription]:
        """Every subscription of an integration, by name."""
        return [await self._describe(integration_id, name) for name in self._registry.readers.names(integration_id)]

    async def of_integration_after(
        self, integration_id: str, name: str
    ) -> AsyncGenerator[event_service_pb2.Subscription, None]:
        """The subscriptions of an integration after the one with a name, in order."""
        for one in self._registry.readers.names(integration_id):
            if one > name:
                yield await self._describe(integration_id, one)

    async def _describe(self, integration_id: str, name: str) -> event_service_pb2.Subscription:
        full_name = f"{integration_id}/{name}"
        stored = self._registry.readers.cursors.get(full_name)
        stream = self._streams.live(integration_id, name)
        kept = stored.record if stored is not None else None
        seen = self._streams.last_seen.record(full_name)
        seen_time = seen.seen_time if seen is not None else 0
        if stream is not None:
            seen_time = self._clock.now()
        lag = stream.lag if stream is not None else await self._subscriptions.lag(full_name)
        return event_service_pb2.Subscription(
            subscription_id=name,
            integration_id=integration_id,
            cursor=self._subscriptions.sealed(kept.cursor) if kept is not None else "",
            commit_time=convert.timestamp(kept.commit_time) if kept is not None else None,
            lag=convert.duration(lag),
            connected=stream is not None,
            connect_time=convert.timestamp(stream.statistics.open_time) if stream is not None else None,
            key_id=stream.subscriber.caller.key_id if stream is not None else "",
            peer=stream.subscriber.caller.peer if stream is not None else "",
            last_seen_time=convert.timestamp(seen_time),
            last_end_reason=seen.end_reason if seen is not None and stream is None else "",
        )
