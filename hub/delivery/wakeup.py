"""Waking a stream that sleeps."""

import asyncio


class Wakeup:
    """The future that a stream sleeps on. A wake-up while it does not sleep has no effect."""

    __slots__ = ("_future",)

    def __init__(self) -> None:
        self._future: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """End the sleep."""
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    def sleep(self) -> asyncio.Future[None]:
        """A future that is done at the next wake-up."""
        self._future = asyncio.get_running_loop().create_future()
        return self._future
