"""The example of a bot with its cog, in a fake Discord, beside a real hub."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from examples.discord.bot import TicketsBot
from hub.model import Role
from tests.support.discord_api import Discord, StartBot, discord_running
from tests.support.hubs import RunningHub

EXAMPLE = Path(__file__).parents[2] / "examples" / "discord"


@pytest.fixture
async def empty_discord(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Discord]:
    """Discord, without a bot."""
    async with discord_running(monkeypatch) as discord:
        yield discord


@pytest.fixture
async def start_bot(empty_discord: Discord, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[StartBot]:
    """Starts the bot of the example, as its first lines say."""
    async with AsyncExitStack() as running:

        async def start(address: str, key: str) -> TicketsBot:
            monkeypatch.syspath_prepend(EXAMPLE)
            for name, value in {"ADDRESS": address, "BOT_KEY": key, "OUTBOX": str(tmp_path / "outbox.db")}.items():
                monkeypatch.setenv(f"HUB_{name}", value)
            bot = await running.enter_async_context(TicketsBot())
            await bot.login("token")
            empty_discord.connect(bot)
            return bot

        yield start


@pytest.fixture
async def discord(hub: RunningHub, empty_discord: Discord, start_bot: StartBot) -> Discord:
    """Discord, with the bot."""
    await start_bot(hub.address, hub.keys[Role.BOT])
    return empty_discord
