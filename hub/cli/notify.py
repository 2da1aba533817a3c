"""Messages to systemd over its notify socket: ready, stopping, alive. See sd_notify(3).

The maintained library for it needs libsystemd, which a server may not have; the protocol is one datagram.
"""

import asyncio
import os
import socket
from collections.abc import Mapping


class Notifier:
    """Notifies the supervisor; without one it does nothing. It never blocks."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._period = watchdog_period(environment)
        self._socket: socket.socket | None = None
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.settimeout(0)

    def ready(self) -> None:
        """Report that calls are served."""
        self._send("READY=1", "STATUS=serving")

    def stopping(self) -> None:
        """Report that the hub is stopping."""
        self._send("STOPPING=1", "STATUS=draining")

    async def keep_alive(self) -> None:
        """Report that the event loop runs, twice in each period of the supervisor's watchdog."""
        if self._period is None:
            return
        while True:
            self._send("WATCHDOG=1")
            await asyncio.sleep(self._period / 2)

    def _send(self, *lines: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto("\n".join(lines).encode(), self._address)
        except OSError:  # it is full or gone, which must not stop the hub
            return


def watchdog_period(environment: Mapping[str, str]) -> float | None:
    """The period of the supervisor's watchdog in seconds; None: it has none."""
    micros, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", str(os.getpid()))
    if not micros.isascii() or not micros.isdigit() or pid != str(os.getpid()):
        return None
    return int(micros) / 1_000_000 or None
