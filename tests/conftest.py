"""A real hub on loopback with a real store, and the three kinds of caller to it."""

import os
import secrets
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from hub import config, logs
from hub.app import Hub
from hub.clock import Clock
from hub.model import Role
from hub.webhooks import schedule
from tests.support.hubs import Caller, RunningHub, StartHub
from tests.support.nats_servers import shared
from tests.support.stores import remove_streams

BOTH = (
    "test_smoke.py",
    "api/test_permissions.py",
    "delivery/test_permission.py",
    "delivery/test_takeover.py",
    "jetstream/test_doubt.py",
    "privacy/test_audit_retention.py",
    "privacy/test_erasure.py",
    "governance/test_guild_say.py",
    "torture/test_schedules.py",
)
"""Test files that run over both backends with every `make test`; TEST_STORAGE=jetstream runs all over that one."""


LINGERING = (
    *("api/test_permissions.py", "api/test_projection.py", "api/test_subscribe.py", "api/test_views.py"),
    *(f"governance/test_{name}.py" for name in ("admin_reach", "blocklist", "guild_say", "installations")),
    *(f"delivery/test_{name}.py" for name in ("client_emits", "clocks", "commit", "damage", "drain", "last_seen")),
    *(f"delivery/test_{name}.py" for name in ("liveness", "log_lines", "newer_hub", "permission", "resume")),
    *(f"delivery/test_{name}.py" for name in ("retention", "slow", "starts", "takeover")),
    *("governance/test_privileges.py", "governance/test_samples.py"),
    *("privacy/test_erasure.py", "privacy/test_notices.py"),
)
"""Test files of delivery and permission: each of their tests runs a second time with streams that linger.

Not here: test_pump, test_turns and test_docs open no stream, and of test_independent a single test does, to see what
was stored; test_linger chooses for itself.
"""

LINGER = 0.2
"""Seconds: longer than a test needs between two steps, so that events wait while permissions change."""

LONG = {"torture", "jetstream", "moving"}
"""Folders whose tests take longest."""

os.environ.setdefault("HUB_HTTP_LISTEN", "off")  # its port is one for the whole machine; who tests it says another

hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine fails no test
hypothesis.settings.load_profile("untimed")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a job in the background of a script, which hands it on
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def quiet_logs() -> None:
    """Log what matters, as JSON, on standard error, where capsys finds it."""
    logs.configure("info", "json")


@pytest.fixture
def fast_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a failed request be repeated at once; what the waits are is `test_webhook_schedule.py`'s to show."""
    monkeypatch.setattr(schedule, "BACK_OFF", (0.01,))


def pytest_xdist_auto_num_workers() -> int:
    """Processes for `-n auto`: two for each core, as the tests wait for half of their time."""
    return 2 * (os.cpu_count() or 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take minutes come first: at the end one process would run them while the others have nothing to do."""
    here = Path(__file__).parent
    items.sort(key=lambda item: item.path.relative_to(here).parts[0] not in LONG)


def pytest_make_parametrize_id(val: object) -> str | None:
    """Sets are named by their members in order: every process that runs the tests must give a test the same name."""
    if isinstance(val, set | frozenset):
        return repr(sorted(val))
    return str(val) if isinstance(val, dict | list) else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what starts a hub over each backend that is asked for, and with lingering streams: `BOTH`, `LINGERING`."""
    name = metafunc.definition.path.relative_to(Path(__file__).parent).as_posix()
    if "start_hub" in metafunc.fixturenames and name in LINGERING:
        metafunc.parametrize("linger", [0.0, LINGER], ids=["live", "lingering"], indirect=True)
    if "backend" in metafunc.fixturenames:
        chosen = os.environ.get("TEST_STORAGE")
        metafunc.parametrize("backend", [chosen] if chosen else ["sqlite", "jetstream"][: 1 + (name in BOTH)])


@pytest.fixture
async def store_flags(backend: str) -> AsyncIterator[dict[str, Any]]:
    """The settings that name a fresh store of a backend; nothing of it is left afterwards."""
    if backend == "sqlite":
        yield {}
        return
    name = f"T{secrets.token_hex(8)}"
    yield {"storage": shared().url, "nats_stream": name}
    await remove_streams(shared().url, name)


@pytest.fixture(autouse=True)
def linger(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let streams linger where the test is run that way."""
    monkeypatch.setattr(Caller, "linger", getattr(request, "param", 0.0))


@pytest.fixture
async def start_hub(tmp_path: Path, store_flags: dict[str, Any]) -> AsyncIterator[StartHub]:
    """Starts hubs: `start_hub(retention=60, ...)`; a second start on the same directory has the keys of the first."""
    running: list[RunningHub] = []
    known: dict[Path, dict[Role, str]] = {}

    async def start(clock: Clock | None = None, **flags: Any) -> RunningHub:  # noqa: ANN401  any setting
        flags = {"data_dir": tmp_path / "data", "listen": "127.0.0.1:0", "drain_time": 1} | store_flags | flags
        if "nats_stream" in flags:  # a store for each directory, as the embedded one has it
            flags["nats_stream"] = f"{flags['nats_stream']}_{Path(str(flags['data_dir'])).name}"
        settings = config.load(flags)
        hub = await Hub.start(settings, clock)
        keys = known.setdefault(settings.data_dir, hub.first_keys or {})
        running.append(RunningHub(hub, settings, keys))
        return running[-1]

    yield start
    for one in running:
        await one.close()


@pytest.fixture
async def hub(start_hub: StartHub) -> RunningHub:
    """A hub with the default settings."""
    return await start_hub()
