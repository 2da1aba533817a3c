"""Reading the one request of a call: within a time limit, and for a limited number of calls at a time."""

import asyncio

import grpc

from hub.api.limits import HalfOpenLimit
from hub.api.status import Context
from hub.config import Settings
from hub.errors import InvalidRequest, RequestTimeout
from hub.model import Caller

LESS = 10
"""One integration, or the callers without a key at one address, may have 1/LESS of the half-open calls."""


class Receiver:
    """Reads requests, and limits the calls whose request has not arrived."""

    def __init__(self, half_open: HalfOpenLimit, settings: Settings) -> None:
        self._half_open = half_open
        self._timeout = settings.request_timeout
        self._most = settings.max_half_open_calls
        self._less = max(1, settings.max_half_open_calls // LESS)
        self._integration = max(self._less, settings.max_streams_per_integration)  # all at once

    async def receive(self, context: Context, address: str, caller: Caller | None) -> bytes:
        """The request of a call.

        Raises:
            TooManyCalls: too many calls of this address or key still wait for their request.
            RequestTimeout: it took too long.
            InvalidRequest: there is none, or more than one.
        """
        with self._half_open.place((address, self._most), self._holder(address, caller)):
            try:
                async with asyncio.timeout(self._timeout):
                    return await only_message(context)
            except TimeoutError:
                raise RequestTimeout(self._timeout) from None

    def _holder(self, address: str, caller: Caller | None) -> tuple[str, int]:
        if caller is None:
            return f"{address} without a key", self._less
        if caller.integration_id:
            return caller.integration_id, self._integration
        return caller.key_id, self._most


async def only_message(context: Context) -> bytes:
    """The one message that a client sends before it ends its side of the call."""
    message = await context.read()
    if message is grpc.aio.EOF:
        raise InvalidRequest.field("", "the call ended without a request: send one message")
    if await context.read() is not grpc.aio.EOF:
        raise InvalidRequest.field("", "the call has more than one request: send one message")
    assert isinstance(message, bytes)  # noqa: S101  no deserializer is set
    return message
