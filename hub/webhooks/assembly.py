"""Builds the parts of webhooks."""

import asyncio
import secrets
import socket
from contextlib import suppress
from ipaddress import ip_address
from typing import NamedTuple

from hub.addresses import ADDRESS, networks
from hub.clock import Clock
from hub.config import Settings
from hub.control.endpoint_changes import EndpointChanges
from hub.control.hub_secret import HubSecret
from hub.control.registry import Registry
from hub.delivery.cursor import CursorSeal
from hub.delivery.streams import Streams
from hub.storage import Log
from hub.webhooks.bodies import Bodies
from hub.webhooks.destinations import Address, Policy, unwrapped
from hub.webhooks.dispatcher import Parts
from hub.webhooks.dispatchers import Dispatchers
from hub.webhooks.envelope import Envelope
from hub.webhooks.places import Places
from hub.webhooks.presence import Presence
from hub.webhooks.schedule import GIVEN_UP_AFTER
from hub.webhooks.sender import Sender
from hub.webhooks.signing import Signer


class Delivery(NamedTuple):
    """The dispatchers of a hub, and what WebhookService needs beside them."""

    dispatchers: Dispatchers
    envelope: Envelope
    policy: Policy
    changes: EndpointChanges


async def policy_of(settings: Settings) -> Policy:
    """Where requests may go, by the settings and the addresses of this machine."""
    ports = frozenset(int(port) for port in settings.webhook_ports.split(","))
    own = await asyncio.to_thread(own_addresses, settings)
    return Policy(tuple(networks(settings.webhook_allow)), tuple(networks(settings.webhook_deny)), ports, own)


def own_addresses(settings: Settings) -> frozenset[Address]:
    """The addresses by which this machine and the store are known by name. Blocks."""
    stores = settings.storage.partition("://")[2].split(",") if "://" in settings.storage else []
    hosts = [socket.gethostname(), *(part.rpartition("://")[2] for part in stores)]
    found = set[Address]()
    for host in hosts:
        named = ADDRESS.fullmatch(host)
        with suppress(OSError, UnicodeError):
            infos = socket.getaddrinfo(named[1].strip("[]") if named else host, None)
            found.update(unwrapped(ip_address(str(info[4][0]).partition("%")[0])) for info in infos)
    return frozenset(found)


def assemble(  # noqa: PLR0913  the parts that it puts together
    log: Log,
    registry: Registry,
    streams: Streams,
    changes: EndpointChanges,
    secret: HubSecret,
    seal: CursorSeal,
    policy: Policy,
    settings: Settings,
    clock: Clock,
) -> Delivery:
    """Build the parts; nothing runs yet."""
    hub_id = secrets.token_hex(8)
    parts = Parts(
        registry,
        streams,
        seal,
        Sender(settings, policy, clock),
        Envelope(Signer(secret), clock),
        Bodies(),
        Places(log, registry, clock, hub_id),
        clock,
        min(GIVEN_UP_AFTER, settings.retention),
    )
    presence = Presence(log, registry, clock, hub_id, is_alone=settings.storage == "sqlite")
    return Delivery(Dispatchers(parts, presence, changes), parts.envelope, policy, changes)
