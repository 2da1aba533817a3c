"""The endpoint of an integration in a schedule: what its receiver is posted, and what it may be posted by then."""

import random
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

from aiohttp import web
from google.protobuf.json_format import ParseDict
from tickets.hub.v1 import event_pb2

from tests.support.calls import ask
from tests.support.hubs import Caller
from tests.support.receivers import Receiver, connect, receiving


class Limits(NamedTuple):
    """What may be posted: by scopes, without erased events, and anything at all only while the integration is open."""

    scopes: frozenset[int]
    erased: frozenset[str] = frozenset()
    is_open: bool = True


class Posted(NamedTuple):
    """One body: the limits that were in force when it was made, its events, and whether the receiver has kept it."""

    limits: Limits
    events: tuple[event_pb2.Event, ...]
    is_kept: bool


class Endpoint:
    """A receiver that fails at random, also after it has kept a body, until it is well.

    One request is under way at a time. So the first one that arrives after a call was answered may have been made
    before it; whatever follows was made after it.

    Attributes:
        posted: all that came, in order.
    """

    def __init__(self, rng: random.Random, scopes: frozenset[int]) -> None:
        self.posted: list[Posted] = []
        self.is_well = False
        self._rng = rng
        self._limits = self._next = Limits(scopes)
        self._stack = AsyncExitStack()
        self._receiver: Receiver

    async def begin(self, caller: Caller) -> None:
        """Make it, and verify it."""
        self._receiver = await self._stack.enter_async_context(receiving(self._behave))
        await connect(caller, self._receiver)

    async def end(self, caller: Caller) -> None:
        """Delete it."""
        await ask(caller, "WebhookService/DeleteEndpoint")
        await self._stack.aclose()

    def widen(self, scopes: frozenset[int]) -> None:
        """These scopes are about to be granted, too."""
        self._limits = self._limits._replace(scopes=self._limits.scopes | scopes)
        self._next = self._next._replace(scopes=self._next.scopes | scopes)

    def narrow(self, **fields: Any) -> None:  # noqa: ANN401  of the limits
        """A call that takes something away was answered."""
        self._next = self._next._replace(**fields)

    def reopen(self) -> None:
        """The integration is about to be opened."""
        self._limits, self._next = self._limits._replace(is_open=True), self._next._replace(is_open=True)

    def forget(self, names: frozenset[str]) -> None:
        """An erasure was answered."""
        self.narrow(erased=self._next.erased | names)

    def has(self, name: str) -> bool:
        """Whether it has kept an event."""
        return any(event.id == name for body in self.posted if body.is_kept for event in body.events)

    async def _behave(self, body: dict[str, Any], _: web.Request) -> web.Response | None:
        events = body["data"].get("events", ()) if body["type"] == "events" else ()
        chance = 1.0 if self.is_well else self._rng.random()
        self.posted.append(
            Posted(self._limits, tuple(ParseDict(one, event_pb2.Event()) for one in events), chance > 0.2)
        )
        self._limits = self._next
        return web.Response(status=503) if chance < 0.3 else None
