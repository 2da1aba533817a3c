"""Standard output: a command's result is written, or the command fails."""

import asyncio
import os
import select
import sys
from pathlib import Path

from hub.cli.options import give_up
from hub.errors import StartError

SHOW_TIME = 10.0
"""Seconds to wait until the reader of standard output makes room for some lines."""


def keep_standard_descriptors() -> None:
    """Open the null device for each closed standard descriptor: a file opened later would take its number.

    ``sys.stdout`` stays None then, so that `show` knows.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)  # noqa: FBT003  the library's own argument
    os.close(descriptor)
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  for good


def write(text: str) -> None:
    """Write lines to standard output at once, without leaving anything in a buffer.

    Raises:
        OSError: they cannot be written.
    """
    sys.stdout.flush()
    rest = memoryview(f"{text}\n".encode(errors="backslashreplace"))  # a path need not be text
    while rest:
        rest = rest[os.write(sys.stdout.fileno(), rest) :]


def show(text: str) -> None:
    """Like `write`, but raises StartError.

    Raises:
        StartError: they cannot be written.
    """
    if sys.stdout is None:
        raise StartError("standard output is closed: the result cannot be printed")
    try:
        write(text)
    except OSError as error:
        raise StartError(f"standard output cannot be written: {error.strerror}") from None


def say(text: str) -> None:
    """Print a command's result; ends the program with one line if that is not possible."""
    try:
        show(text)
    except StartError as error:
        give_up(str(error))


def echo(text: str) -> None:
    """Print one of many results; a reader that stops early (``| head``) is not an error.

    Raises:
        BrokenPipeError: standard output has no reader any more.
    """
    try:
        write(text)
    except BrokenPipeError:
        raise
    except OSError as error:
        give_up(f"standard output cannot be written: {error.strerror}")


async def show_soon(text: str) -> None:
    """Like `show`, for text that fits into any pipe, without blocking the event loop.

    Raises:
        StartError: standard output cannot be written, or its reader has stopped.
    """
    poll = select.poll()
    poll.register(1, select.POLLOUT)  # a pipe with room for less than PIPE_BUF bytes is not ready
    loop = asyncio.get_running_loop()
    end = loop.time() + SHOW_TIME
    while not poll.poll(0):
        if loop.time() > end:
            raise StartError("standard output is full and not being read")
        await asyncio.sleep(0.05)
    show(text)
