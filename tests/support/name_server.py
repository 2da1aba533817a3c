"""A DNS server on loopback, and the system's resolver with it as its server."""

import asyncio
import ctypes
import platform
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import Any

import pytest

QUESTION = 12
"""Where the question of a DNS message begins."""

ADDRESSES = {1: 4, 28: 6}
"""The version of IP by the type of a record: A and AAAA."""

SERVERS = 20
"""Where glibc's ``struct __res_state`` has its servers, as ``sockaddr_in``; before them is how many there are."""


class NameServer(asyncio.DatagramProtocol):
    """Answers from a table, with a time to live of 0.

    Attributes:
        names: what each name leads to, a list for each look-up; the last one stays.
        asked: the names of all look-ups, in order.
        silent: the ends of names about which it answers nothing: the resolver asks again and again.
    """

    def __init__(self) -> None:
        self.names: dict[str, list[list[str]]] = {}
        self.asked: list[str] = []
        self.silent: tuple[str, ...] = ()
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what answers go through."""
        self._transport = transport

    @property
    def port(self) -> int:
        """Where it listens, on 127.0.0.1."""
        port: int = self._transport.get_extra_info("sockname")[1]
        return port

    def datagram_received(self, data: bytes, source: tuple[str, int]) -> None:
        """Answer a question; a resolver asks for A first, then for AAAA."""
        end = data.index(0, QUESTION) + 1
        name, kind = name_at(data), int.from_bytes(data[end : end + 2], "big")
        if name.endswith(self.silent):
            return
        left = self.names.get(name, [[]])
        found = [ip_address(one) for one in left[0]]
        records = [
            struct.pack("!HHHIH", 0xC000 | QUESTION, kind, 1, 0, len(one.packed)) + one.packed
            for one in found
            if one.version == ADDRESSES.get(kind)
        ]
        code = 0 if name in self.names else 3
        head = data[:2] + struct.pack("!HHHHH", 0x8180 | code, 1, len(records), 0, 0)
        if kind == 1:
            self.asked.append(name)
        elif len(left) > 1:
            del left[0]
        self._transport.sendto(head + data[QUESTION : end + 4] + b"".join(records), source)


def name_at(message: bytes) -> str:
    """The name of a message's question."""
    labels, at = [], QUESTION
    while length := message[at]:
        labels.append(message[at + 1 : at + 1 + length].decode())
        at += 1 + length
    return ".".join(labels)


def use(port: int) -> None:
    """Let look-ups of this thread ask the server at a port of 127.0.0.1, and no other."""
    libc = ctypes.CDLL("libc.so.6")
    libc.__res_state.restype = ctypes.c_void_p
    libc.__res_init()
    server = struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", port, socket.inet_aton("127.0.0.1"))
    state = struct.pack("=i", 1) + server
    ctypes.memmove(libc.__res_state() + SERVERS - 4, state, len(state))


@asynccontextmanager
async def serving_names(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[NameServer]:
    """A name server that all look-ups of this process ask, through the system's resolver."""
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("only glibc's resolver can be pointed at a port")
    transport, server = await asyncio.get_running_loop().create_datagram_endpoint(
        NameServer, local_addr=("127.0.0.1", 0)
    )
    look_up = socket.getaddrinfo

    def look_up_there(*args: Any, **named: Any) -> Any:  # noqa: ANN401  as the system's
        use(server.port)
        return look_up(*args, **named)

    monkeypatch.setattr(socket, "getaddrinfo", look_up_there)
    yield server
    transport.close()
