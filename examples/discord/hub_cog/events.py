"""Emits what happens in the bot: ``bot.dispatch("hub_ticket_created", guild.id, user.id)`` is all that a bot adds.

An event goes into the outbox, a file of the bot's own; the client sends it once the hub is there. ``dispatch`` does not
wait for the file: what it took in the last milliseconds before a bot is killed is lost. A method that is awaited has
the event on disk when it returns: ``await bot.get_cog("Events").ticket_created(guild.id, user.id)``.
"""

import asyncio

from discord.ext import commands
from tickets_hub import AsyncClient
from tickets_hub.v1.event_pb2 import DropClaimed, Event, MemberVerified, TicketClosed, TicketCreated, TranscriptCreated


class Events(commands.Cog):
    """A method for each kind of event; it also listens for the event of that name with ``hub_`` before it."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    @commands.Cog.listener("on_hub_ticket_created")
    async def ticket_created(self, guild_id: int, user_id: int) -> None:
        """Somebody created a ticket."""
        await self._emit(guild_id, Event(ticket_created=TicketCreated(creator_user_id=str(user_id))))

    @commands.Cog.listener("on_hub_ticket_closed")
    async def ticket_closed(self, guild_id: int, messages: int) -> None:
        """A ticket was closed, with so many messages in it."""
        await self._emit(guild_id, Event(ticket_closed=TicketClosed(message_count=messages)))

    @commands.Cog.listener("on_hub_transcript_created")
    async def transcript_created(self, guild_id: int, user_id: int) -> None:
        """Somebody created a transcript."""
        await self._emit(guild_id, Event(transcript_created=TranscriptCreated(creator_user_id=str(user_id))))

    @commands.Cog.listener("on_hub_drop_claimed")
    async def drop_claimed(self, guild_id: int, xp: int, money: int) -> None:
        """A drop was claimed; it gave so much XP and UnbelievaBoat money."""
        await self._emit(guild_id, Event(drop_claimed=DropClaimed(xp_amount=xp, unb_amount=money)))

    @commands.Cog.listener("on_hub_member_verified")
    async def member_verified(self, guild_id: int, user_id: int) -> None:
        """A member was verified. The hub shows who it was only to integrations that may know."""
        await self._emit(guild_id, Event(member_verified=MemberVerified(user_id=str(user_id))))

    async def _emit(self, guild_id: int, event: Event) -> None:
        event.guild_id = str(guild_id)
        await self._client.emit(event)

    async def cog_unload(self) -> None:
        """Send for two seconds what waits, then leave the rest in the outbox for the next start."""
        await asyncio.sleep(0)  # one turn of the loop: what was dispatched until now reaches the outbox first
        await self._client.aclose()
