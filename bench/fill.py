"""A log made ahead of time, through the hub's own storage: for figures that need a long one.

Bodies differ from each other only by their ids, so that making them costs little.
"""

import time
from pathlib import Path

from bench import events
from hub import config
from hub.model import Entry, Kind
from hub.storage import MAX_APPEND, open_storage


async def fill(data: Path, first: int, count: int, age: float = 0.0) -> None:
    """Append events to a store that no hub has open.

    Args:
        data: the data directory.
        first: the number of the first event; see `events`.
        count: how many.
        age: seconds ago that they were accepted.
    """
    log = await open_storage(config.load({"data_dir": str(data)}))
    try:
        for start in range(first, first + count, MAX_APPEND):
            await log.append(_entries(start, min(MAX_APPEND, first + count - start), age))
    finally:
        await log.close()


def _entries(first: int, count: int, age: float) -> list[Entry]:
    now = round((time.time() - age) * 1e6)
    cycle = events.TYPES * len(events.GUILDS)
    templates = [events.event(first + number) for number in range(cycle)]
    bodies = [template.SerializeToString() for template in templates]
    return [
        Entry(
            Kind.EVENT,
            now,
            bodies[number % cycle][:2]
            + (name := events.event_id(first + number)).encode()
            + bodies[number % cycle][38:],
            id=name,
            event_type=events.EVENT_TYPES[events.type_of(first + number)],
            guild_id=int(events.GUILDS[events.guild_of(first + number)]),
        )
        for number in range(count)
    ]
