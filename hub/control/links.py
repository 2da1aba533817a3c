"""Whether the host of a link is public: localhost and private addresses are not.

Looks only at the text of the link; names are not resolved. For ``ipaddress.is_global`` NAT64, 6to4, multicast and more
are global, so the networks are listed here.
"""

import re
import socket
import unicodedata
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import unquote, urlsplit

LOCAL_NAMES = (
    "localhost",
    "localdomain",
    "local",
    "internal",
    "intranet",
    "lan",
    "home",
    "corp",
    "home.arpa",
)
"""Names, and ends of names, that have a meaning only on one machine or network (RFC 6761, 6762, 8375)."""

_NETWORKS: tuple[IPv4Network | IPv6Network, ...] = tuple(
    ip_network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24"),
        *("192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3"),
    )
)
"""IPv4 that is not public: this network, private, shared, loopback, link-local, tests, multicast, reserved."""

_GLOBAL = ip_network("2000::/3")
_NOT_GLOBAL = tuple(ip_network(text) for text in ("2001::/23", "2001:db8::/32", "3fff::/20"))
"""Parts of the global IPv6: special purposes (Teredo among them) and documentation."""

_NAT64, _6TO4 = ip_network("64:ff9b::/96"), ip_network("2002::/16")


def is_public(url: str) -> bool:
    """Whether the host of an https URL can be reached from elsewhere."""
    host = _host(url)
    address = _address(host)
    if address is not None:
        return _is_public_address(address)
    if "." not in host or not re.fullmatch(r"[^\[\]:]+", host):
        return False
    return not any(host == name or host.endswith(f".{name}") for name in LOCAL_NAMES)


def _host(url: str) -> str:
    """The host as a browser reads it: without escapes, in lower case, with plain digits and dots."""
    text = unicodedata.normalize("NFKC", unquote(urlsplit(url).netloc.rpartition("@")[2])).lower()
    text = text.replace("\u3002", ".")
    return re.sub(r":\d*$", "", text).rstrip(".")


def _address(host: str) -> IPv4Address | IPv6Address | None:
    """The IP address that a host denotes; None for a name. IPv4 in the old forms too: 127.1, 0x7f000001, 2130706433."""
    if host.startswith("["):
        try:
            return ip_address(host.strip("[]").partition("%")[0])
        except ValueError:
            return None
    if not re.fullmatch(r"(0x[0-9a-f]*|[0-9]+)", host.rpartition(".")[2]):
        return None
    try:
        return IPv4Address(socket.inet_aton(host))
    except (OSError, UnicodeError):
        return IPv4Address(0)  # no browser opens it


def _is_public_address(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NETWORKS)
    if address.ipv4_mapped is not None:
        return _is_public_address(address.ipv4_mapped)
    if address in _NAT64:
        return _is_public_address(IPv4Address(int(address) & 0xFFFFFFFF))
    if address in _6TO4:
        return _is_public_address(IPv4Address(int(address) >> 80 & 0xFFFFFFFF))
    return address in _GLOBAL and not any(address in network for network in _NOT_GLOBAL)


def redacted(url: str) -> str:
    """A URL without its path and query, which may hold a secret."""
    scheme, separator, rest = url.partition("://")
    host = re.split(r"[/?#]", rest, maxsplit=1)[0]
    return f"{scheme}{separator}{host}/..." if len(host) < len(rest.rstrip("/")) else url
