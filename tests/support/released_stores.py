"""Makes the stores in tests/data: `python tests/support/released_stores.py NAME` writes one of this hub's format.

Run it once, with the last commit before a format changes. Each store has an entry of every kind, and `meaning.json`
says what it must still mean to every later hub.
"""

import asyncio
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import msgspec

from hub.archive.backup import back_up
from hub.archive.migration import export_log
from hub.config import Settings
from hub.model import (
    AgreedScope,
    BlockRecord,
    ClaimRecord,
    CursorRecord,
    GrantRecord,
    GuildAccess,
    InstallationRecord,
    KeyRecord,
    Role,
    UseRecord,
)
from hub.storage import Log
from hub.storage.jetstream.connection import NatsConnection
from hub.storage.jetstream.stream import NatsStream
from tests.support.migrations import begin, change, integration, meaning
from tests.support.nats_servers import shared
from tests.support.stores import event, remove_streams, state

DATA = Path(__file__).parents[1] / "data"
STREAM = "RELEASED"
EPHEMERAL = (
    ("claim/x/main", ClaimRecord("s1")),
    ("use/key/k1", UseRecord(70)),
)


async def fill(log: Log) -> None:
    """Something of everything: grants, an installation, a block, keys, events, erased and trimmed ones, places."""
    key = KeyRecord("k1", Role.INTEGRATION, "00" * 32, 5)
    await log.append([event(f"old{n}", b"old %d" % n, 5 + n, guild_id=5) for n in range(3)])
    grants = (GrantRecord(1, "to count", 10, "k0"), GrantRecord(5, "to count more", 10, "k0"))
    await log.append(
        [
            change("integration/x", integration("x", grants=grants, keys=(key,)), 10),
            change("integration/y", integration("y", guild_access=GuildAccess.INSTALLED, grants=grants), 11),
            change("installation/y/5", InstallationRecord("y", 5, "9", 12, 12, (AgreedScope(1), AgreedScope(5))), 12),
            change("block/42", BlockRecord("42", "Safety", "spam", 13), 13),
        ]
    )
    await log.append([event(f"e{n}", b"body %d" % n, 20 + n, guild_id=5 + n % 2) for n in range(12)])
    bounds = await log.bounds()
    cursor = CursorRecord(bounds.epoch, bounds.last - 6, 25, 60)
    await log.append([state("cursor/x/main", msgspec.json.encode(cursor), 60)])
    await log.append([state(key_, msgspec.json.encode(record), 70) for key_, record in EPHEMERAL])
    await log.append([state("claim/x/gone", b"", 71), event("", b"without an id", 72)])
    await log.append([change("integration/x", integration("x", grants=grants[:1], keys=(key,)), 80)])
    await log.append([event(f"late{n}", b"late %d" % n, 90 + n, guild_id=5) for n in range(4)])
    first = next(entry.position for entry in (await log.read(0, 50)).entries if entry.id == "e0")
    await log.erase([first + 3])
    await log.trim(first, 50)


async def make(target: Path, scratch: Path) -> None:
    """Write everything into a directory."""
    settings = Settings.model_validate({"data_dir": scratch / "data"})
    log = await begin(settings)
    await fill(log)
    said = await meaning(log)
    await log.close()
    target.mkdir(parents=True)
    for name in ("hub.db", "secret"):
        shutil.copyfile(settings.data_dir / name, target / name)
    back_up(settings, target / "backup")
    await export_log(settings, target / "export")
    target.joinpath("meaning.json").write_bytes(
        msgspec.json.format(msgspec.json.encode(said, order="sorted"), indent=1)
    )
    with target.joinpath("jetstream.jsonl").open("w") as file:
        async for line in jetstream(scratch):
            file.write(json.dumps(line) + "\n")


async def jetstream(scratch: Path) -> Any:  # noqa: ANN401  an iterator of JSON objects
    """Every message of both streams of a log, as they lie in NATS."""
    settings = Settings.model_validate({"data_dir": scratch / "nats", "storage": shared().url, "nats_stream": STREAM})
    await remove_streams(settings.storage, STREAM)
    log = await begin(settings)
    await fill(log)
    await log.close()
    wire = await NatsConnection.connect(settings)
    for name in (STREAM, f"{STREAM}_MARKS"):
        for line in [one async for one in messages(NatsStream(wire, name))]:
            yield line
    await wire.close()
    await remove_streams(settings.storage, STREAM)


async def messages(stream: NatsStream) -> Any:  # noqa: ANN401  an iterator of JSON objects
    """The messages of one stream, each with the headers that the hub wrote."""
    at = 0
    while (stored := await stream.get(seq=at + 1, next_by_subj=">")) is not None:
        at = stored.position
        headers = {name: value for name, value in stored.headers.items() if name.startswith("Hub-")}
        yield {
            "stream": stream.name,
            "seq": at,
            "subject": stored.subject,
            "headers": headers,
            "data": stored.data.hex(),
        }


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        asyncio.run(make(DATA / sys.argv[1], Path(scratch)))
