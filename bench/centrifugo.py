"""Centrifugo beside the hub: its settings, and its messages by hand, as the load programs send and count raw bytes.

Source of the messages: unistream.proto and api.proto of Centrifugo v6.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterable

CONSUME = "/centrifugal.centrifugo.unistream.CentrifugoUniStream/Consume"
PUBLISH = "/centrifugal.centrifugo.api.CentrifugoApi/Publish"
BATCH = "/centrifugal.centrifugo.api.CentrifugoApi/Batch"
CHANNEL = b"events"


def program() -> str | None:
    """Where the server's binary is: on the PATH, or where Go installs programs; None: nowhere."""
    path = os.environ["PATH"]
    if go := shutil.which("go"):
        asked = subprocess.run([go, "env", "GOPATH"], capture_output=True, text=True, check=True)  # noqa: S603  go itself
        path += f"{os.pathsep}{asked.stdout.strip()}/bin"
    return shutil.which("centrifugo", path=path)


def settings(http: int, api: int, stream: int) -> str:
    """Its settings: everything on loopback, history on, nobody needs a token."""
    return json.dumps(
        {
            "http_server": {"address": "127.0.0.1", "port": http},
            "grpc_api": {"enabled": True, "address": "127.0.0.1", "port": api},
            "uni_grpc": {"enabled": True, "address": "127.0.0.1", "port": stream},
            "client": {"insecure": True},
            "channel": {"without_namespace": {"history_size": 100_000, "history_ttl": "1h"}},
        }
    )


def connect() -> bytes:
    """A ConnectRequest that subscribes to the one channel."""
    return _field(3, _field(1, CHANNEL) + _field(2, b""))


def publish(data: bytes) -> bytes:
    """A PublishRequest with these bytes."""
    return _field(1, CHANNEL) + _field(2, data)


def batch(publications: Iterable[bytes]) -> bytes:
    """A BatchRequest of these publications, one after the other."""
    return b"".join(_field(1, _field(4, publish(data))) for data in publications)


def _field(number: int, value: bytes) -> bytes:
    """A field of bytes as protobuf writes it."""
    return bytes([number << 3 | 2]) + _varint(len(value)) + value


def _varint(number: int) -> bytes:
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])
