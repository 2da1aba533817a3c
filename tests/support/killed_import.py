"""Imports, and is killed on the way: killed_import.py APPENDS FILE SETTINGS, before the append after so many."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from hub.archive import migration as moving
from hub.archive.empty import open_empty
from hub.config import Settings
from hub.storage import Log

left = int(sys.argv[1])


async def opened(settings: Settings, secret: bytes) -> Log:
    """The log to import into, which ends this process before one of its appends."""
    log: Any = await open_empty(settings, secret)
    append = log.append

    async def counted(*words: object) -> object:
        global left  # noqa: PLW0603  the process has one life
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return await append(*words)

    log.append = counted
    return log  # type: ignore[no-any-return]  # a Log


vars(moving)["open_empty"] = opened
asyncio.run(moving.import_log(Settings.model_validate(json.loads(sys.argv[3])), Path(sys.argv[2])))
