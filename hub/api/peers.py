"""Where calls come from: the address for limits and for logs, also behind a proxy."""

import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple, Protocol
from urllib.parse import unquote

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

FORWARDED = "x-forwarded-for"
CACHED_PEERS = 4_096
"""Peers whose address is kept at hand; a connection is one peer."""

SITE = 64
"""Bits of an IPv6 address that name one network: its holder has 2^64 addresses."""


class Call(Protocol):
    """The part of gRPC's context that tells where a call comes from."""

    def peer(self) -> str:
        """The other end of the connection."""

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]] | None:
        """The metadata of the call."""


class Origin(NamedTuple):
    """Where a call comes from.

    Attributes:
        peer: for logs: gRPC's text for a direct caller, the address for one behind a proxy.
        address: for limits; without the port, and for IPv6 only the network.
    """

    peer: str
    address: str


class Addresses:
    """Finds the origin of calls.

    Args:
        proxies: the proxies whose x-forwarded-for is trusted.
    """

    def __init__(self, proxies: Iterable[Network]) -> None:
        self._proxies = tuple(proxies)
        self._direct = lru_cache(CACHED_PEERS)(direct)

    def of(self, call: Call) -> Origin:
        """The origin of a call."""
        peer = call.peer()
        origin = self._direct(peer)
        if self._proxies and self._is_proxy(host_of(peer)):
            return self._forwarded(call) or origin
        return origin

    def _forwarded(self, call: Call) -> Origin | None:
        """The last address in x-forwarded-for that is not a trusted proxy; those before it may be forged."""
        values = [str(value) for name, value in call.invocation_metadata() or () if name == FORWARDED]
        for text in reversed(",".join(values).split(",")):
            host = parsed(text)
            if host is None:
                return None
            if not self._is_proxy(host):
                return Origin(str(host), counted(host))
        return None

    def _is_proxy(self, host: IPAddress | None) -> bool:
        return host is not None and any(host in network for network in self._proxies)


def direct(peer: str) -> Origin:
    """The origin of a caller that is connected to the hub itself."""
    host = host_of(peer)
    return Origin(peer, counted(host) if host is not None else peer.partition(":")[0])


def host_of(peer: str) -> IPAddress | None:
    """The address in gRPC's text for a peer: "ipv4:192.0.2.1:50000", "ipv6:%5B2001:db8::1%5D:50000"."""
    return parsed(unquote(peer).partition(":")[2])


def parsed(text: str) -> IPAddress | None:
    """An address, with or without a port; None if it is not one. IPv4 within IPv6 counts as IPv4."""
    found = re.fullmatch(r"\[([^\]]*)\](?::\d+)?|([^:]*)(?::\d+)?|(.*)", text.strip())
    if found is None:
        return None
    host = (found[1] or found[2] or found[3] or "").partition("%")[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def counted(host: IPAddress) -> str:
    """The name under which limits count an address."""
    if host.version == 4:
        return str(host)
    return str(ipaddress.ip_network((host, SITE), strict=False))
