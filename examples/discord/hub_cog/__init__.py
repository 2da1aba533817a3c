"""The bot's side of the Tickets hub, as an extension for discord.py: ``await bot.load_extension("hub_cog")``.

It reads HUB_ADDRESS, HUB_BOT_KEY and HUB_OUTBOX from the environment; README.md explains them.
"""

import os

from discord.ext import commands
from tickets_hub import AsyncClient

from .calls import Hub
from .developers import Developers
from .events import Events
from .integrations import Integrations


async def setup(bot: commands.Bot) -> None:
    """Connect to the hub, and add the cogs. What an earlier run left in the outbox is sent from now on."""
    client = AsyncClient(
        os.environ["HUB_ADDRESS"],
        os.environ["HUB_BOT_KEY"],
        outbox=os.environ.get("HUB_OUTBOX", "hub-outbox.db"),
    )
    await bot.add_cog(Events(client))  # first: it closes the client
    hub = Hub(client)
    await bot.add_cog(Integrations(hub))
    await bot.add_cog(Developers(hub))
