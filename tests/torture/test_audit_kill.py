"""kill -9 at each step of the audit trail's retention: the next hub finishes it, and no byte is left."""

import asyncio
import random
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from hub.privacy.audit_retention import PSEUDONYM
from tests.support.calls import ask
from tests.support.hubs import Caller
from tests.support.privacy import USER, occurrences, owned_and_deleted
from tests.torture.conftest import TORTURE
from tests.torture.test_kill import HubStarter, hub_starter

PATIENCE = 60
STEPS = [("run", "after", 3), ("COMMIT", "before", 3), ("PRAGMA wal_checkpoint", "before", 1)]
"""What to be killed at, and, in the short form, each how many times."""


async def prepare(starter: HubStarter) -> str:
    """A store with a deleted integration whose owner is named in many places; the integration's id."""
    async with starter.hub(None) as (_, channel), asyncio.timeout(PATIENCE):
        admin, bot = Caller(channel, starter.keys["ADMIN"]), Caller(channel, starter.keys["BOT"])
        hub: Any = SimpleNamespace(admin=admin, bot=bot, caller=lambda key: Caller(channel, key))
        return await owned_and_deleted(hub)


async def remove_until_it_dies(starter: HubStarter, integration_id: str, done: Path, step: dict[str, Any]) -> bool:
    """Let a hub remove what is old; returns whether it was done before the hub died."""
    done.unlink(missing_ok=True)
    async with starter.hub({**step, "audit": True}) as (_, channel), asyncio.timeout(PATIENCE):
        admin = Caller(channel, starter.keys["ADMIN"])
        while not done.exists():
            try:
                reply = await ask(admin, "AdminService/GetIntegration", integration_id=integration_id)
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.UNAVAILABLE, error  # noqa: PT017  all else would be a fault
                return False
            assert reply.integration.owner_user_id == USER or reply.integration.owner_user_id.startswith(PSEUDONYM)
    return True


@pytest.mark.parametrize(("call", "when", "stride"), STEPS)
async def test_an_audit_removal_survives_a_kill_at_each_step(tmp_path: Path, call: str, when: str, stride: int) -> None:
    """After each transaction, before each commit, and before each checkpoint."""
    before, data, stride = tmp_path / "before", tmp_path / "data", 1 if TORTURE else stride
    done = tmp_path / "data.done"
    async with hub_starter(data) as starter:
        one = await prepare(starter)
        shutil.copytree(data, before)
        assert occurrences(data, USER) > 5
        nth, is_done, deaths = random.randrange(stride) + 1, False, 0  # noqa: S311  it chooses moments
        while not is_done:
            shutil.rmtree(data)
            shutil.copytree(before, data)
            is_done = await remove_until_it_dies(starter, one, done, {"call": call, "when": when, "nth": nth})
            deaths += not is_done
            assert await remove_until_it_dies(starter, one, done, {}), "the next hub finishes it"
            assert occurrences(data, USER) == 0, f"killed {when} number {nth}"
            nth += stride
    assert deaths > 0
