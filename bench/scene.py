"""The integrations of the load, made through the hub's own API as admin and bot."""

from collections.abc import Iterable
from typing import Any

from tickets.hub.v1 import admin_service_pb2, admin_service_pb2_grpc, event_service_pb2, permissions_pb2

from bench import events, loads
from bench.jobs import Emit, Stream
from bench.measure import Load
from bench.servers import Server, channel

SUBSCRIBE = "/tickets.hub.v1.EventService/Subscribe"
EMIT = "/tickets.hub.v1.EventService/EmitEvent"
EMIT_BATCH = "/tickets.hub.v1.EventService/BatchEmitEvents"

CREATED, TRANSCRIPT, DROP, VERIFIED, STATS, IDENTITY = (
    permissions_pb2.SCOPE_TICKET_CREATED,
    permissions_pb2.SCOPE_TRANSCRIPT_CREATED,
    permissions_pb2.SCOPE_DROP_CLAIMED,
    permissions_pb2.SCOPE_MEMBER_VERIFIED,
    permissions_pb2.SCOPE_TICKET_STATS,
    permissions_pb2.SCOPE_MEMBER_VERIFIED_IDENTITY,
)
ALL = (CREATED, TRANSCRIPT, DROP, VERIFIED, STATS, IDENTITY)
DELIVERS: dict[int, int] = {CREATED: 0, TRANSCRIPT: 1, VERIFIED: 2, IDENTITY: 2, DROP: 3, STATS: 4}
"""Which type of the load's events a scope delivers."""

ROOM = {"max_streams_per_integration": 10_000, "max_subscriptions": 10_000}
"""Settings with which one integration has room for all streams of a measurement."""


class View:
    """An integration: its id and key, its scopes, and the guilds that its streams ask for."""

    def __init__(self, integration_id: str, key: str, scopes: Iterable[int] = ALL, guilds: Iterable[str] = ()) -> None:
        self.integration_id = integration_id
        self.key = key
        self._scopes = list(scopes)
        self._guilds = list(guilds)
        self._types = {DELIVERS[scope] for scope in self._scopes}

    def only(self, guild: str) -> "View":
        """The same integration, where its streams ask for one guild."""
        return View(self.integration_id, self.key, self._scopes, [guild])

    def stream(  # noqa: PLR0913  what a request may say
        self, name: str, *, cursor: str = "", latest: bool = False, after: int = 0, total: int = 0, linger: int = 0
    ) -> Stream:
        """A stream that ends with what it shows of the events numbered from `after` to `total`; `linger`: seconds."""
        request = event_service_pb2.SubscribeRequest(subscription_id=name, guild_ids=self._guilds)
        request.on_expired_cursor = event_service_pb2.ON_EXPIRED_CURSOR_EARLIEST
        if linger:
            request.linger.seconds = linger
            request.heartbeat_interval.seconds = 5 * linger
        if cursor:
            request.cursor = cursor
        elif latest:
            request.latest.SetInParent()
        else:
            request.earliest.SetInParent()
        shown = sum(1 for number in range(after, total) if self._shows(number))
        return Stream(request.SerializeToString(), self.key, shown)

    def _shows(self, number: int) -> bool:
        guild = events.GUILDS[events.guild_of(number)]
        return events.type_of(number) in self._types and (not self._guilds or guild in self._guilds)


async def register(hub: Server, admin_key: str, scopes: Iterable[int] = ALL, guilds: Iterable[str] = ()) -> View:
    """A new integration with these scopes."""
    request = admin_service_pb2.RegisterIntegrationRequest(
        display_name="Load",
        description="Reads what it is given.",
        owner_user_id="80351110224678912",
        documentation_url="https://load.example/docs",
        support_url="https://load.example/support",
    )
    for scope in scopes:
        request.scopes.add(scope=permissions_pb2.Scope.ValueType(scope), justification="to be measured")
    async with channel(hub.target) as connection:
        admin = admin_service_pb2_grpc.AdminServiceStub(connection)
        made = await admin.RegisterIntegration(request, metadata=loads.metadata(admin_key), timeout=30)
    return View(made.integration.integration_id, made.key.secret, scopes, guilds)


async def different_views(hub: Server, admin_key: str, count: int) -> list[View]:
    """Integrations of which no two see the same: by their scopes, every other one in half of the guilds only."""
    views = []
    for number in range(1, count + 1):
        scopes = [scope for bit, scope in enumerate(ALL) if number >> bit & 1]
        start = number % len(events.GUILDS)
        guilds = (events.GUILDS + events.GUILDS)[start : start + len(events.GUILDS) // 2] if number % 2 else ()
        views.append(await register(hub, admin_key, scopes, guilds))
    return views


async def emit(hub: Server, bot_key: str, first: int, count: int) -> None:
    """Have events stored, in batches of 100; not measured."""
    load = await Load.start(Emit(hub.target, EMIT_BATCH, count // 100, 4, first, key=bot_key, batch=100))
    try:
        load.go()
        outcome = await load.outcome()
    finally:
        await load.stop()
    if outcome.failures:
        raise RuntimeError(f"emit: {outcome.failures}")


async def cursors(hub: Server, view: View, total: int, size: int) -> list[tuple[int, str]]:
    """Cursors on the way through all events, each with the number of events before it; frames hold up to `size`."""
    request = event_service_pb2.SubscribeRequest.FromString(view.stream("cursors").request)
    request.max_batch_size = size
    found: list[tuple[int, str]] = [(0, "")]
    async with channel(hub.target) as connection:
        subscribe: Any = connection.unary_stream(SUBSCRIBE)
        call = subscribe(request.SerializeToString(), metadata=loads.metadata(view.key), timeout=60)
        async for data in call:
            frame = event_service_pb2.SubscribeResponse.FromString(data)
            if frame.events:
                found.append((found[-1][0] + len(frame.events), frame.cursor))
            if found[-1][0] >= total:
                break
        call.cancel()
    return found
