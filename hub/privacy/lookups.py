"""Looks up disclosures for callers, within seconds or with an error that asks them to try again."""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from hub.control.registry import Registry
from hub.errors import DisclosuresNotReady
from hub.privacy.disclosures import Disclosures
from hub.privacy_model import DisclosureRecord, ErasureState
from hub.slices import Steps
from hub.storage import Log
from hub.subjects import Subject

MAX_WAIT = 1.8
"""Seconds that a caller waits for a look-up."""
KEPT = 10.0
"""Seconds for which a result is kept for the next page, or for a repeated call."""
AT_ONCE = 1_000
MAX_LOOKUPS = 100
"""Look-ups that run or are kept at a time; only one at a time reads the log."""


class Disclosure(NamedTuple):
    """What an integration was sent, and, of a subject that was erased, whether it has confirmed the notice."""

    integration_id: str
    what: DisclosureRecord
    is_confirmed: bool = False


class Lookups:
    """Looks up disclosures, one subject at a time."""

    def __init__(self, store: Log, registry: Registry, disclosures: Disclosures) -> None:
        self._store = store
        self._registry = registry
        self._disclosures = disclosures
        self._turn = asyncio.Lock()
        self._running: dict[str, asyncio.Task[list[Disclosure]]] = {}

    async def disclosures(self, subject: Subject) -> list[Disclosure]:
        """What each integration was sent about a subject, by integration.

        Raises:
            DisclosuresNotReady: it takes longer; the same question later gets the answer.
            StorageUnavailable, StorageFull: not now.
        """
        erasures = self._registry.hidden.erasures.of_subject(subject)
        if any(record.state is ErasureState.HIDDEN for record in erasures):
            raise DisclosuresNotReady  # its events are hidden already, and who received them is not stored yet
        name = f"{self._registry.hidden.erasures.keys.digest(subject)}/{len(erasures)}"
        task = self._running.get(name)
        if task is None:
            if len(self._running) >= MAX_LOOKUPS:
                raise DisclosuresNotReady
            task = self._running[name] = asyncio.create_task(self._look(subject, len(erasures)))
            task.add_done_callback(partial(self._keep, name))
        with suppress(TimeoutError):
            async with asyncio.timeout(MAX_WAIT):
                return await asyncio.shield(task)
        raise DisclosuresNotReady

    def _keep(self, name: str, task: "asyncio.Task[list[Disclosure]]") -> None:
        """Keep an answer for a while; drop a failure."""
        failed = task.cancelled() or task.exception() is not None
        asyncio.get_running_loop().call_later(0 if failed else KEPT, self._running.pop, name, None)

    async def _look(self, subject: Subject, erasures: int) -> list[Disclosure]:
        """Search; not ready if there is another erasure of the subject since, which hides some of the events."""
        async with self._turn:
            recipients = await self._disclosures.recipients()
            bounds = await self._store.bounds()
            at, steps = bounds.first - 1, Steps()
            while at < bounds.last:
                page = await self._store.find(at, AT_ONCE, subject)
                for entry in page.entries:
                    if not self._registry.hidden.erasures.hides(entry):
                        recipients.add(entry, subject)
                    await steps.pause()
                if page.through <= at:
                    break
                at = page.through
                await asyncio.sleep(0)
        if len(self._registry.hidden.erasures.of_subject(subject)) != erasures:
            raise DisclosuresNotReady
        found = [
            Disclosure(integration_id, one)
            for integration_id, disclosures in recipients.disclosures().items()
            for one in disclosures
        ]
        return sorted([*self._earlier(subject), *found], key=lambda one: (one.integration_id, one.what.first_time))

    def _earlier(self, subject: Subject) -> Iterable[Disclosure]:
        """The disclosures that were found when the subject was erased."""
        erasures = self._registry.hidden.erasures
        for record in erasures.of_subject(subject):
            for notice in erasures.notices.of_erasure(record.erasure_id):
                for one in notice.disclosures:
                    yield Disclosure(notice.integration_id, one, is_confirmed=notice.confirm_time > 0)
