"""The two streams of a log: made at the first start, checked at every other; nothing is ever changed silently."""

import asyncio
from datetime import datetime
from typing import Any

from hub.config import Settings
from hub.errors import StartError
from hub.storage._jetstream_api import ApiError, Stream
from hub.storage._jetstream_marks import Marks
from hub.storage._jetstream_wire import NoAnswer, Wire, shown

START_TIME = 30.0
"""Seconds that a start waits for a cluster that has no leader yet: an election takes up to 9, and may fail."""
_AGAIN = 0.25
_JETSTREAM_OFF = {10039, 10076}
_NEEDS = "nats-server 2.12 or newer"


def wanted(name: str, replicas: int) -> dict[str, Any]:
    """What must be so of the log's stream. Limits of its own it has none: the hub trims."""
    return {
        "name": name,
        "subjects": [f"{name}.>"],
        "retention": "limits",
        "storage": "file",
        "num_replicas": replicas,
        "max_msgs": -1,
        "max_bytes": -1,
        "max_age": 0,
        "max_msgs_per_subject": -1,
        "max_msg_size": -1,
        "max_consumers": -1,
        "discard": "old",
        "allow_direct": True,
        "allow_rollup_hdrs": True,
        "allow_atomic": True,
        "deny_delete": False,
        "deny_purge": False,
        "no_ack": False,
        "sealed": False,
    }


def wanted_marks(name: str, replicas: int) -> dict[str, Any]:
    """The same of the marks' stream, which keeps the newest message of each subject."""
    return wanted(name, replicas) | {"max_msgs_per_subject": 1, "allow_atomic": False, "allow_rollup_hdrs": False}


async def prepare(wire: Wire, settings: Settings) -> tuple[Stream, Stream, int]:
    """The log's stream, the marks' stream, and the log's epoch: when its stream was made.

    Raises:
        StartError: JetStream is not there, too old, or a stream is not as it must be.
    """
    if wire.max_payload < settings.max_request_bytes + 8_192:
        raise StartError(
            f"NATS takes messages of {wire.max_payload} bytes, the hub needs {settings.max_request_bytes} and headers: "
            "raise max_payload there, or lower max_request_bytes here"
        )
    name = settings.nats_stream
    log = Stream(wire, name)
    marks = Stream(wire, f"{name}_MARKS")
    info = await _made(log, wanted(name, settings.nats_replicas), settings)
    await _made(marks, wanted_marks(marks.name, settings.nats_replicas), settings)
    return log, marks, epoch_of(info["created"])


def in_place_of(settings: Settings) -> str:
    """What to do where a log is not empty."""
    name = settings.nats_stream
    return f"set HUB_NATS_STREAM to a new name, or remove {name} and {name}_MARKS with 'nats stream rm'"


async def lay_secret(settings: Settings, secret: bytes) -> None:
    """Begin a log with a secret of before, rather than one of its own.

    Raises:
        StartError: the log has another secret already, or cannot be reached.
    """
    wire = await Wire.connect(settings)
    try:
        _, marks, _ = await prepare(wire, settings)
        if await Marks(marks).secret(secret) != secret:
            raise StartError(f"stream {marks.name} has a secret of its own already: {in_place_of(settings)}")
    except (NoAnswer, ApiError) as error:
        raise StartError(f"NATS at {shown(settings)} does not answer: {error}") from None
    finally:
        await wire.close()


def epoch_of(created: str) -> int:
    """Nanoseconds since 1970 of a time as JetStream writes it: 63 bits hold it."""
    whole, _, fraction = created.rstrip("Z").partition(".")
    seconds = int(datetime.fromisoformat(whole + "+00:00").timestamp())
    return seconds * 1_000_000_000 + int(fraction.ljust(9, "0")[:9] or 0)


async def _made(stream: Stream, config: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """What the cluster says of a stream, made where it is missing. Waits for a cluster that is just starting."""
    trouble = "it does not answer"
    try:
        async with asyncio.timeout(START_TIME):
            while True:
                try:
                    info = await _found_or_made(stream, config)
                except NoAnswer as error:
                    trouble = str(error) or trouble
                except ApiError as error:
                    if error.code in _JETSTREAM_OFF:
                        raise StartError(f"NATS at {shown(settings)}: JetStream is not enabled there") from None
                    trouble = str(error)
                else:
                    _refuse_differences(stream.name, config, info["config"])
                    return info
                await asyncio.sleep(_AGAIN)
    except TimeoutError:
        raise StartError(f"NATS at {shown(settings)}: stream {stream.name}: {trouble}") from None


async def _found_or_made(stream: Stream, config: dict[str, Any]) -> dict[str, Any]:
    try:
        return await stream.info()
    except ApiError as error:
        if not error.is_not_found:
            raise
    return await stream.call("STREAM.CREATE", config)


def _refuse_differences(name: str, config: dict[str, Any], found: dict[str, Any]) -> None:
    """What is false or without limit the server may leave out."""
    for setting, value in config.items():
        default: object = False if isinstance(value, bool) else value
        got = found.get(setting, default)
        if got == value:
            continue
        if setting == "allow_atomic" and setting not in found:
            raise StartError(f"NATS keeps no atomic batches: the hub needs {_NEEDS}")
        hint = " or set HUB_NATS_REPLICAS" if setting == "num_replicas" else " or set HUB_NATS_STREAM to another name"
        raise StartError(
            f"stream {name}: {setting} is {got!r}, the hub needs {value!r}: change it with 'nats stream edit'{hint}"
        )
