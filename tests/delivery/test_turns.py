"""The turns of streams that catch up: in order, so many at once as fit, and others run in between."""

import asyncio
from collections.abc import Callable

import pytest

from hub.delivery.turns import LIMIT, Turn, Turns


class Machine:
    """Streams that catch up on an event loop, each with pieces of work to do, and a clock that their work moves on."""

    def __init__(self) -> None:
        self.time = 0.0
        self.turns = Turns(lambda: self.time)
        self.done: list[str] = []
        self.rounds = 0

    async def stream(self, name: str, pieces: int, cost: float) -> None:
        """A stream that does some pieces of work, each in its turn."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not future.done():
                future.set_result(None)

        turn = Turn(self.turns, wake)
        for _ in range(pieces):
            while not turn.is_mine():
                future = loop.create_future()
                await future
            self.done.append(name)
            self.time += cost
            await asyncio.sleep(0)

    async def count(self, until: Callable[[], bool]) -> list[int]:
        """How many pieces each turn of the event loop has done."""
        counts, before = [], 0
        while not until():
            await asyncio.sleep(0)
            counts.append(len(self.done) - before)
            before = len(self.done)
        return counts


@pytest.mark.parametrize(("cost", "at_once"), [(LIMIT / 4, 4), (LIMIT, 1), (5 * LIMIT, 1)])
async def test_turns_fit_into_their_share_of_the_event_loop(cost: float, at_once: int) -> None:
    """As many turns as fit into the limit by their measured cost, and at least one."""
    machine = Machine()
    streams = [asyncio.create_task(machine.stream(str(n), 40, cost)) for n in range(12)]
    counts = await machine.count(lambda: all(stream.done() for stream in streams))
    assert len(machine.done) == 12 * 40
    settled = counts[len(counts) // 2 : -12]
    assert 0 < max(settled) <= at_once + 1


async def test_streams_take_turns_in_order() -> None:
    """One that is at its first piece waits for no more than one piece of each other."""
    machine = Machine()
    await asyncio.gather(*(machine.stream(name, 10, LIMIT) for name in "abc"))
    assert machine.done[:30] == list("abc" * 10)


async def test_a_single_stream_does_not_wait() -> None:
    """If no other stream catches up, the work is done at once."""
    turn = Turn(Turns(), lambda: None)
    assert turn.is_mine()
    assert not turn.is_mine()


async def test_several_turns_are_granted_in_one_turn_of_the_loop() -> None:
    """The other streams wait, and so does a stream that asks again."""
    turns = Turns()
    streams = [Turn(turns, lambda: None) for _ in range(20)]
    granted = [stream.is_mine() for stream in streams]
    assert 1 < sum(granted) < 20
    assert granted == sorted(granted, reverse=True)
    assert not streams[0].is_mine()


async def test_an_ended_stream_delays_no_other() -> None:
    """Its turn passes."""
    machine = Machine()
    gone, stays = (asyncio.create_task(machine.stream(name, 5, LIMIT)) for name in ("gone", "stays"))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait_for(stays, 10)
    assert machine.done.count("stays") == 5
