"""How many calls of one asyncio client are under way at a time."""

import asyncio
from math import inf
from types import TracebackType

from tickets_hub.failure import HubCallError
from tickets_hub.session import Policy


class Turns:
    """Lets ``Policy.max_calls`` calls through at a time; ``async with`` waits for a turn.

    Twenty thousand calls at once would wait in the hub until their time is over. Here the time of a call begins with
    its turn, so that each of them succeeds as long as the hub answers others.
    """

    def __init__(self, policy: Policy) -> None:
        self._free = asyncio.Semaphore(policy.max_calls)
        self._patience = policy.call_timeout
        self._last_success = -inf

    async def __aenter__(self) -> None:
        """Wait for a turn.

        Raises:
            HubCallError: no call of this client has succeeded for as long as one call may take.
        """
        clock = asyncio.get_running_loop().time
        began = clock()
        while True:
            left = max(began, self._last_success) + self._patience - clock()
            if left <= 0:
                raise HubCallError("UNAVAILABLE", "", f"no call to the hub has succeeded for {self._patience:g} s")
            try:
                async with asyncio.timeout(left):
                    await self._free.acquire()
            except TimeoutError:
                continue
            return

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._last_success = asyncio.get_running_loop().time()
        self._free.release()
