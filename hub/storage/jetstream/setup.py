"""The two streams of a log: created at the first start, checked at later starts, and never changed silently."""

import asyncio
from datetime import datetime
from typing import Any

from hub.config import Settings
from hub.errors import StartError
from hub.storage.jetstream.connection import NatsConnection, NoReply, cluster_name
from hub.storage.jetstream.metadata import MetadataStream
from hub.storage.jetstream.stream import ApiError, NatsStream

START_TIME = 30.0
"""Seconds that a start waits for a cluster that has no leader yet: an election takes up to 9, and may fail."""
_AGAIN = 0.25
_JETSTREAM_OFF = {10039, 10076}
_NEEDS = "nats-server 2.12 or newer"


def required_config(name: str, replicas: int) -> dict[str, Any]:
    """The required settings of the log's stream. They set no limits, because the hub trims the log."""
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


def required_metadata_config(name: str, replicas: int) -> dict[str, Any]:
    """The required settings of the metadata stream, which keeps the newest message of each subject."""
    return required_config(name, replicas) | {
        "max_msgs_per_subject": 1,
        "allow_atomic": False,
        "allow_rollup_hdrs": False,
    }


async def prepare(connection: NatsConnection, settings: Settings) -> tuple[NatsStream, NatsStream, int]:
    """The log's stream, the metadata stream, and the log's epoch: the time at which its stream was created.

    Raises:
        StartError: JetStream is missing or too old, or a stream has other settings.
    """
    _require_payload(connection, settings)
    (log, log_config), (metadata, metadata_config) = _streams(connection, settings)
    info = await _ensure(log, log_config, settings)
    await _ensure(metadata, metadata_config, settings)
    return log, metadata, epoch_of(info["created"])


async def examine(settings: Settings) -> str:
    """Describe what a cluster has of the log; creates nothing.

    Raises:
        StartError: it cannot be reached, or a stream has other settings.
    """
    connection = await NatsConnection.connect(settings)
    try:
        _require_payload(connection, settings)
        return "; ".join(
            [await _description(stream, config, settings) for stream, config in _streams(connection, settings)]
        )
    finally:
        await connection.close()


async def _description(stream: NatsStream, config: dict[str, Any], settings: Settings) -> str:
    try:
        info = await stream.info()
    except ApiError as error:
        if not error.is_not_found:
            raise StartError(f"NATS at {cluster_name(settings)}: stream {stream.name}: {error}") from None
        return f"stream {stream.name} is not there yet, the first start makes it"
    except NoReply as error:
        raise StartError(f"NATS at {cluster_name(settings)} does not answer: {error}") from None
    _refuse_differences(stream.name, config, info["config"])
    return f"stream {stream.name} has {info['state']['messages']} messages"


def _streams(connection: NatsConnection, settings: Settings) -> list[tuple[NatsStream, dict[str, Any]]]:
    """The log's stream and the metadata stream, each with its required settings."""
    log, metadata = (NatsStream(connection, settings.nats_stream + end) for end in ("", "_MARKS"))
    return [
        (log, required_config(log.name, settings.nats_replicas)),
        (metadata, required_metadata_config(metadata.name, settings.nats_replicas)),
    ]


def _require_payload(connection: NatsConnection, settings: Settings) -> None:
    if connection.max_payload < settings.max_request_bytes + 8_192:
        raise StartError(
            f"NATS accepts messages of {connection.max_payload} bytes, the hub needs {settings.max_request_bytes} and "
            "headers: raise max_payload there, or lower max_request_bytes here"
        )


def advice_for_used(settings: Settings) -> str:
    """What to do if a log is not empty."""
    name = settings.nats_stream
    return f"set HUB_NATS_STREAM to a new name, or remove {name} and {name}_MARKS with 'nats stream rm'"


async def initialise_secret(settings: Settings, secret: bytes) -> None:
    """Store the secret of an earlier log in a new one.

    Raises:
        StartError: the log has another secret already, or cannot be reached.
    """
    connection = await NatsConnection.connect(settings)
    try:
        _, metadata, _ = await prepare(connection, settings)
        if await MetadataStream(metadata).secrets(wanted=secret) != [secret]:
            raise StartError(f"stream {metadata.name} already has a secret: {advice_for_used(settings)}")
    except (NoReply, ApiError) as error:
        raise StartError(f"NATS at {cluster_name(settings)} does not answer: {error}") from None
    finally:
        await connection.close()


def epoch_of(created: str) -> int:
    """Nanoseconds since 1970 of a time as JetStream writes it: 63 bits hold it."""
    whole, _, fraction = created.rstrip("Z").partition(".")
    seconds = int(datetime.fromisoformat(whole + "+00:00").timestamp())
    return seconds * 1_000_000_000 + int(fraction.ljust(9, "0")[:9] or 0)


async def _ensure(stream: NatsStream, config: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """A stream's information; creates the stream if it is missing. Waits for a cluster that is just starting."""
    trouble = "it does not answer"
    try:
        async with asyncio.timeout(START_TIME):
            while True:
                try:
                    info = await _find_or_create(stream, config)
                except NoReply as error:
                    trouble = str(error) or trouble
                except ApiError as error:
                    if error.code in _JETSTREAM_OFF:
                        raise StartError(f"NATS at {cluster_name(settings)}: JetStream is not enabled there") from None
                    trouble = str(error)
                else:
                    _refuse_differences(stream.name, config, info["config"])
                    return info
                await asyncio.sleep(_AGAIN)
    except TimeoutError:
        raise StartError(f"NATS at {cluster_name(settings)}: stream {stream.name}: {trouble}") from None


async def _find_or_create(stream: NatsStream, config: dict[str, Any]) -> dict[str, Any]:
    try:
        return await stream.info()
    except ApiError as error:
        if not error.is_not_found:
            raise
    return await stream.call("STREAM.CREATE", config)


def _refuse_differences(name: str, config: dict[str, Any], found: dict[str, Any]) -> None:
    """Refuse other settings. The server may omit a setting that is false or unlimited."""
    for setting, value in config.items():
        default: object = False if isinstance(value, bool) else value
        got = found.get(setting, default)
        if got == value:
            continue
        if setting == "allow_atomic" and setting not in found:
            raise StartError(f"NATS has no atomic batches: the hub needs {_NEEDS}")
        hint = " or set HUB_NATS_REPLICAS" if setting == "num_replicas" else " or set HUB_NATS_STREAM to another name"
        raise StartError(
            f"stream {name}: {setting} is {got!r}, the hub needs {value!r}: change it with 'nats stream edit'{hint}"
        )
