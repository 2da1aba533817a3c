"""A bot that has the cog and nothing else: what a bot of yours has to do for it.

export DISCORD_TOKEN=... HUB_ADDRESS=127.0.0.1:50051 HUB_BOT_KEY=tkt_bot_...
python examples/discord/bot.py
"""

import os

import discord
from discord.ext import commands


class TicketsBot(commands.Bot):
    """Loads the cog, and tells Discord its commands."""

    def __init__(self) -> None:
        intents = discord.Intents.default()
        intents.message_content = True  # for t!integrationdev in a channel
        super().__init__(command_prefix="t!", intents=intents)

    async def setup_hook(self) -> None:
        """Runs before the bot connects."""
        await self.load_extension("hub_cog")
        await self.tree.sync()


if __name__ == "__main__":
    TicketsBot().run(os.environ["DISCORD_TOKEN"])
