"""Answers with buttons: pages, and questions. Only the person who asked sees them, and may press."""

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

import discord
from discord import app_commands
from tickets_hub import HubCallError

from .calls import explanation

logger = logging.getLogger(__name__)

LoadPage = Callable[[str], Awaitable[tuple[discord.Embed, str]]]
"""From the token of a page to the page and the token of the next one; "" is the first page, and none."""

TIME_TO_ANSWER = 300.0
"""Seconds, well below the 15 minutes for which Discord lets a bot change its answer."""


def require_manager(interaction: discord.Interaction) -> bool:
    """Permit it to those who manage the server.

    Raises:
        app_commands.CheckFailure: it is somebody else, or not in a server.
    """
    if interaction.guild_id is None:
        raise app_commands.NoPrivateMessage
    if not interaction.permissions.manage_guild:
        raise app_commands.MissingPermissions(["manage_guild"])
    return True


async def answer_error(interaction: discord.Interaction, error: Exception) -> None:
    """Tell the person who asked, and nobody else, what went wrong."""
    if isinstance(error, app_commands.CommandInvokeError):
        error = error.original
    if isinstance(error, HubCallError):
        text = explanation(error)
    elif isinstance(error, app_commands.MissingPermissions):
        text = "This is for those who may manage the server."
    elif isinstance(error, app_commands.NoPrivateMessage):
        text = "This works in a server only."
    else:
        logger.error("a command failed", exc_info=error)
        text = "This bot made a mistake; its maintainers find it in their log."
    if interaction.response.is_done():
        await interaction.followup.send(text, ephemeral=True)
    else:
        await interaction.response.send_message(text, ephemeral=True)


class Answer(discord.ui.View):
    """Buttons below the answer to an interaction, for some minutes."""

    def __init__(self, asked: discord.Interaction) -> None:
        super().__init__(timeout=TIME_TO_ANSWER)
        self._asked = asked

    async def interaction_check(self, interaction: discord.Interaction) -> bool:
        """Let only the person press who asked."""
        return interaction.user.id == self._asked.user.id

    async def on_timeout(self) -> None:
        """Take the buttons away."""
        with suppress(discord.NotFound):  # the person has dismissed the answer
            await self._asked.edit_original_response(view=None)

    async def on_error(self, interaction: discord.Interaction, error: Exception, _item: object) -> None:
        """Say what went wrong; the buttons stay, so that it can be tried again."""
        await answer_error(interaction, error)


class Pages(Answer):
    """A list of which one page is shown."""

    def __init__(self, asked: discord.Interaction, load: LoadPage) -> None:
        super().__init__(asked)
        self._load = load
        self._tokens: list[str] = []
        self._next = ""

    async def show(self, interaction: discord.Interaction, tokens: list[str]) -> None:
        """Show the page to which these tokens lead."""
        embed, self._next = await self._load(tokens[-1])
        self._tokens = tokens
        self.back.disabled = len(tokens) == 1
        self.forward.disabled = not self._next
        is_all = self.back.disabled and self.forward.disabled
        await interaction.edit_original_response(embed=embed, view=None if is_all else self)

    @discord.ui.button(label="Back")
    async def back(self, interaction: discord.Interaction, _: "discord.ui.Button[Pages]") -> None:
        """Show the page before."""
        await interaction.response.defer()
        await self.show(interaction, self._tokens[:-1])

    @discord.ui.button(label="Next")
    async def forward(self, interaction: discord.Interaction, _: "discord.ui.Button[Pages]") -> None:
        """Show the next page."""
        await interaction.response.defer()
        await self.show(interaction, [*self._tokens, self._next])


class Question(Answer):
    """Whether to do something: it is done only where somebody presses the button that says so."""

    def __init__(
        self, asked: discord.Interaction, label: str, do: Callable[[discord.Interaction], Awaitable[str]]
    ) -> None:
        super().__init__(asked)
        self._do = do
        self.yes.label = label

    @discord.ui.button(style=discord.ButtonStyle.danger)
    async def yes(self, interaction: discord.Interaction, _: "discord.ui.Button[Question]") -> None:
        """Do it, and say what was done."""
        await interaction.response.defer()
        done = await self._do(interaction)
        await self._close(interaction, done)

    @discord.ui.button(label="Cancel")
    async def no(self, interaction: discord.Interaction, _: "discord.ui.Button[Question]") -> None:
        """Leave everything as it is."""
        await interaction.response.defer()
        await self._close(interaction, "Nothing was changed.")

    async def on_timeout(self) -> None:
        """Count silence as a no."""
        with suppress(discord.NotFound):
            await self._close(self._asked, "Nobody agreed in time: nothing was changed.")

    async def _close(self, interaction: discord.Interaction, text: str) -> None:
        self.stop()
        await interaction.edit_original_response(content=text, embed=None, view=None)
