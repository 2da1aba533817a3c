"""Renders templates in a thread that pauses often."""

import asyncio
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from hub.clock import rfc3339
from hub.http.directory.pace import paced

FOLDER = Path(__file__).parent / "templates"

LEVELS = {1: "not sensitive", 2: "more sensitive", 3: "can profile somebody", 4: "dangerous"}
"""The levels in a few words, as `permissions.proto` describes them."""


class Renderer:
    """Renders templates, each read and compiled at the start."""

    def __init__(self, **constants: object) -> None:
        """`constants` are known to every template. Blocks."""
        environment = Environment(
            loader=FileSystemLoader(FOLDER),
            autoescape=True,  # in every file, the feed too: the texts come from unknown people
            undefined=StrictUndefined,
            auto_reload=False,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.globals.update(constants, levels=LEVELS)
        environment.filters.update(day=day, minute=minute, moment=rfc3339, number=number, urn=urn)
        self._templates: dict[str, Template] = {
            name: environment.get_template(name) for name in environment.list_templates()
        }

    async def page(self, name: str, **values: Any) -> bytes:  # noqa: ANN401  what the template wants
        """Render a template with some values; returns the page."""
        return await asyncio.to_thread(self._page, name, values)

    def _page(self, name: str, values: dict[str, Any]) -> bytes:
        return "".join(paced(self._templates[name].generate(values))).encode()


def day(micros: int) -> str:
    """A time as a date for people, in UTC: "28 November 2026"."""
    time = datetime.fromtimestamp(micros / 1_000_000, UTC)
    return f"{time.day} {time:%B %Y}"


def minute(micros: int) -> str:
    """A time for people, to the minute: "28 November 2026, 21:05 UTC"."""
    return f"{day(micros)}, {datetime.fromtimestamp(micros / 1_000_000, UTC):%H:%M} UTC"


def number(value: int) -> str:
    """A number for people: "1,187"."""
    return f"{value:,}"


def urn(*parts: object) -> str:
    """A permanent id for an item of the feed, whose address may change."""
    return uuid.uuid5(uuid.NAMESPACE_OID, "/".join(("tickets-hub", *map(str, parts)))).urn
