"""``AsyncClient`` as a client under test."""

import asyncio
import json
import sys
from collections.abc import Coroutine
from typing import Any

from tickets_hub import AsyncClient, AsyncSubscription, HubCallError
from tickets_hub.v1.event_service_pb2 import Erased

from conformance.adapters import protocol
from conformance.adapters.protocol import Line, write


class Adapter:
    """One client and its subscription, as commands ask for them."""

    def __init__(self) -> None:
        self._tasks = set[asyncio.Task[None]]()
        self._finished = asyncio.Event()
        self._client: AsyncClient
        self._subscription: AsyncSubscription

    async def run(self) -> None:
        """Do what standard input says."""
        while text := await asyncio.to_thread(sys.stdin.readline):
            command = json.loads(text)
            await getattr(self, f"_{command['do']}")(command)

    async def _connect(self, command: Line) -> None:
        self._client = AsyncClient(command["target"], command["key"], policy=protocol.policy(command))

    async def _subscribe(self, command: Line) -> None:
        auto_commit, wanted = command.get("auto_commit", False), protocol.options(command)
        self._finished.clear()
        handler = protocol.on_erased(command, self._delete)
        self._subscription = self._client.subscribe(
            on_notice=protocol.tell, auto_commit=auto_commit, **handler, **wanted
        )

    async def _next(self, _: Line) -> None:
        self._start(self._take())

    async def _emit(self, command: Line) -> None:
        for name in command["ids"]:
            self._start(self._emit_one(name, command.get("guild_id", "41")))

    async def _emit_batch(self, command: Line) -> None:
        self._start(self._emit_list(command["ids"]))

    async def _use_key(self, command: Line) -> None:
        self._client.use_key(command["key"])
        write(reply="use_key")

    async def _rotate_key(self, _: Line) -> None:
        self._start(self._rotate())

    async def _deleted(self, _: Line) -> None:
        self._finished.set()

    async def _delete(self, erased: Erased) -> None:
        protocol.tell(erased)
        await self._finished.wait()

    async def _end(self, _: Line) -> None:
        await self._subscription.aclose()
        write(reply="end")

    async def _close(self, _: Line) -> None:
        await self._client.aclose()
        if self._tasks:  # what they still say belongs to this script, not to the next
            await asyncio.wait(self._tasks, timeout=protocol.LAST_WORDS)
        write(reply="close")

    async def _verify_webhook(self, command: Line) -> None:
        protocol.verify(command)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _take(self) -> None:
        try:
            event = await anext(self._subscription)
        except StopAsyncIteration:
            write(reply="next", end=True)
        except HubCallError as error:
            write(reply="next", error=protocol.failure(error))
        else:
            write(reply="next", event=event.id, cursor=self._subscription.cursor)

    async def _emit_one(self, name: str, guild_id: str) -> None:
        try:
            answer = await self._client.emit(protocol.event(name, guild_id))
        except HubCallError as error:
            write(reply="emit", id=name, error=protocol.failure(error))
        else:
            write(reply="emit", id=name, stored=answer.event_id)

    async def _emit_list(self, names: list[str]) -> None:
        try:
            answers = await self._client.emit_batch(protocol.event(name, "41") for name in names)
        except HubCallError as error:
            write(reply="emit_batch", error=protocol.failure(error))
        else:
            write(reply="emit_batch", stored=[answer.event_id for answer in answers])

    async def _rotate(self) -> None:
        write(reply="rotate_key", key=await self._client.rotate_key())


if __name__ == "__main__":
    asyncio.run(Adapter().run())
