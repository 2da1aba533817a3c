"""What people read about integrations. Texts that strangers wrote are shown as they are: nothing in them is a link."""

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence

import discord
from google.protobuf.timestamp_pb2 import Timestamp
from tickets_hub.v1.developer_service_pb2 import ListOwnIntegrationsResponse
from tickets_hub.v1.directory_service_pb2 import DirectoryEntry, ScopeDescription
from tickets_hub.v1.event_pb2 import Event
from tickets_hub.v1.integration_pb2 import GUILD_ACCESS_ALL, IntegrationState
from tickets_hub.v1.permissions_pb2 import Scope, delivered_to, subject
from tickets_hub.v1.privacy_service_pb2 import DISCLOSURE_CHANNEL_WEBHOOK, Disclosure, Erasure, ErasureState
from tickets_hub.v1.webhook_service_pb2 import Attempt, DeliveryFailure, Endpoint, EndpointState

Scopes = Mapping[int, ScopeDescription]

LONGEST_URL = 300


def plain(text: str, length: int = 500) -> str:
    """A text on one line, cut to a length, without what Discord would format, link or take for a mention."""
    return re.sub(r"([\\*_~`|>#\[\]<])", r"\\\1", textwrap.shorten(text, length, placeholder="..."))


def url(text: str) -> str:
    """A URL where there is room for it."""
    return text if len(text) <= LONGEST_URL else "(too long to show here)"


def day(time: Timestamp) -> str:
    """A time, as Discord shows it to each reader in their own time zone."""
    return f"<t:{time.seconds}:f>" if time.seconds else "never"


def add_scopes(embed: discord.Embed, granted: Iterable[Scope.ValueType], scopes: Scopes) -> None:
    """Add what each scope delivers: its level, in words, and field by field."""
    for scope in granted:
        row = scopes[scope]
        fields = "\n".join(f"`{field}`" for field in row.fields)
        embed.add_field(name=f"Level {row.level}: {row.title}", value=f"{row.description}\n{fields}", inline=False)


def consent(entry: DirectoryEntry, scopes: Scopes) -> discord.Embed:
    """What a guild agrees to when it installs an integration."""
    embed = discord.Embed(title=f"Install {plain(entry.display_name)}?", description=plain(entry.description, 1000))
    add_scopes(embed, entry.scopes, scopes)
    embed.add_field(name="Documentation", value=url(entry.documentation_url), inline=False)
    embed.add_field(name="Support", value=url(entry.support_url), inline=False)
    everywhere = entry.guild_access == GUILD_ACCESS_ALL
    embed.set_footer(
        text="It receives exactly this, from "
        + ("every server that has not uninstalled it." if everywhere else "the moment at which you agree.")
    )
    return embed


def listed(entries: Iterable[DirectoryEntry], scopes: Scopes) -> discord.Embed:
    """A page of the directory."""
    embed = discord.Embed(title="Integrations")
    for entry in entries:
        receives = ", ".join(scopes[scope].title for scope in entry.scopes) or "nothing yet"
        value = (
            f"{plain(entry.description, 200)}\n**Receives** {receives} (level {entry.highest_level})\n"
            f"In {entry.guild_count} servers"
        )
        embed.add_field(name=plain(entry.display_name), value=value, inline=False)
    if not embed.fields:
        embed.description = "No integration fits."
    return embed


def disclosures(found: Iterable[Disclosure]) -> discord.Embed:
    """Which integrations received what about a user."""
    embed = discord.Embed(title="Who received what about you")
    for one in found:
        fields = ", ".join(f"`{field}`" for field in one.fields)
        way = "at its URL" if one.by == DISCLOSURE_CHANNEL_WEBHOOK else "by its stream"
        value = f"{fields}\n{one.event_count} events {way}, {day(one.first_time)} to {day(one.last_time)}"
        value += "\nIt has confirmed that it is to forget you." if one.confirmed else ""
        embed.add_field(name=plain(one.display_name), value=value, inline=False)
    if not embed.fields:
        embed.description = "Nobody has received anything about you that the hub still knows of."
    return embed


def erasure(about: Erasure) -> str:
    """How far an erasure is."""
    state = ErasureState.Name(about.state).removeprefix("ERASURE_STATE_").lower()
    confirmed = sum(notice.HasField("confirm_time") for notice in about.notices)
    told = (
        f" {len(about.notices)} integrations have to forget you, {confirmed} have confirmed." if about.notices else ""
    )
    return (
        f"Nothing about you from before {day(about.request_time)} is delivered any more. "
        f"The hub's own copies: {state}, {about.progress:.0%}.{told}\n"
        f"Ask again with `/integrations forget-me` and the number `{about.erasure_id}`."
    )


def owned(found: ListOwnIntegrationsResponse, scopes: Scopes) -> discord.Embed:
    """A developer's own integrations, and how delivery to their URLs goes."""
    embed = discord.Embed(title="Your integrations")
    delivery = {one.integration_id: life(one.state) for one in found.endpoints if one.endpoint_id == "default"}
    for one in found.integrations:
        state = IntegrationState.Name(one.state).removeprefix("INTEGRATION_STATE_").lower()
        why = f" ({plain(one.state_reason, 200)})" if one.state_reason else ""
        receives = ", ".join(scopes[grant.scope].name for grant in one.grants) or "nothing yet"
        address = f"{url(one.endpoint_url)} is {delivery[one.integration_id]}" if one.endpoint_url else "none"
        value = f"`{one.integration_id}` is {state}{why}\n**Receives** {receives}\n**URL** {address}"
        embed.add_field(name=plain(one.display_name), value=value, inline=False)
    if not embed.fields:
        embed.description = "You have none."
    return embed


def webhook(endpoint: Endpoint, attempts: Sequence[Attempt]) -> discord.Embed:
    """How delivery to a URL goes, with its newest requests."""
    embed = discord.Embed(title=f"Your webhook is {life(endpoint.state)}", description=url(endpoint.url))
    if endpoint.disable_reason:
        embed.add_field(name="Why", value=plain(endpoint.disable_reason), inline=False)
    embed.add_field(name="Behind", value=f"{endpoint.lag.ToTimedelta().total_seconds():.0f} s")
    embed.add_field(name="Last success", value=day(endpoint.last_success_time))
    if endpoint.last_failure:
        embed.add_field(name="Fails since", value=f"{day(endpoint.failing_since)}: {failure(endpoint.last_failure)}")
    lines = [
        f"{day(one.time)} {one.type}, {one.events} events: "
        + (failure(one.category) if one.category else "accepted")
        + (f" (HTTP {one.http_status})" if one.http_status else "")
        for one in attempts[:5]
    ]
    embed.add_field(name="Newest requests", value="\n".join(lines) or "none", inline=False)
    return embed


def life(state: EndpointState.ValueType) -> str:
    """The state of an endpoint in a word."""
    return EndpointState.Name(state).removeprefix("ENDPOINT_STATE_").lower()


def failure(category: DeliveryFailure.ValueType) -> str:
    """A failure by the name under which docs/webhooks.md explains it."""
    return f"`{DeliveryFailure.Name(category).removeprefix('DELIVERY_FAILURE_')}`"


def kinds_of(granted: Iterable[Scope.ValueType]) -> list[str]:
    """The kinds of events that scopes deliver, as the contract has it: "ticket_created"."""
    scopes = set(granted)
    return [
        kind.name
        for kind in Event.DESCRIPTOR.oneofs_by_name["payload"].fields
        if kind.message_type and scopes & set(kind.message_type.GetOptions().Extensions[delivered_to])
    ]


def sample(kind: str, guild_id: str, user_id: str) -> Event:
    """An event of a kind that could have happened, with this user wherever it names one."""
    event = Event(guild_id=guild_id)
    payload = getattr(event, kind)
    payload.SetInParent()
    for field in payload.DESCRIPTOR.fields:
        if field.GetOptions().Extensions[subject]:
            setattr(payload, field.name, user_id)
    return event
