"""Looks host names up in the background: one of which the look-up hangs delays nobody but those who ask for it.

The system's resolver blocks its thread for as long as a name server does not answer, which may be longer than a request
lasts. So each look-up has a thread of its own, which also keeps no process alive. It does not know who asks.
"""

import asyncio
import socket
from contextlib import suppress
from threading import Thread
from typing import Any

Infos = list[tuple[Any, ...]]
"""What the system's resolver gives."""

Name = tuple[str, int]
"""A host and a port."""


class Resolver:
    """Look-ups, each name once at a time."""

    def __init__(self, most: int) -> None:
        """`most`: look-ups at a time."""
        self._most = most
        self._running: dict[Name, asyncio.Future[Infos]] = {}

    async def look_up(self, host: str, port: int) -> Infos:
        """The addresses of a name.

        Raises:
            gaierror: it leads nowhere, or too many other look-ups hang.
            What else the system's resolver raises.
        """
        name = host, port
        running = self._running.get(name)
        if running is None:
            if len(self._running) >= self._most:
                raise socket.gaierror(socket.EAI_AGAIN, "too many look-ups hang")
            running = self._running[name] = asyncio.get_running_loop().create_future()
            running.add_done_callback(lambda ended: self._end(name, ended))
            Thread(target=_run, args=(name, running), name="webhook-dns", daemon=True).start()
        return await asyncio.shield(running)

    def _end(self, name: Name, ended: "asyncio.Future[Infos]") -> None:
        del self._running[name]
        if not ended.cancelled():
            ended.exception()  # nobody may be waiting for it any more


def _run(name: Name, running: "asyncio.Future[Infos]") -> None:
    """Look a name up, and hand the result to the event loop. Blocks."""
    found: Infos | Exception
    try:
        found = socket.getaddrinfo(*name, type=socket.SOCK_STREAM)
    except Exception as error:  # noqa: BLE001  whatever it is, who waits gets it
        found = error
    with suppress(RuntimeError):  # the hub has stopped meanwhile
        running.get_loop().call_soon_threadsafe(_set, running, found)


def _set(running: "asyncio.Future[Infos]", found: Infos | Exception) -> None:
    if running.done():
        return
    if isinstance(found, Exception):
        running.set_exception(found)
    else:
        running.set_result(found)
