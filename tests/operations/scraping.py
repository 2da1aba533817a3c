"""Scrapes a hub over real HTTP, and reads what comes with Prometheus' own parser."""

import asyncio
from collections.abc import Mapping
from typing import NamedTuple

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

PATIENCE = 10.0
"""Seconds that a request may take before a test fails."""


class Answer(NamedTuple):
    """What came back: the status, the headers, the text."""

    status: int
    headers: Mapping[str, str]
    text: str


async def get(port: int, path: str, **headers: str) -> Answer:
    """A page of the listener on loopback; headers by name, with _ for -."""
    url = f"http://127.0.0.1:{port}{path}"
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    timeout = aiohttp.ClientTimeout(PATIENCE)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.get(url, headers=named) as response,
    ):
        return Answer(response.status, response.headers, await response.text())


class Scrape:
    """The samples of a scrape."""

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self._samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float:
        """A sample; 0 where there is none."""
        return self._samples.get((name, frozenset(labels.items())), 0.0)


async def scrape(port: int) -> Scrape:
    """The metrics of now."""
    answer = await get(port, "/metrics")
    assert answer.status == 200
    return Scrape(answer.text)


async def until_scraped(port: int, name: str, at_least: float, **labels: str) -> Scrape:
    """Scrape until a sample has a value; fails where it does not get there."""
    async with asyncio.timeout(PATIENCE):
        while (found := await scrape(port)).value(name, **labels) < at_least:  # noqa: ASYNC110  a scrape is a look
            await asyncio.sleep(0.05)
    return found
