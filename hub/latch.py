"""Waiting for a position of the log."""

import asyncio


class PositionLatch:
    """A position that only grows, and the callers that wait for it to get there."""

    def __init__(self) -> None:
        self.position = 0
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []

    def advance(self, position: int) -> None:
        """Move on to a position, if it is a later one, and wake the callers that wait for it."""
        self.position = max(self.position, position)
        due = [future for wanted, future in self._waiters if wanted <= self.position]
        self._waiters = [waiter for waiter in self._waiters if waiter[0] > self.position]
        for future in due:
            if not future.done():
                future.set_result(None)

    async def wait(self, position: int) -> None:
        """Return once a position is reached."""
        if self.position < position:
            future = asyncio.get_running_loop().create_future()
            self._waiters.append((position, future))
            await future
