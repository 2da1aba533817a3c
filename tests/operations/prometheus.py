"""A real Prometheus that scrapes a hub, evaluates the alert rules and answers queries."""

import asyncio
import json
import os
import shutil
import socket
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "alerts.yml"
PATIENCE = 60.0
"""Seconds that a test waits for Prometheus."""

CONFIGURATION = """
global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 200ms}}
rule_files: [{rules}]
scrape_configs:
  - job_name: tickets-hub
    scheme: {scheme}
    tls_config: {{insecure_skip_verify: true}}
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


def program(name: str) -> str:
    """Where a program is; skips the test where it is not installed, but fails in CI, which installs it."""
    found = shutil.which(name)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"{name} is missing: .ci/run installs Debian's prometheus")
        pytest.skip(f"{name} is not installed: Debian's prometheus has it")
    return found


class Prometheus:
    """A Prometheus that runs."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1"

    async def query(self, text: str) -> list[dict[str, Any]]:
        """What a query answers now."""
        return list((await self._get("query", query=text))["result"])

    async def firing(self) -> set[str]:
        """The alerts that fire."""
        alerts = (await self._get("alerts"))["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    async def summary(self, name: str) -> str:
        """What an alert that fires says."""
        alerts = (await self._get("alerts"))["alerts"]
        [text] = [one["annotations"]["summary"] for one in alerts if one["labels"]["alertname"] == name]
        return str(text)

    async def until_firing(self, name: str) -> None:
        """Wait until an alert fires; fails where it does not."""
        async with asyncio.timeout(PATIENCE):
            while name not in await self.firing():  # noqa: ASYNC110  a query is a look
                await asyncio.sleep(0.2)

    async def until_over(self, name: str) -> None:
        """Wait until an alert fires no more; fails where it goes on."""
        async with asyncio.timeout(PATIENCE):
            while name in await self.firing():  # noqa: ASYNC110  a query is a look
                await asyncio.sleep(0.2)

    async def until_answered(self, text: str) -> list[dict[str, Any]]:
        """Wait until a query has data; fails where it never has."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not (found := await self.query(text)):  # noqa: ASYNC110  a query is a look
                    await asyncio.sleep(0.2)
        except TimeoutError:
            raise AssertionError(f"no data for {text}") from None
        return found

    async def _get(self, path: str, **parameters: str) -> Any:  # noqa: ANN401  JSON
        async with aiohttp.ClientSession() as session, session.get(f"{self._url}/{path}", params=parameters) as reply:
            reply.raise_for_status()
            answer = json.loads(await reply.text())
        assert answer["status"] == "success", answer
        return answer["data"]


@asynccontextmanager
async def watching(hub_port: int, directory: Path, scheme: str = "http") -> AsyncIterator[Prometheus]:
    """A Prometheus that scrapes a hub each second; alerts fire at once, whatever time their rules ask for."""
    rules = directory / "rules.yml"
    rules.write_text("".join(line for line in RULES.read_text().splitlines(keepends=True) if "  for: " not in line))
    (directory / "prometheus.yml").write_text(CONFIGURATION.format(rules=rules, port=hub_port, scheme=scheme))
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port = trial.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        program("prometheus"),
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
        stdout=DEVNULL,
        stderr=DEVNULL,
    )
    try:
        prometheus = Prometheus(port)
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    await prometheus.query("up")
                    break
                except aiohttp.ClientError:
                    await asyncio.sleep(0.1)
        yield prometheus
    finally:
        process.terminate()
        await process.wait()
