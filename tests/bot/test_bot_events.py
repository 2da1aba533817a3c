"""Events of the bot reach the hub through the outbox, in order, once, also over a killed hub."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from discord.ext import commands
from tickets_hub import AsyncClient, Start

from tests.support.discord_api import GUILD, Discord, StartBot
from tests.support.events import EVERY_SCOPE
from tests.support.hubs import RunningHub, until
from tests.support.real_hub import POLICY, RealHub


@pytest.fixture
async def real(tmp_path: Path) -> AsyncIterator[RealHub]:
    """A hub in a process of its own, which can be killed."""
    started = await asyncio.to_thread(RealHub, tmp_path)
    yield started
    await asyncio.to_thread(started.close)


def waiting(bot: commands.Bot) -> int:
    """How many events wait in the bot's outbox."""
    client = getattr(bot.get_cog("Events"), "_client", None)
    assert isinstance(client, AsyncClient)
    return client.outbox.waiting


async def message_counts(real: RealHub, key: str, count: int) -> list[int]:
    """How many messages each closed ticket had, as an integration reads them from the beginning."""
    async with AsyncClient(real.address, key, policy=POLICY) as reader, asyncio.timeout(60):
        found = list[int]()
        async for event in reader.subscribe(start=Start.earliest()):
            found.append(event.ticket_closed.message_count)
            if len(found) == count:
                break
    return found


async def test_each_scope_delivers_its_kinds_of_events(hub: RunningHub, discord: Discord) -> None:
    """Each of the six scopes delivers what it is about, and nothing else: six integrations, five kinds of events."""
    readers = {scope: (await hub.register(scope))[1] for scope in EVERY_SCOPE}
    streams = {scope: await reader.subscribe() for scope, reader in readers.items()}
    discord.bot.dispatch("hub_ticket_created", int(GUILD), 7001)
    discord.bot.dispatch("hub_transcript_created", int(GUILD), 7002)
    discord.bot.dispatch("hub_drop_claimed", int(GUILD), 250, 3)
    discord.bot.dispatch("hub_ticket_closed", int(GUILD), 12)
    discord.bot.dispatch("hub_member_verified", int(GUILD), 7003)
    events = {scope: (await stream.events(1))[0] for scope, stream in streams.items()}
    assert {event.guild_id for event in events.values()} == {GUILD}
    assert events["TICKET_CREATED"].ticket_created.creator_user_id == "7001"
    assert events["TRANSCRIPT_CREATED"].transcript_created.creator_user_id == "7002"
    assert (events["DROP_CLAIMED"].drop_claimed.xp_amount, events["DROP_CLAIMED"].drop_claimed.unb_amount) == (250, 3)
    assert events["TICKET_STATS"].ticket_closed.message_count == 12
    assert events["MEMBER_VERIFIED_IDENTITY"].member_verified.user_id == "7003"
    assert events["MEMBER_VERIFIED"].HasField("member_verified")
    assert not events["MEMBER_VERIFIED"].member_verified.HasField("user_id")


def close_tickets(bot: commands.Bot, numbers: range) -> None:
    """So many tickets are closed, each with another number of messages."""
    for number in numbers:
        bot.dispatch("hub_ticket_closed", int(GUILD), number)


async def test_events_survive_a_killed_hub(real: RealHub, start_bot: StartBot) -> None:
    """Events from before, during and after the outage arrive in order, once."""
    key = (await asyncio.to_thread(real.register))[1]
    bot = await start_bot(real.address, real.keys["BOT"])
    close_tickets(bot, range(20))
    await asyncio.to_thread(real.end, signal.SIGKILL)  # some are stored, some are not, of some nobody knows
    close_tickets(bot, range(20, 40))
    await until(lambda: waiting(bot) >= 20)
    await asyncio.to_thread(real.start)
    close_tickets(bot, range(40, 60))
    assert await message_counts(real, key, 60) == list(range(60))
    await until(lambda: waiting(bot) == 0)


async def test_events_survive_a_bot_that_stops_while_the_hub_is_down(real: RealHub, start_bot: StartBot) -> None:
    """They are in the outbox; the next run sends them in order, once."""
    key = (await asyncio.to_thread(real.register))[1]
    bot = await start_bot(real.address, real.keys["BOT"])
    await asyncio.to_thread(real.end, signal.SIGKILL)
    close_tickets(bot, range(20))
    await bot.close()
    await asyncio.to_thread(real.start)
    bot = await start_bot(real.address, real.keys["BOT"])
    close_tickets(bot, range(20, 21))
    assert await message_counts(real, key, 21) == list(range(21))
