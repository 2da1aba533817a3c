"""The notices of a stream, built from the contract's messages, as serialised fields of a frame."""

from collections.abc import Iterable

from google.protobuf.timestamp_pb2 import Timestamp
from tickets.hub.v1 import event_service_pb2, permissions_pb2

from hub import permissions as table
from hub.api import convert
from hub.config import Settings
from hub.control.notices import NOTICE_TIME
from hub.control.registry import Registry
from hub.delivery.stream import Stream
from hub.privacy_model import NoticeRecord
from hub.subjects import Subject


class StreamNotices:
    """Implements ``delivery.deps.NoticeBuilder``."""

    def __init__(self, registry: Registry, settings: Settings) -> None:
        self._registry = registry
        self._settings = settings

    def ready(self, stream: Stream) -> bytes:
        """The stream is open, with these scopes and intervals."""
        options = stream.subscriber.options
        ready = event_service_pb2.Ready(
            effective_scopes=_scopes(stream.scopes),
            withheld_fields=table.withheld_fields(stream.scopes),
            heartbeat_interval=convert.duration(options.heartbeat),
            retention=convert.duration(self._settings.retention),
            key_id=stream.subscriber.caller.key_id,
            key_expire_time=self._key_expire_time(stream),
            linger=convert.duration(options.linger) if options.linger else None,
        )
        return event_service_pb2.SubscribeResponse(ready=ready).SerializeToString()

    def heartbeat(self, stream: Stream, lag: float, *, caught_up: bool, store_silent: bool = False) -> bytes:
        """The stream is alive, with nothing to deliver."""
        heartbeat = event_service_pb2.Heartbeat(
            caught_up=caught_up,
            lag=convert.duration(lag),
            key_expire_time=self._key_expire_time(stream),
            store_silent=store_silent,
        )
        return event_service_pb2.SubscribeResponse(heartbeat=heartbeat).SerializeToString()

    def _key_expire_time(self, stream: Stream) -> Timestamp | None:
        """When the stream's key expires; None: never.

        Raises:
            What ``Registry.require_live`` raises.
        """
        key_id = stream.subscriber.caller.key_id
        if stream.subscriber.is_endpoint:
            return None
        return convert.timestamp(self._registry.keyring.require_live(key_id).expire_time)

    def grants_changed(self, added: Iterable[int], removed: Iterable[int], reason: str) -> bytes:
        """The stream has other scopes from here on."""
        changed = event_service_pb2.GrantsChanged(added=_scopes(added), removed=_scopes(removed), reason=reason)
        return event_service_pb2.SubscribeResponse(grants_changed=changed).SerializeToString()

    def gap(self, from_time: int, to_time: int, cause: str) -> bytes:
        """Events accepted between two times (microseconds) are gone."""
        gap = event_service_pb2.Gap(
            from_time=convert.timestamp(from_time),
            to_time=convert.timestamp(to_time),
            cause=event_service_pb2.GapCause.Value(f"GAP_CAUSE_{cause}"),
        )
        return event_service_pb2.SubscribeResponse(gap=gap).SerializeToString()

    def erased(self, subject: Subject, notice: NoticeRecord, request_time: int) -> bytes:
        """The subject of an erasure is to be forgotten, for as long as the hub sends such notices."""
        erased = event_service_pb2.Erased(
            request_time=convert.timestamp(request_time),
            deadline=convert.timestamp(request_time + NOTICE_TIME),
            erasure_id=notice.erasure_id,
            **{f"{subject.kind}_id": str(subject.id)},
        )
        return event_service_pb2.SubscribeResponse(erased=erased).SerializeToString()

    def goodbye(self, reason: str, retry_delay: float) -> bytes:
        """The hub is about to end the stream."""
        goodbye = event_service_pb2.Goodbye(reason=reason, reconnect=True, retry_delay=convert.duration(retry_delay))
        return event_service_pb2.SubscribeResponse(goodbye=goodbye).SerializeToString()


def _scopes(numbers: Iterable[int]) -> list[permissions_pb2.Scope.ValueType]:
    return [permissions_pb2.Scope.ValueType(number) for number in sorted(numbers)]
