"""Which URLs and addresses the hub may send to: pure tables, no network.

It parses an endpoint's URL and checks an address. An endpoint's owner chooses the URL, so each rule here keeps an
attacker from making the hub call into its own networks. It does not know how a request is made.

``ipaddress.is_global`` calls NAT64, 6to4, multicast and 192.0.0.8 global, so the networks are listed here.
"""

import re
import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import NamedTuple

from yarl import URL

from hub.errors import InvalidRequest

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_REFUSED_V4 = tuple(
    IPv4Network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24"),
        *("203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
    )
)
"""This network, private, shared, loopback, link-local, protocols, tests, 6to4 relays, multicast, reserved."""

_CLOUDS = (IPv4Network("168.63.129.16/32"), IPv4Network("100.100.100.200/32"))
"""Addresses at which clouds serve their machines: public by the table, and never a receiver."""

_GLOBAL_V6 = IPv6Network("2000::/3")
_REFUSED_V6 = tuple(IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"))
"""Of the global unicast addresses: special purposes (Teredo among them), documentation, 6to4."""

_NAT64 = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))

_NAME = re.compile(r"(?=.{1,253}$)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)+[a-z0-9-]{2,63}", re.IGNORECASE)
_STRANGE = re.compile(r"[\x00-\x20\x7f\\]")
MAX_URL = 2_048

PORTS = {"https": 443, "http": 80}


class Target(NamedTuple):
    """The destination of an endpoint's URL.

    Attributes:
        host: a name in ASCII, or an address without brackets.
        address: the host, where it is one; None for a name.
    """

    scheme: str
    host: str
    port: int
    address: Address | None


class Policy(NamedTuple):
    """What the settings allow and refuse beyond the tables.

    Attributes:
        allow: within these networks plain http, every port and addresses in URLs are allowed, too.
        deny: never dialled, whatever else is allowed.
        ports: where https may go.
        own: addresses of the hub and of its store; only `allow` opens them.
    """

    allow: tuple[Network, ...] = ()
    deny: tuple[Network, ...] = ()
    ports: frozenset[int] = frozenset({443})
    own: frozenset[Address] = frozenset()

    def is_exempt(self, address: Address) -> bool:
        """Whether an address lies in a network that the settings open."""
        plain = unwrapped(address)
        return any(plain in network for network in self.allow)

    def why_refused(self, scheme: str, address: Address, port: int) -> str:
        """Why an address must not be dialled; "" = it may be."""
        plain = unwrapped(address)
        if any(plain in network for network in self.deny):
            return "the hub's settings refuse this address"
        if self.is_exempt(plain):
            return ""
        if not is_public(plain) or plain in self.own:
            return "the address is private or reserved"
        if scheme != "https":
            return "the URL must begin with https://"
        return "" if port in self.ports else f"port {port} is not allowed: use {self.named_ports}"

    @property
    def named_ports(self) -> str:
        """The allowed ports, in words."""
        return ", ".join(map(str, sorted(self.ports)))


def unwrapped(address: Address) -> Address:
    """The IPv4 address in a mapped one; others unchanged."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped if mapped is not None else address


def is_public(address: Address) -> bool:
    """Whether an address is one of the public Internet, by the tables above."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in (*_REFUSED_V4, *_CLOUDS))
    if address.ipv4_mapped is not None:
        return is_public(address.ipv4_mapped)
    if any(address in network for network in _NAT64) or address not in _GLOBAL_V6:
        return False
    return not any(address in network for network in _REFUSED_V6)


def target_of(url: str, policy: Policy, field: str = "endpoint.url") -> Target:
    """Where a URL leads, if the hub may send there; a name is checked again once its addresses are known.

    Raises:
        InvalidRequest: it may not; names `field`.
    """
    why, target = _read(url)
    if target is not None:
        why = _why_not(target, policy)
        if not why:
            return target
    raise InvalidRequest.field(field, why)


def _read(url: str) -> tuple[str, Target | None]:
    """The target of a URL, or why there is none."""
    if len(url) > MAX_URL or _STRANGE.search(url):
        return f"must be a URL of at most {MAX_URL} characters without blanks and backslashes", None
    try:
        parsed = URL(url)
        host, port = (parsed.raw_host or "").rstrip(".").lower(), parsed.port
    except ValueError:
        return "is not a URL", None
    address = literal(host)
    for is_wrong, why in (
        (parsed.scheme not in PORTS, "must begin with https://"),
        ("@" in _authority(url), "must not hold a user name or a password: requests are signed instead"),
        ("#" in url, "must not hold a fragment (#...)"),
        (not host or not port, "must name a host"),
        (address is None and not _NAME.fullmatch(host), "must name a host, such as hooks.example.com"),
    ):
        if is_wrong:
            return why, None
    return "", Target(parsed.scheme, str(address) if address is not None else host, port or 0, address)


def _why_not(target: Target, policy: Policy) -> str:
    """Why a URL is refused before anything is looked up."""
    if target.address is not None:
        if not policy.is_exempt(target.address):
            return "must name a host, not an address"
        return policy.why_refused(target.scheme, target.address, target.port)
    if policy.allow:
        return ""  # what its name leads to decides
    if target.scheme != "https":
        return "must begin with https://"
    return "" if target.port in policy.ports else f"must use port {policy.named_ports}"


def literal(host: str) -> Address | None:
    """The address that a host is, in any notation that a resolver takes; None for a name.

    IPv4 has old forms, too: 127.1, 0x7f000001, 2130706433, 0177.0.0.1.
    """
    try:
        return ip_address(host.partition("%")[0])
    except ValueError:
        pass
    if re.fullmatch(r"0x[0-9a-f]*|[0-9]+", host.rpartition(".")[2], re.IGNORECASE):
        try:
            return IPv4Address(socket.inet_aton(host))
        except (OSError, UnicodeError):
            return IPv4Address(0)  # no resolver takes it; this address is refused
    return None


def _authority(url: str) -> str:
    """Host, port and everything else before the path, as it is written."""
    return re.split(r"[/?#]", url.partition("://")[2], maxsplit=1)[0]
