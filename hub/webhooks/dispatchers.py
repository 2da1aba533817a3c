"""All endpoints: which of them this hub runs, their verification, and the states that follow from their attempts.

Must not know how one is delivered to (``dispatcher.py``) nor what a developer may change (``control/``).
"""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

import structlog
from msgspec.structs import replace

from hub.clock import Clock
from hub.control.endpoint_changes import (
    DELIVERING,
    HUB_ITSELF,
    Decide,
    EndpointChanges,
    delivering,
    disabled,
    verified_again,
)
from hub.control.endpoints import name_of
from hub.control.registry import Registry
from hub.control.transactions import Intent
from hub.endpoint_model import EndpointRecord, EndpointState
from hub.errors import HubError, TooManyChanges
from hub.slices import one_by_one
from hub.webhooks import bodies
from hub.webhooks.attempts import Attempts
from hub.webhooks.dispatcher import Dispatcher, Parts
from hub.webhooks.places import Places
from hub.webhooks.presence import Presence
from hub.webhooks.schedule import Failure, Outcome, Verdict, state_of
from hub.webhooks.verification import VERIFY_AGAIN, VERIFY_PERIOD, Verification, Verifications, verify

PERIOD = 1.0
"""Seconds between two assignments of endpoints to hubs, and between two saves of places."""

AT_ONCE = 20
"""Endpoints that are looked at in one go: less than a millisecond."""

LOST_FOR = 5.0
"""Seconds for which a hub does not claim an endpoint that it lost."""

MAX_FORGERIES = 2

log = structlog.get_logger()


class Dispatchers:
    """The dispatchers of this hub, by the names of their endpoints."""

    def __init__(self, parts: Parts, presence: Presence, changes: EndpointChanges) -> None:
        self._parts = parts
        self._presence = presence
        self._changes = changes
        self._running: dict[str, Dispatcher] = {}
        self._attempts: dict[str, Attempts] = {}
        self._not_before: dict[str, float] = {}
        self._tried: dict[str, tuple[str, float]] = {}
        self._verifications = Verifications(parts.clock)
        self._news = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_stopping = False
        self._hidden = parts.registry.hidden.version

    @property
    def _registry(self) -> Registry:
        return self._parts.registry

    @property
    def _clock(self) -> Clock:
        return self._parts.clock

    @property
    def places(self) -> Places:
        """How far endpoints are."""
        return self._parts.places

    def running(self, name: str) -> Dispatcher | None:
        """The dispatcher of an endpoint on this hub."""
        return self._running.get(name)

    def attempts(self, name: str) -> Attempts:
        """The newest requests to an endpoint that were sent from here."""
        return self._attempts.get(name, Attempts())

    def refresh(self, changed: set[str]) -> None:
        """Apply changes of integrations and of withheld events; called after the streams and before the events."""
        is_less = self._hidden != self._registry.hidden.version
        if is_less:
            self._hidden = self._registry.hidden.version
            self._parts.bodies.forget()
            for attempts in self._attempts.values():
                attempts.forget_events()
        for dispatcher in [one for one in self._running.values() if is_less or one.record.integration_id in changed]:
            dispatcher.refresh()
        self._news.set()

    async def run(self) -> None:
        """Run those endpoints that are this hub's, for as long as it runs."""
        for record in self._registry.endpoints.all():  # a stopped hub alone forgets the secret that theirs derive from
            if record.state in DELIVERING and not self._parts.envelope.keys(record):
                log.warning("an endpoint has no secret", endpoint=name_of(record))
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(PERIOD):
                    await self._news.wait()
            self._news.clear()
            await self.update()

    async def update(self) -> None:
        """Start and end dispatchers, and save places; if the store refuses it for now, the next call tries again.

        Of many endpoints it looks at some at a time: in between, the streams and requests of others go on.
        """
        try:
            if next(self._registry.endpoints.all(), None) is not None:
                await self._presence.publish_heartbeat()
            await self.places.save(self._lost)
        except HubError as error:
            log.warning("put off", work="endpoints", reason=error.reason())
            return
        async for record in one_by_one(self._registry.endpoints.all(), AT_ONCE):
            self._update_one(name_of(record), record)

    def _update_one(self, name: str, record: EndpointRecord) -> None:
        """Begin or end to deliver to an endpoint, if it is time for that."""
        dispatcher = self._running.get(name)
        if dispatcher is None:
            if self._is_ours(name, record):
                self._begin(name, record)
            return
        if dispatcher.is_well:  # it has what a stream has, though nothing may have happened for weeks
            self._registry.usage.note_stream(record.integration_id, ())
        if self._presence.owner(name) != self.places.hub_id:
            dispatcher.stop()

    def _is_ours(self, name: str, record: EndpointRecord) -> bool:
        """Whether this hub is to do something for an endpoint now."""
        clock, hub_id = self._clock, self.places.hub_id
        if self._is_stopping or not self._parts.streams.freshness.is_fresh():
            return False
        if clock.monotonic() < self._not_before.get(name, 0.0) or self._presence.owner(name) != hub_id:
            return False
        stored = self._registry.endpoints.places.get(name)
        holder = stored.record.holder if stored is not None else ""
        if holder not in ("", hub_id) and holder in self._presence.alive():
            return False  # it hands over once it has seen our heartbeat
        with suppress(HubError):
            self._registry.require_open(record.integration_id)
            return bool(self._parts.envelope.keys(record))
        return False

    def _begin(self, name: str, record: EndpointRecord) -> None:
        """Deliver to an endpoint, or verify one whose URL has changed."""
        if record.state in DELIVERING:
            attempts = self._attempts.setdefault(name, Attempts())
            dispatcher = self._running[name] = Dispatcher(self._parts, record, attempts, self._follow)
            self._spawn(self._deliver(name, dispatcher))
        elif record.state is EndpointState.UNVERIFIED and record.verified_url not in ("", record.url):
            url, until = self._tried.get(name, ("", 0.0))
            if url != record.url or until < self._clock.monotonic():
                self._tried[name] = record.url, self._clock.monotonic() + VERIFY_AGAIN
                self._spawn(self._verify_by_itself(record))

    async def _deliver(self, name: str, dispatcher: Dispatcher) -> None:
        """Run a dispatcher to its end, then let go of the endpoint."""
        try:
            if await self.places.claim(dispatcher.record, name) is None:
                self._lost(name)
            elif not self._is_stopping:
                await self._run(name, dispatcher)
                await self._end(name, dispatcher)
        except HubError as error:  # the store takes no claim now
            self._not_before[name] = self._clock.monotonic() + LOST_FOR
            log.info("endpoint on hold", endpoint=name, reason=error.reason())
        finally:
            self._running.pop(name, None)
            self._news.set()

    async def _run(self, name: str, dispatcher: Dispatcher) -> None:
        """Run a dispatcher as a task of its own, which ends when the endpoint is not to be delivered to any more."""
        checking = self._spawn(self._keep_verified(dispatcher.record))
        dispatcher.task = asyncio.create_task(dispatcher.run())
        try:
            await asyncio.wait({dispatcher.task})
        finally:
            checking.cancel()
            dispatcher.task.cancel()
        error = None if dispatcher.task.cancelled() else dispatcher.task.exception()
        if isinstance(error, HubError):
            log.info("endpoint on hold", endpoint=name, reason=error.reason())
        elif error is not None:
            self._not_before[name] = self._clock.monotonic() + LOST_FOR
            log.error("incident", endpoint=name, exc_info=error)

    async def _end(self, name: str, dispatcher: Dispatcher) -> None:
        """Store the place for the last time, and send the last body if the endpoint was deleted."""
        record, pace = dispatcher.record, dispatcher.pace
        with suppress(HubError):
            await self.places.release(name)
        if self._registry.endpoints.find(record.integration_id, record.endpoint_id) is None:
            for known in (self._attempts, self._not_before, self._tried):
                known.pop(name, None)
            self._verifications.forget(name)
            body = bodies.control(name, "terminated", "", self._clock.now(), b"", {})
            await self._parts.sender.post(self._parts.envelope.request(record, body, pace=pace))

    def _lost(self, name: str) -> None:
        """Another hub took an endpoint over: do not claim it for a while."""
        self._not_before[name] = self._clock.monotonic() + LOST_FOR
        if (dispatcher := self._running.get(name)) is not None and dispatcher.task is not None:
            dispatcher.task.cancel()

    async def _follow(self, dispatcher: Dispatcher, verdict: Verdict) -> None:
        """Update an endpoint's state from its newest attempt."""
        record, attempts = dispatcher.record, dispatcher.place.attempts
        if verdict is Verdict.GIVE_UP:
            gone = attempts.failure == Failure.GONE
            why = "its receiver answered 410 (Gone)" if gone else "nothing but failure for too long"
            await self._disable(record, why)
            return
        found = self._registry.endpoints.find(record.integration_id, record.endpoint_id)
        state = state_of(attempts)
        if found is not None and found.record.state in DELIVERING and found.record.state is not state:
            await self._change(record, partial(delivering, state=state))
            log.info("endpoint state", endpoint=dispatcher.name, state=state.name)

    async def _disable(self, record: EndpointRecord, why: str) -> None:
        if await self._change(record, partial(disabled, reason=why, by_admin=False), why):
            log.warning("endpoint disabled", endpoint=name_of(record), reason=why)

    async def _change(self, record: EndpointRecord, decide: Decide, reason: str = "") -> bool:
        """Change an endpoint; False where the store refuses it now: it is asked again after the next attempt."""
        intent = Intent(HUB_ITSELF, reason)
        try:
            await asyncio.shield(self._changes.change(intent, record.integration_id, record.endpoint_id, decide, 0))
        except HubError:
            return False
        return True

    async def verify(self, record: EndpointRecord) -> Verification:
        """Verify an endpoint now, without a change of its state.

        Raises:
            TooManyChanges: it was verified within the last minute.
        """
        name = name_of(record)
        if wait := self._verifications.take(name):
            raise TooManyChanges(
                "an endpoint is verified once a minute: wait", metadata={"limit": "1"}, retry_after=wait
            )
        began = self._clock.now()
        found = await verify(self._parts.sender, self._parts.envelope, record, self._clock)
        body = bodies.challenge("", began)
        self._attempts.setdefault(name, Attempts()).add(began, body, found.outcome, 0)
        log.info("endpoint challenged", endpoint=name, step=found.step, outcome=outcome_name(found.outcome))
        return found

    async def _verify_by_itself(self, record: EndpointRecord) -> None:
        """Verify an endpoint whose URL has changed since it was verified."""
        try:
            found = await self.verify(record)
        except TooManyChanges as error:
            self._tried[name_of(record)] = record.url, self._clock.monotonic() + (error.retry_after or VERIFY_PERIOD)
            return
        if found.is_verified:
            await self._change(record, partial(verified_again, url=record.url, now=self._clock.now()))

    async def _keep_verified(self, record: EndpointRecord) -> None:
        """Verify an endpoint again every week, while it is delivered to."""
        while (found := self._registry.endpoints.find(record.integration_id, record.endpoint_id)) is not None:
            left = self._verifications.valid_for(found.record)
            if left <= 0 and await self.verify_again(found.record):
                continue  # so that its new end is learned now
            await self._clock.sleep(min(left, VERIFY_AGAIN) if left > 0 else VERIFY_AGAIN)

    async def verify_again(self, record: EndpointRecord) -> bool:
        """Verify an endpoint that is delivered to, and return whether it passed; what tells nothing changes nothing."""
        with suppress(TooManyChanges):
            found = await self.verify(record)
            if found.is_verified:
                return await self._change(record, partial(verified_again, url=record.url, now=self._clock.now()))
            if found.outcome.failure is Failure.FORGERY_ACCEPTED:
                if record.forgeries + 1 >= MAX_FORGERIES:
                    await self._disable(record, "its receiver accepts requests with a wrong signature")
                else:
                    await self._change(record, lambda newest: replace(newest, forgeries=newest.forgeries + 1))
        return False

    async def stop(self, seconds: float) -> None:
        """End: requests in flight may take some seconds; then the places are stored and others take over."""
        self._is_stopping = True
        for dispatcher in list(self._running.values()):
            dispatcher.stop()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(HubError):
            await self.places.release_all()
            await self._presence.leave()
        await self._parts.sender.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("incident", exc_info=error)


def outcome_name(outcome: Outcome) -> str:
    """How an outcome is named in the log."""
    return outcome.failure.name if outcome.failure is not None else "OK"
