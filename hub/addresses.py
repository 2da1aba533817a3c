"""Addresses in settings: a host with its port, and networks."""

import re
from ipaddress import IPv4Network, IPv6Network, ip_network

ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]\s/@,\0]+)(?::(\d{1,5}))?")
"""A host, with or without a port."""


OFF = "off"
"""In place of an address: do not listen."""


def check_address(text: str) -> str:
    """Return the text if it is host:port; otherwise ValueError says what it must be."""
    found = ADDRESS.fullmatch(text)
    if found is None or found[2] is None or int(found[2]) > 65535:
        raise ValueError("must be host:port, such as 127.0.0.1:50051 or [::1]:50051")
    return text


def check_hosts(text: str) -> str:
    """Return the text if it is a list of names; otherwise raise ValueError."""
    if any(not re.fullmatch(r"[A-Za-z0-9.-]+", part.strip()) for part in text.split(",") if part.strip()):
        raise ValueError("must be names without a port, such as hub.example,hub.internal")
    return text


def networks(text: str) -> list[IPv4Network | IPv6Network]:
    """The networks in a comma-separated list. ValueError: one of them is not a network, or names a host within one."""
    return [ip_network(part.strip()) for part in text.split(",") if part.strip()]


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach host:port; also true of a listener that is off."""
    host = address.rsplit(":", 1)[0].strip("[]")
    return host in ("localhost", "::1", OFF) or bool(re.fullmatch(r"127(\.\d{1,3}){3}", host))


def check_networks(text: str) -> str:
    """Return the text if it is a list of networks; otherwise raise ValueError."""
    try:
        networks(text)
    except ValueError:
        raise ValueError("must be addresses or networks, such as 10.0.0.0/8,192.0.2.1") from None
    return text


def check_ports(text: str) -> str:
    """Return the text if it is a list of ports; otherwise raise ValueError."""
    if not all(part.strip().isdecimal() and 0 < int(part) < 65536 for part in text.split(",")):
        raise ValueError("must be ports, such as 443,8443")
    return text


def check_proxy(text: str) -> str:
    """Return the text if it is empty or the URL of a proxy; otherwise raise ValueError."""
    found = re.fullmatch(r"http://(.+?)/?", text)
    if text and (found is None or ADDRESS.fullmatch(found[1]) is None):
        raise ValueError("must be http://host:port")
    return text
