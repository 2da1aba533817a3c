"""``t!integrationdev``: what a developer of an integration does without an admin. Every answer is a direct message."""

import io
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Literal

import discord
from discord.ext import commands
from google.protobuf.field_mask_pb2 import FieldMask
from tickets_hub import HubCallError
from tickets_hub.v1.developer_service_pb2 import (
    GetOwnIntegrationRequest,
    ListOwnIntegrationsRequest,
    RotateOwnKeyRequest,
    SendTestEventRequest,
    UpdateProfileRequest,
)
from tickets_hub.v1.integration_pb2 import Integration
from tickets_hub.v1.webhook_service_pb2 import (
    CreateEndpointRequest,
    DeleteEndpointRequest,
    Endpoint,
    GetEndpointRequest,
    ListAttemptsRequest,
    RotateEndpointSecretRequest,
    UpdateEndpointRequest,
    VerifyEndpointRequest,
)

from . import texts
from .calls import Hub, explanation

Context = commands.Context[Any]

VERIFYING = 45.0
"""Seconds: to verify an endpoint the hub asks the receiver twice, and waits for each answer."""


class Developers(commands.Cog):
    """The command group. The hub itself sees to it that everyone reaches their own integrations only."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    @commands.group(invoke_without_command=True)
    async def integrationdev(self, ctx: Context) -> None:
        """List your integrations."""
        request = ListOwnIntegrationsRequest(acting_user_id=str(ctx.author.id), page_size=10)
        while True:
            found = await self._hub.call(self._hub.developers.ListOwnIntegrations, request)
            await self._tell(ctx, "", texts.owned(found, await self._hub.scopes()))
            request.page_token = found.next_page_token
            if not request.page_token:
                return

    @integrationdev.command()  # type: ignore[arg-type]  # mypy loses track in Group.command, here and below
    async def profile(
        self,
        ctx: Context,
        integration: str,
        field: Literal["display_name", "description", "documentation_url", "support_url"],
        *,
        text: str,
    ) -> None:
        """Change what everybody reads about it."""
        changes = Integration()
        setattr(changes, field, text)
        request = UpdateProfileRequest(
            integration_id=integration,
            acting_user_id=str(ctx.author.id),
            integration=changes,
            update_mask=FieldMask(paths=[field]),
        )
        changed = (await self._hub.call(self._hub.developers.UpdateProfile, request)).integration
        await self._tell(ctx, f"{texts.plain(changed.display_name)}: {field} is changed.")

    @integrationdev.command()  # type: ignore[arg-type]
    async def key(self, ctx: Context, integration: str) -> None:
        """Make a new key; the earlier one remains valid for a day."""

        async def rotate() -> tuple[str, str]:
            request = RotateOwnKeyRequest(integration_id=integration, acting_user_id=str(ctx.author.id))
            made = await self._hub.call(self._hub.developers.RotateOwnKey, request)
            ends = [f"`{key.key_id}` ends {texts.day(key.expire_time)}." for key in made.previous_keys]
            return made.key.secret, " ".join([f"The new key of the integration is `{made.key.key_id}`.", *ends])

        await self._hand_over(ctx, "HUB_KEY", rotate)

    @integrationdev.command()  # type: ignore[arg-type]
    async def test(self, ctx: Context, integration: str, kind: str = "") -> None:
        """Send a test event of a kind that it receives, as "ticket_created", to its own streams and webhooks."""
        me = str(ctx.author.id)
        about = GetOwnIntegrationRequest(integration_id=integration, acting_user_id=me)
        own = (await self._hub.call(self._hub.developers.GetOwnIntegration, about)).integration
        kinds = texts.kinds_of(grant.scope for grant in own.grants)
        if (kind or not kinds) and kind not in kinds:
            await self._tell(ctx, f"It receives no such event, only: {', '.join(kinds) or 'nothing yet'}.")
            return
        sample = texts.sample(kind or kinds[0], str(ctx.guild.id if ctx.guild else ctx.author.id), me)
        request = SendTestEventRequest(integration_id=integration, acting_user_id=me, event=sample)
        sent = await self._hub.call(self._hub.developers.SendTestEvent, request)
        if sent.stream_count:
            text = f"The test event `{sent.event_id}` went to {sent.stream_count} streams and webhooks."
        else:
            text = "No open stream or webhook shows the test event: connect one first."
        await self._tell(ctx, text)

    @integrationdev.command()  # type: ignore[arg-type]
    async def url(self, ctx: Context, integration: str, url: str) -> None:
        """Have events delivered to a URL; "none" ends that. A first URL gets its secret."""
        names = {"integration_id": integration, "acting_user_id": str(ctx.author.id)}
        verify = f"`{ctx.clean_prefix}integrationdev verify {integration}`"
        if url == "none":
            await self._hub.call(self._hub.webhooks.DeleteEndpoint, DeleteEndpointRequest(**names))
            await self._tell(ctx, "Nothing is delivered to a URL any more.")
        elif await self._has_endpoint(names):
            changed = UpdateEndpointRequest(**names, endpoint=Endpoint(url=url), update_mask=FieldMask(paths=["url"]))
            await self._hub.call(self._hub.webhooks.UpdateEndpoint, changed)
            await self._tell(ctx, f"The URL is changed. Verify it: {verify}.")
        else:

            async def create() -> tuple[str, str]:
                request = CreateEndpointRequest(**names, endpoint=Endpoint(url=url))
                made = await self._hub.call(self._hub.webhooks.CreateEndpoint, request)
                return made.secret, f"Give it to your receiver, then verify the URL: {verify}."

            await self._hand_over(ctx, "WEBHOOK_SECRET", create)

    @integrationdev.command()  # type: ignore[arg-type]
    async def verify(self, ctx: Context, integration: str) -> None:
        """Have the hub verify your receiver; then delivery begins."""
        request = VerifyEndpointRequest(integration_id=integration, acting_user_id=str(ctx.author.id))
        await self._hub.call(self._hub.webhooks.VerifyEndpoint, request, VERIFYING)
        await self._tell(ctx, "Your receiver is verified: events are delivered to it from now on.")

    @integrationdev.command()  # type: ignore[arg-type]
    async def secret(self, ctx: Context, integration: str) -> None:
        """Make a new secret for your receiver; the earlier one signs beside it for a day."""

        async def rotate() -> tuple[str, str]:
            request = RotateEndpointSecretRequest(integration_id=integration, acting_user_id=str(ctx.author.id))
            made = await self._hub.call(self._hub.webhooks.RotateEndpointSecret, request)
            return made.secret, f"The earlier secret ends {texts.day(made.previous_secret_expire_time)}."

        await self._hand_over(ctx, "WEBHOOK_SECRET", rotate)

    @integrationdev.command()  # type: ignore[arg-type]
    async def webhook(self, ctx: Context, integration: str) -> None:
        """See how delivery to your URL goes."""
        names = {"integration_id": integration, "acting_user_id": str(ctx.author.id)}
        endpoint = (await self._hub.call(self._hub.webhooks.GetEndpoint, GetEndpointRequest(**names))).endpoint
        tried = await self._hub.call(self._hub.webhooks.ListAttempts, ListAttemptsRequest(**names))
        await self._tell(ctx, "", texts.webhook(endpoint, tried.attempts))

    async def cog_command_error(self, ctx: Context, error: Exception) -> None:
        """Say what went wrong."""
        if isinstance(error, commands.CommandInvokeError):
            error = error.original
        if isinstance(error, HubCallError):
            text = explanation(error)
        elif isinstance(error, commands.UserInputError) and ctx.command:
            usage = f"{ctx.clean_prefix}{ctx.command.qualified_name} {ctx.command.signature}"
            text = f"{texts.plain(str(error))} It is `{usage}`."
        elif isinstance(error, discord.Forbidden):
            await ctx.send("I cannot send you a direct message: allow them for this server, then try again.")
            return
        else:
            raise error
        await self._tell(ctx, text)

    async def _has_endpoint(self, names: dict[str, str]) -> bool:
        try:
            await self._hub.call(self._hub.webhooks.GetEndpoint, GetEndpointRequest(**names))
        except HubCallError as failure:
            if failure.reason == "ENDPOINT_NOT_FOUND":
                return False
            raise
        return True

    async def _hand_over(self, ctx: Context, name: str, make: Callable[[], Awaitable[tuple[str, str]]]) -> None:
        """Make a secret and send it, as a file: discord.py logs the texts of messages at its level DEBUG.

        Nothing is made for somebody whom no direct message reaches. A secret that does not arrive is lost: the next
        one replaces it.
        """
        await ctx.author.send(
            "The next message holds a secret. Keep it where nobody else reads, then delete the message."
        )
        secret, text = await make()
        await ctx.author.send(text, file=discord.File(io.BytesIO(f"{name}={secret}\n".encode()), f"{name}.env"))
        await self._mark(ctx)

    async def _tell(self, ctx: Context, text: str = "", *embeds: discord.Embed) -> None:
        """Send a direct message."""
        await ctx.author.send(text, embeds=embeds, allowed_mentions=discord.AllowedMentions.none())
        await self._mark(ctx)

    async def _mark(self, ctx: Context) -> None:
        """Show in the channel of the command that the answer is in the direct messages."""
        if ctx.guild is not None:
            with suppress(discord.HTTPException):  # it may not react there
                await ctx.message.add_reaction("\N{INCOMING ENVELOPE}")
