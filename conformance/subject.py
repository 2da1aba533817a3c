"""The client under test: a command that reads commands and writes replies, a JSON object a line."""

import asyncio
import json
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

Line = dict[str, Any]


class Subject:
    """A running client under test. What it writes waits in a queue of its kind: "next", "emit", "notice".

    ``lingered``: it did not end when its standard input did, and was killed.
    """

    def __init__(self, commands: asyncio.StreamWriter, lines: asyncio.StreamReader) -> None:
        self._commands = commands
        self._written = lines
        self._lines: dict[str, asyncio.Queue[Line]] = {}
        self._over = asyncio.Event()
        self.lingered = False

    def tell(self, command: Line) -> None:
        """Give it a command."""
        self._commands.write(json.dumps(command).encode() + b"\n")

    async def hear(self, kind: str) -> Line:
        """The next line of a kind. ConnectionError: the program has ended."""
        waiting = asyncio.ensure_future(self._queue(kind).get())
        ended = asyncio.ensure_future(self._over.wait())
        try:
            await asyncio.wait((waiting, ended), return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                raise ConnectionError(f"the client's program has ended while {kind!r} was awaited")
            return waiting.result()
        finally:
            waiting.cancel()
            ended.cancel()

    def forget(self) -> list[Line]:
        """Take everything that nobody has heard, for the next script to begin afresh."""
        rest = []
        for queue in self._lines.values():
            while not queue.empty():
                rest.append(queue.get_nowait())
        return rest

    async def listen(self) -> None:
        """Sort what it writes, until it ends."""
        async for text in self._written:
            line = json.loads(text)
            self._queue("notice" if "notice" in line else line["reply"]).put_nowait(line)
        self._over.set()

    def _queue(self, kind: str) -> asyncio.Queue[Line]:
        return self._lines.setdefault(kind, asyncio.Queue())


@asynccontextmanager
async def running(command: Sequence[str]) -> AsyncIterator[Subject]:
    """A client under test, for as long as the context lasts. It ends when its standard input does."""
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, limit=1 << 20)
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("a process that was asked for pipes has them")
    subject = Subject(process.stdin, process.stdout)
    listening = asyncio.create_task(subject.listen())
    try:
        yield subject
    finally:
        process.stdin.close()
        try:
            async with asyncio.timeout(10):
                await process.wait()
        except TimeoutError:
            subject.lingered = True
            process.kill()
            await process.wait()
        await listening
