"""What a stream says beside events, in the contract's messages, as ready fields of a frame."""

from collections.abc import Iterable

from tickets.hub.v1 import event_service_pb2, permissions_pb2

from hub import scopes as table
from hub.api import convert
from hub.config import Settings
from hub.control.registry import Registry
from hub.delivery.stream import Stream


class StreamNotices:
    """Implements ``delivery.stream.Notices``."""

    def __init__(self, registry: Registry, settings: Settings) -> None:
        self._registry = registry
        self._settings = settings

    def ready(self, stream: Stream) -> bytes:
        """The stream is open; what it will be like."""
        key = self._registry.require_live(stream.caller.key_id)
        ready = event_service_pb2.Ready(
            effective_scopes=_scopes(stream.scopes),
            withheld_fields=table.withheld_fields(stream.scopes),
            heartbeat_interval=convert.duration(stream.asked.heartbeat),
            retention=convert.duration(self._settings.retention),
            key_id=key.key_id,
            key_expire_time=convert.timestamp(key.expire_time),
        )
        return event_service_pb2.SubscribeResponse(ready=ready).SerializeToString()

    def heartbeat(self, stream: Stream, lag: float, *, caught_up: bool) -> bytes:
        """Nothing to see."""
        key = self._registry.require_live(stream.caller.key_id)
        heartbeat = event_service_pb2.Heartbeat(
            caught_up=caught_up, lag=convert.duration(lag), key_expire_time=convert.timestamp(key.expire_time)
        )
        return event_service_pb2.SubscribeResponse(heartbeat=heartbeat).SerializeToString()

    def grants_changed(self, added: Iterable[int], removed: Iterable[int], reason: str) -> bytes:
        """Other scopes from here on."""
        changed = event_service_pb2.GrantsChanged(added=_scopes(added), removed=_scopes(removed), reason=reason)
        return event_service_pb2.SubscribeResponse(grants_changed=changed).SerializeToString()

    def gap(self, from_time: int, to_time: int, *, restored: bool) -> bytes:
        """Something is missing here."""
        cause = event_service_pb2.GAP_CAUSE_RESTORE if restored else event_service_pb2.GAP_CAUSE_RETENTION
        gap = event_service_pb2.Gap(
            from_time=convert.timestamp(from_time), to_time=convert.timestamp(to_time), cause=cause
        )
        return event_service_pb2.SubscribeResponse(gap=gap).SerializeToString()

    def goodbye(self, reason: str, retry_delay: float) -> bytes:
        """The hub is about to end the stream."""
        goodbye = event_service_pb2.Goodbye(reason=reason, reconnect=True, retry_delay=convert.duration(retry_delay))
        return event_service_pb2.SubscribeResponse(goodbye=goodbye).SerializeToString()


def _scopes(numbers: Iterable[int]) -> list[permissions_pb2.Scope.ValueType]:
    return [permissions_pb2.Scope.ValueType(number) for number in sorted(numbers)]
