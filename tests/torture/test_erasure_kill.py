"""kill -9 at each step of an erasure: it is finished later, every recipient gets the notice, no byte is left."""

import asyncio
import os
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import grpc
import pytest
from tickets.hub.v1 import event_service_pb2

from tests.support.calls import ask
from tests.support.events import ids
from tests.support.hubs import REGISTRATION, Caller, scope_requests
from tests.support.privacy import DONE, LONGER, USER, by, occurrences
from tests.support.streams import names_until, notice
from tests.torture.conftest import TORTURE, rounds
from tests.torture.test_kill import HubStarter, hub_starter

PATIENCE = 60
MINE = [f"{USER}-{n}" for n in range(300)]
"""More events than are erased at once."""
OTHERS = ids("other", 20)
REQUEST = {"user_id": USER, "acting_user_id": USER, "request_id": "r", "reason": f"{USER} wants it"}

STEPS = [("run", "after", 5), ("COMMIT", "before", 5), ("PRAGMA wal_checkpoint", "before", 1)]
"""What to be killed at, and, in the short form, each how many times."""


async def prepare(starter: HubStarter) -> tuple[str, str]:
    """A hub with a reader that received everything and one that never came, killed; the reader's key and id."""
    async with starter.hub(None) as (_, channel), asyncio.timeout(PATIENCE):
        admin, bot = Caller(channel, starter.keys["ADMIN"]), Caller(channel, starter.keys["BOT"])
        made, _ = [
            await ask(
                admin, "AdminService/RegisterIntegration", **REGISTRATION, scopes=scope_requests("TICKET_CREATED")
            )
            for _ in range(2)
        ]
        events = [*(by(USER, name) for name in MINE), *(by(LONGER, name) for name in OTHERS)]
        await bot.call("EventService/BatchEmitEvents", event_service_pb2.BatchEmitEventsRequest(events=events))
        stream = await Caller(channel, made.key.secret).subscribe(earliest={})
        assert len(await names_until(stream, OTHERS[-1])) == len(events)
    return made.key.secret, made.integration.integration_id


async def erase_until_it_dies(starter: HubStarter, step: dict[str, Any] | None, delay: float = 0.0) -> bool:
    """Ask for the erasure; returns whether it was done before the hub died, at a step or after a delay."""
    async with starter.hub(step) as (pid, channel), asyncio.timeout(PATIENCE):
        bot = Caller(channel, starter.keys["BOT"])
        try:
            erasure = (await ask(bot, "PrivacyService/EraseUser", **REQUEST)).erasure
            if step is None:
                await asyncio.sleep(delay)
                os.kill(pid, signal.SIGKILL)
            while erasure.state != DONE:
                erasure = (await ask(bot, "PrivacyService/GetErasure", erasure_id=erasure.erasure_id)).erasure
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE, error  # noqa: PT017  all else would be a fault
            return False
    return True


async def check(starter: HubStarter, directory: Path, reader: tuple[str, str]) -> None:
    """The next hub finishes it: the readers that received something get the notice, and no others; no byte is left."""
    key, integration_id = reader
    async with starter.hub(None) as (_, channel), asyncio.timeout(PATIENCE):
        bot = Caller(channel, starter.keys["BOT"])
        erasure = (await ask(bot, "PrivacyService/EraseUser", **REQUEST)).erasure
        while erasure.state != DONE:
            await asyncio.sleep(0.01)
            erasure = (await ask(bot, "PrivacyService/GetErasure", erasure_id=erasure.erasure_id)).erasure
        assert [one.integration_id for one in erasure.notices] == [integration_id]
        assert occurrences(directory, USER) - occurrences(directory, LONGER) == 0
        stream = await Caller(channel, key).subscribe(earliest={})
        assert (await notice(stream, "erased")).erased.user_id == USER
        assert await names_until(stream, OTHERS[-1]) == OTHERS


@pytest.mark.parametrize(("call", "when", "stride"), STEPS)
async def test_an_erasure_survives_a_kill_at_each_step(tmp_path: Path, call: str, when: str, stride: int) -> None:
    """After each transaction, before each commit, and before each checkpoint, from the start of the hub to DONE."""
    before, data, stride = tmp_path / "before", tmp_path / "data", 1 if TORTURE else stride
    async with hub_starter(data) as starter:
        reader = await prepare(starter)
        shutil.copytree(data, before)
        nth, is_done, deaths = random.randrange(stride) + 1, False, 0  # noqa: S311  it chooses moments
        while not is_done:
            shutil.rmtree(data)
            shutil.copytree(before, data)
            is_done = await erase_until_it_dies(starter, {"call": call, "when": when, "nth": nth})
            deaths += not is_done
            try:
                await check(starter, data, reader)
            except BaseException as error:
                error.add_note(f"killed {when} number {nth}")
                raise
            nth += stride
    assert deaths > 0


async def test_an_erasure_survives_kills_at_random_moments(tmp_path: Path) -> None:
    """Several times, until one hub has the time to finish."""
    data = tmp_path / "data"
    async with hub_starter(data) as starter:
        reader = await prepare(starter)
        for number in range(rounds(3, 200)):
            delay = random.random() * 0.2  # noqa: S311  it chooses moments
            await erase_until_it_dies(starter, None, delay)
            if number % 10 == 0:
                await check(starter, data, reader)
        await check(starter, data, reader)
