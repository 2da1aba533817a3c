"""Publishing a group of entries as an atomic batch, exactly once.

A server that does not reply may have stored the batch. Before the next attempt the stream is searched for the name that
its messages carry. Only one attempt can succeed, because each expects the same last position.
"""

import asyncio
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from hub.errors import StorageFull, StorageUnavailable
from hub.storage.group import Group
from hub.storage.jetstream.codec import Subjects
from hub.storage.jetstream.connection import NoReply
from hub.storage.jetstream.stream import REPLY_TIMEOUT, ApiError, NatsStream, OutgoingMessage, WrongLast

_AGAIN = 0.05

log = structlog.get_logger(__name__)


class BatchPublisher:
    """Stores groups in a stream, one at a time."""

    def __init__(self, stream: NatsStream, subjects: Subjects, catch_up: Callable[[int], Awaitable[None]]) -> None:
        """`catch_up`: returns once everything up to a position is known here."""
        self._stream = stream
        self._subjects = subjects
        self._catch_up = catch_up
        self._loop = asyncio.get_running_loop()

    async def store(self, group: Group, deadline: float) -> bool:
        """Publish a group until it is stored; False: another replica was faster, decide again.

        Raises:
            StorageUnavailable: it was not acknowledged in time; it may have been stored.
            StorageFull: there is no room.
        """
        name = secrets.token_hex(12)
        attempt, trouble, in_doubt = 0, "", False
        while self._loop.time() < deadline:
            attempt += 1
            try:
                await self._publish(group, name, attempt)
            except WrongLast as error:
                if not await self._is_in(group, name):
                    async with asyncio.timeout(REPLY_TIMEOUT):
                        await self._catch_up(max(error.last, group.entries[0].position))
                    return False
            except (ApiError, NoReply) as error:
                if isinstance(error, ApiError) and error.is_full:
                    await self._require_stored(group, name, in_doubt=in_doubt)
                    return True
                trouble, in_doubt = str(error), in_doubt or isinstance(error, NoReply)
                await asyncio.sleep(_AGAIN)
                continue
            return True
        log.warning("a group was not acknowledged in time", attempts=attempt, error=trouble)
        raise StorageUnavailable

    async def _require_stored(self, group: Group, name: str, *, in_doubt: bool) -> None:
        """Check, now that there is no room, that an earlier attempt without a reply has stored a group.

        Raises:
            StorageFull: there was no such attempt.
            StorageUnavailable: it has not, so far.
        """
        if not in_doubt:
            raise StorageFull
        if not await self._is_in(group, name):
            raise StorageUnavailable

    async def tidy(self, group: Group) -> None:
        """Best effort: purge superseded entries that the batch could not roll up.

        Readers skip them already, and the next write purges them.
        """
        alone = _alone(group)
        with suppress(NoReply, ApiError):
            for key, _ in group.superseded():
                if key not in alone:
                    await self._stream.purge(self._subjects.of_key(key), keep=1)

    async def _publish(self, group: Group, name: str, attempt: int) -> None:
        """One attempt. Each has its own batch id, so that the rest of an earlier one does not interfere."""
        messages = self._messages(group)
        messages[0].headers["Nats-Expected-Last-Sequence"] = str(group.entries[0].position - 1)
        if len(messages) == 1:
            messages[0].headers["Nats-Msg-Id"] = f"{name}.0"
            last = await self._stream.publish(messages[0])
        else:
            last = await self._stream.publish_together(messages, f"{name}.{attempt}")
        if last != group.position:
            raise NoReply(f"the store acknowledged {last} instead of {group.position}")

    def _messages(self, group: Group) -> list[OutgoingMessage]:
        alone = _alone(group)
        messages = []
        for entry, distance in group.with_distances():
            message = self._subjects.message(entry, distance)
            if entry.key in alone:
                message.headers["Nats-Rollup"] = "sub"
            messages.append(message)
        return messages

    async def _is_in(self, group: Group, name: str) -> bool:
        """Whether a group was stored although no reply came: searches the stream for one of its entries."""
        ephemeral = dict(group.superseded())
        witness = next((entry for entry in group.entries if entry.key not in ephemeral), group.entries[-1])
        stored = await self._stream.get(seq=witness.position)
        if stored is None:
            return False
        marker = stored.headers.get("Nats-Batch-Id") or stored.headers.get("Nats-Msg-Id", "")
        return marker.startswith(f"{name}.")


def _alone(group: Group) -> set[str]:
    """The compacted keys that occur once in a group: a batch can roll up no others."""
    times = Counter(entry.key for entry in group.entries)
    return {key for key, _ in group.superseded() if times[key] == 1}
