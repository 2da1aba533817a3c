"""Slots for requests: slow, hanging or failing endpoints delay no quick one."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from hub import config, metrics
from hub.addresses import networks
from hub.clock import Clock
from hub.endpoint_model import AttemptsRecord
from hub.webhooks.destinations import Policy
from hub.webhooks.resolver import Resolver
from hub.webhooks.schedule import Failure, Outcome, Pace, pace_of
from hub.webhooks.sender import Request, Sender
from tests.support.hubs import PATIENCE
from tests.support.name_server import serving_names
from tests.support.receivers import Receiver, receiving


@asynccontextmanager
async def sending(places: int) -> AsyncIterator[Sender]:
    """A sender with so many places for quick endpoints."""
    made = Sender(config.load({"webhook_requests": places}), Policy(allow=tuple(networks("127.0.0.0/8"))), Clock())
    try:
        yield made
    finally:
        await made.close()


@asynccontextmanager
async def holding() -> AsyncIterator[tuple[Receiver, asyncio.Event]]:
    """A receiver that answers 204 once it may."""
    may_answer = asyncio.Event()

    async def wait(_: web.Request) -> web.Response:
        await may_answer.wait()
        return web.Response(status=204)

    async with receiving() as receiver:
        receiver.handler = wait
        yield receiver, may_answer


class Posts:
    """Requests that run beside the test; each of an integration of its own."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self.tasks: list[asyncio.Task[Outcome]] = []

    def begin(self, receiver: Receiver, pace: Pace, count: int = 1) -> None:
        """Begin so many."""
        for _ in range(count):
            self.begin_at(receiver.url, pace)

    def begin_at(self, url: str, pace: Pace) -> None:
        """Begin one at a URL."""
        request = Request(url, dict, b"{}", f"x{len(self.tasks)}", pace, lambda: True)
        self.tasks.append(asyncio.create_task(self._sender.post(request)))

    async def served(self, receiver: Receiver, pace: Pace) -> int:
        """The status of one more request, which must not have to wait for the others."""
        self.begin(receiver, pace)
        async with asyncio.timeout(PATIENCE):
            return (await self.tasks[-1]).status

    async def end(self) -> None:
        """End all."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def until(is_so: Callable[[], bool]) -> None:
    """Wait until something is true; it is looked at again and again."""
    async with asyncio.timeout(PATIENCE):
        while not is_so():  # noqa: ASYNC110  nothing of it can be waited for
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("pace", [Pace.FAILING, Pace.SLOW])
async def test_each_kind_of_endpoint_has_its_own_slots(pace: Pace) -> None:
    """While every place of failing, or of slow endpoints is taken by receivers that hang, the others are served."""
    async with sending(4) as sender, holding() as (dead, _), receiving() as live:
        posts = Posts(sender)
        posts.begin(dead, pace, 20)
        for other in {*Pace} - {pace}:
            assert await posts.served(live, other) == 401
        assert not any(one.done() for one in posts.tasks[:20])
        await posts.end()


async def test_quick_endpoints_that_hang_release_their_slots() -> None:
    """Three times as many endpoints as slots hang at once, for the first time: another one is served meanwhile."""
    async with sending(4) as sender, holding() as (dead, _), receiving() as live:
        posts = Posts(sender)
        posts.begin(dead, Pace.QUICK, 12)
        assert await posts.served(live, Pace.QUICK) == 401
        assert not all(one.done() for one in posts.tasks[:12])
        await posts.end()


@pytest.mark.parametrize(
    ("pace", "others"),
    [
        (Pace.QUICK, [Pace.QUICK, Pace.FAILING]),  # what is not quick any more takes the places of slow ones
        (Pace.SLOW, [Pace.QUICK, Pace.FAILING]),
        (Pace.FAILING, [Pace.QUICK, Pace.SLOW]),
    ],
)
async def test_hanging_name_look_ups_delay_no_other_name(
    monkeypatch: pytest.MonkeyPatch, pace: Pace, others: list[Pace]
) -> None:
    """Many names of one kind hang: receivers with other names are served meanwhile."""
    monkeypatch.setenv("RES_OPTIONS", "timeout:30 attempts:5")  # of the resolver: a look-up outlasts the test
    async with sending(4) as sender, serving_names(monkeypatch) as names, receiving() as live:
        names.silent, names.names["live.example.com"] = (".silent.example.com",), [["127.0.0.1"]]
        port = live.url.rpartition(":")[2]
        posts = Posts(sender)
        for number in range(12):
            posts.begin_at(f"http://{number}.silent.example.com:{port}", pace)
        await asyncio.sleep(0)
        for other in others:
            posts.begin_at(f"http://live.example.com:{port}", other)
            async with asyncio.timeout(PATIENCE):
                assert (await posts.tasks[-1]).status == 401
        assert not all(one.done() for one in posts.tasks[:12])
        await posts.end()


async def test_a_hanging_name_has_one_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it is retried; beyond the limit of such names a further one fails at once."""
    monkeypatch.setenv("RES_OPTIONS", "timeout:30 attempts:5")
    resolver = Resolver(2)
    async with serving_names(monkeypatch) as names:
        names.silent, names.names["live.example.com"] = (".silent.example.com",), [["127.0.0.1"]]
        hanging = [asyncio.create_task(resolver.look_up("one.silent.example.com", 443)) for _ in range(5)]
        assert [info[4] for info in await resolver.look_up("live.example.com", 443)] == [("127.0.0.1", 443)]
        hanging.append(asyncio.create_task(resolver.look_up("two.silent.example.com", 443)))
        await asyncio.sleep(0)
        with pytest.raises(socket.gaierror):
            await resolver.look_up("live.example.com", 443)
        for one in hanging:
            one.cancel()
        assert [type(one) for one in await asyncio.gather(*hanging, return_exceptions=True)] == [
            asyncio.CancelledError
        ] * 6


async def test_a_slow_request_moves_to_another_slot() -> None:
    """A receiver that thinks for long makes room for others, and its answer counts all the same."""
    async with sending(1) as sender, holding() as (slow, may_answer), receiving() as live:
        posts = Posts(sender)
        posts.begin(slow, Pace.QUICK)
        await until(lambda: slow.requests == 1)
        assert await posts.served(live, Pace.QUICK) == 401
        may_answer.set()
        assert (await posts.tasks[0]).status == 204
        assert slow.requests == 1


async def test_requests_of_quick_endpoints_are_counted() -> None:
    """One counts for as long as a request has it; those of slow endpoints are not among them."""
    async with sending(2) as sender, holding() as (slow, may_answer):
        before = used()
        posts = Posts(sender)
        posts.begin(slow, Pace.SLOW)
        await until(lambda: slow.requests == 1)
        assert used() == before
        posts.begin(slow, Pace.QUICK)
        await until(lambda: slow.requests == 2)
        assert used() == before + 1  # no other place is free for it, and nobody needs its own
        may_answer.set()
        await asyncio.gather(*posts.tasks)
        assert used() == before


def used() -> float:
    """What the metrics say of `webhook_requests`."""
    return metrics.LIMIT_USED.values["webhook_requests",]


async def test_a_slow_request_without_another_slot_times_out() -> None:
    """It keeps its slot while no other request needs it; then it ends with a time-out."""
    async with sending(2) as sender, holding() as (slow, may_answer), receiving() as live:
        posts = Posts(sender)
        posts.begin(slow, Pace.SLOW)
        posts.begin(slow, Pace.QUICK)
        await until(lambda: slow.requests == 2)
        await asyncio.wait(posts.tasks, timeout=1.5)
        assert not any(one.done() for one in posts.tasks)
        posts.begin(slow, Pace.QUICK)
        await until(lambda: slow.requests == 3)
        assert await posts.served(live, Pace.QUICK) == 401
        may_answer.set()
        outcomes = await asyncio.gather(*posts.tasks[:3])
        assert sorted(one.status for one in outcomes) == [0, 204, 204]
        assert [one.failure for one in outcomes if not one.status] == [Failure.TIMEOUT]


async def test_a_request_is_signed_once_it_has_its_slot() -> None:
    """However long it waits: a receiver refuses a time of minutes ago."""
    signed: list[int] = []

    def sign() -> dict[str, str]:
        signed.append(dead.requests)
        return {}

    async with sending(1) as sender, holding() as (dead, may_answer):
        posts = Posts(sender)
        posts.begin(dead, Pace.FAILING)
        second = Request(dead.url, sign, b"{}", "x", Pace.FAILING, lambda: True)
        posts.tasks.append(asyncio.create_task(sender.post(second)))
        await until(lambda: dead.requests == 1)
        assert signed == []
        may_answer.set()
        await asyncio.gather(*posts.tasks)
        assert signed == [1]


def test_the_kind_of_an_endpoint_follows_its_newest_request() -> None:
    """Quick after a request that was accepted at once; a new endpoint is not quick yet."""
    taken, refused = AttemptsRecord(last_success_time=1), AttemptsRecord(failures=1)
    assert [pace_of(taken, seconds) for seconds in (0.2, 1.0, 1.1, float("inf"))] == [Pace.QUICK] * 2 + [Pace.SLOW] * 2
    assert pace_of(refused, 0.2) is Pace.FAILING
