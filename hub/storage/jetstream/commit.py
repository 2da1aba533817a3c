"""Storing a group of entries where the stream stands: whole or not at all, once, and never on a guess.

A server that says nothing may have stored the group or not. It is then asked, by the name that the messages carry,
before the group is sent again; of all attempts only one can be in, because each expects the same place.
"""

import asyncio
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from hub.errors import StorageFull, StorageUnavailable
from hub.storage._group import Group
from hub.storage._jetstream_api import PATIENCE, ApiError, Draft, Stream, WrongLast
from hub.storage._jetstream_entries import Subjects
from hub.storage._jetstream_wire import NoAnswer

_AGAIN = 0.05

log = structlog.get_logger(__name__)


class Groups:
    """Stores groups in a stream, one at a time."""

    def __init__(self, stream: Stream, subjects: Subjects, catch_up: Callable[[int], Awaitable[None]]) -> None:
        """`catch_up`: returns once everything up to a position is known here."""
        self._stream = stream
        self._subjects = subjects
        self._catch_up = catch_up
        self._loop = asyncio.get_running_loop()

    async def store(self, group: Group, deadline: float) -> bool:
        """Publish a group where it begins, until it is in; False = somebody else was faster, look again.

        Raises:
            StorageUnavailable: it was not acknowledged in time, and may yet turn out to be stored.
            StorageFull: there is no room.
        """
        name = secrets.token_hex(12)
        attempt, trouble = 0, ""
        while self._loop.time() < deadline:
            attempt += 1
            try:
                await self._publish(group, name, attempt)
            except WrongLast as error:
                if not await self._is_in(group, name):
                    async with asyncio.timeout(PATIENCE):
                        await self._catch_up(max(error.last, group.entries[0].position))
                    return False
            except (ApiError, NoAnswer) as error:
                if isinstance(error, ApiError) and error.is_full:
                    raise StorageFull from error
                trouble = str(error)
                await asyncio.sleep(_AGAIN)
                continue
            return True
        log.warning("a group was not acknowledged in time", attempts=attempt, error=trouble)
        raise StorageUnavailable

    async def tidy(self, group: Group) -> None:
        """Remove what could not say by itself that it is superseded: nobody sees it, and the next entry would, too."""
        alone = _alone(group)
        with suppress(NoAnswer, ApiError):
            for key, _ in group.superseded():
                if key not in alone:
                    await self._stream.purge(self._subjects.of_key(key), keep=1)

    async def _publish(self, group: Group, name: str, attempt: int) -> None:
        """One attempt. Each has a name of its own, so that what is left of an earlier one does not get in its way."""
        drafts = self._drafts(group)
        drafts[0].headers["Nats-Expected-Last-Sequence"] = str(group.entries[0].position - 1)
        if len(drafts) == 1:
            drafts[0].headers["Nats-Msg-Id"] = f"{name}.0"
            last = await self._stream.publish(drafts[0])
        else:
            last = await self._stream.publish_together(drafts, f"{name}.{attempt}")
        if last != group.position:
            raise NoAnswer(f"the store acknowledged {last} instead of {group.position}")

    def _drafts(self, group: Group) -> list[Draft]:
        alone = _alone(group)
        drafts = []
        for entry in group.entries:
            draft = self._subjects.draft(entry)
            if entry.key in alone:
                draft.headers["Nats-Rollup"] = "sub"
            drafts.append(draft)
        return drafts

    async def _is_in(self, group: Group, name: str) -> bool:
        """Whether a group that got no answer was stored after all: an entry of it that nobody removes tells."""
        ephemeral = dict(group.superseded())
        witness = next((entry for entry in group.entries if entry.key not in ephemeral), group.entries[-1])
        stored = await self._stream.get(seq=witness.position)
        if stored is None:
            return False
        marker = stored.headers.get("Nats-Batch-Id") or stored.headers.get("Nats-Msg-Id", "")
        return marker.startswith(f"{name}.")


def _alone(group: Group) -> set[str]:
    """The keys of which only the newest entry is kept, where they stand in a group once: a batch rolls up no others."""
    times = Counter(entry.key for entry in group.entries)
    return {key for key, _ in group.superseded() if times[key] == 1}
