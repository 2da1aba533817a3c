"""What an erasure costs, and how soon it hides: ``python -m bench erasure --events 5000000 --rounds 100``.

Beside load: the embedded store is filled with so many events, a thousand of each of three users among them. A bot keeps
64 calls of EmitEvent in flight. The p99 of its calls while one user's erasure runs, from the request to DONE, is
compared with that of a span just before. The users are erased one after the other.

Hidden: three NATS servers that sync each write, and three hubs. A user is erased at the first hub, and the two others
are asked for the erasure (GetErasure) without a pause. A hub that has it hides the events: both are one step, as
``tests/jetstream/test_erasure_replicas.py`` shows. Measured is the time from the answer of EraseUser to the first
answer of another hub that has the erasure, the call itself included: the real time is shorter.
"""

import asyncio
import statistics
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
from tickets.hub.v1 import event_pb2, event_service_pb2, event_service_pb2_grpc
from tickets.hub.v1 import privacy_service_pb2 as privacy
from tickets.hub.v1.privacy_service_pb2_grpc import PrivacyServiceStub

from bench import events, loads, machine, revocations, servers
from bench.fill import fill
from bench.servers import Server
from hub import config
from hub.model import Entry, Kind
from hub.storage import open_storage
from tests.support.hubs import Caller
from tests.support.nats_servers import Cluster

IN_FLIGHT = 64
USERS = [str(910_000_000_000_000_000 + number) for number in range(3)]
OF_A_USER = 1_000
PARTS = 20
"""After each of so many parts of the log there are some of a user's events."""
WARM = 10.0
"""Seconds of load before anything is measured, and of the shortest span without an erasure."""
HIDDEN_FOR = 1_000_000
"""The number of the first user who is hidden."""


def of_user(user: str, number: int) -> event_pb2.Event:
    """An event that a user caused; each has an id of its own."""
    made = event_pb2.Event(id=f"{user}-{number}", guild_id=events.GUILDS[0])
    made.ticket_created.creator_user_id = user
    return made


async def fill_with_users(data: Path, count: int) -> None:
    """A log of so many events, and those of the users in between."""
    for part in range(PARTS):
        await fill(data, part * (count // PARTS), count // PARTS)
        log = await open_storage(config.load({"data_dir": str(data)}))
        numbers = range(part * OF_A_USER // PARTS, (part + 1) * OF_A_USER // PARTS)
        made = [of_user(user, number) for number in numbers for user in USERS]
        now = round(time.time() * 1e6)
        await log.append(
            [
                Entry(Kind.EVENT, now, one.SerializeToString(), "", one.id, events.EVENT_TYPES[0], int(one.guild_id))
                for one in made
            ]
        )
        await log.close()


class Bot:
    """Calls of EmitEvent, so many in flight, until it is stopped."""

    def __init__(self, channel: Any, key: str, first: int) -> None:  # noqa: ANN401  gRPC's
        self._stub: Any = event_service_pb2_grpc.EventServiceStub(channel)
        self._key = loads.metadata(key)
        self._number = first
        self.calls: list[tuple[float, float]] = []
        self._tasks = [asyncio.create_task(self._emit()) for _ in range(IN_FLIGHT)]

    async def _emit(self) -> None:
        while True:
            self._number += 1
            request = event_service_pb2.EmitEventRequest(event=events.event(self._number))
            began = time.perf_counter()
            await self._stub.EmitEvent(request, metadata=self._key)
            self.calls.append((began, time.perf_counter() - began))

    def p99(self, since: float) -> float:
        """Of the calls that began since then, in milliseconds."""
        return 1e3 * events.percentile(sorted(took for began, took in self.calls if began >= since), 0.99)

    def rate(self, since: float) -> float:
        """Calls a second since then."""
        return sum(began >= since for began, _ in self.calls) / (time.perf_counter() - since)

    async def stop(self) -> None:
        """End it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def erase(stub: Any, key: str, user: str) -> None:  # noqa: ANN401  gRPC's
    """Erase a user, and wait until it is done."""
    erasure = (await stub.EraseUser(privacy.EraseUserRequest(user_id=user), metadata=loads.metadata(key))).erasure
    request = privacy.GetErasureRequest(erasure_id=erasure.erasure_id)
    while erasure.state != privacy.ERASURE_STATE_DONE:
        await asyncio.sleep(0.1)
        erasure = (await stub.GetErasure(request, metadata=loads.metadata(key))).erasure
    if erasure.events_erased != OF_A_USER:
        raise RuntimeError(f"{erasure.events_erased} events were erased")


async def beside(hub: Server, keys: dict[str, str], count: int) -> None:
    """Print the p99 of emits alone and beside each erasure."""
    async with servers.channel(hub.target) as channel:
        stub, bot, ratios = PrivacyServiceStub(channel), Bot(channel, keys["HUB_BOT_KEY"], count), []
        await asyncio.sleep(WARM)
        span = 0.0
        for user in USERS:
            alone = time.perf_counter()
            await asyncio.sleep(max(WARM, span))
            calm, calm_rate, began = bot.p99(alone), bot.rate(alone), time.perf_counter()
            await erase(stub, keys["HUB_ADMIN_KEY"], user)
            span, busy = time.perf_counter() - began, bot.p99(began)
            ratios.append(busy / calm)
            print(
                f"{OF_A_USER:,} of {count:,} events in {span:.1f} s; emit p99 {calm:.0f} ms alone "
                f"({calm_rate:.0f}/s), {busy:.0f} ms beside ({bot.rate(began):.0f}/s): {busy / calm:.2f}",
                flush=True,
            )
        await bot.stop()
    print(f"median ratio {statistics.median(ratios):.2f}; {machine.described()}")


async def measure(count: int, rounds: int) -> None:
    """Print both figures; 0 events or rounds leave one out."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        if count:
            data = Path(folder, "data")
            async with servers.hub(data) as first:
                keys = dict(first.keys)
            await fill_with_users(data, count)
            async with servers.hub(data) as hub:
                await beside(hub, keys, count)
        if rounds:
            await hidden(Path(folder), rounds)


async def hidden(data: Path, rounds: int) -> None:
    """Print how soon an erasure hides its events at the other hubs."""
    cluster = Cluster(data / "nats")
    try:
        cluster.start()
        async with AsyncExitStack() as stack:
            hubs, keys = await revocations.hubs_of(stack, cluster, data)
            admins = [hub.caller(keys["HUB_ADMIN_KEY"]) for hub in hubs]
            bot = hubs[0].caller(keys["HUB_BOT_KEY"])
            users = [str(HIDDEN_FOR + number) for number in range(rounds)]
            delays = sorted([one for user in users for one in await delays_of(user, admins, bot)])
    finally:
        cluster.stop()
    shown = ", ".join(f"p{share} {1e3 * events.percentile(delays, share / 100):.1f}" for share in (50, 90, 99))
    print(
        f"hidden at two other hubs, {rounds} erasures, ms: {shown}, worst {1e3 * delays[-1]:.1f}; {machine.described()}"
    )


async def delays_of(user: str, admins: list[Caller], bot: Caller) -> list[float]:
    """Seconds from the answer of one erasure until each of the other hubs answers that it has it."""
    await bot.call("EventService/EmitEvent", event_service_pb2.EmitEventRequest(event=of_user(user, 0)))
    reply = await admins[0].call("PrivacyService/EraseUser", privacy.EraseUserRequest(user_id=user))
    answered = time.perf_counter()
    known = await asyncio.gather(*(until_known(admin, reply.erasure.erasure_id) for admin in admins[1:]))
    return [at - answered for at in known]


async def until_known(admin: Caller, erasure_id: str) -> float:
    """When a hub first answers that it has an erasure."""
    while True:
        try:
            await admin.call("PrivacyService/GetErasure", privacy.GetErasureRequest(erasure_id=erasure_id))
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
        else:
            return time.perf_counter()
