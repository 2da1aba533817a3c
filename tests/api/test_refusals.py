"""Log lines about refused calls: enough to diagnose, and never so many that strangers could fill a disk."""

import io
import json
from typing import Any

import pytest

from hub.api import refusals
from hub.api.peers import Addresses
from hub.api.refusals import RefusalLog
from hub.errors import (
    Draining,
    EmitBacklogFull,
    HubError,
    KeyMissing,
    KeyUnknown,
    StorageFull,
    StorageUnavailable,
    TooManyCalls,
)
from hub.logs import CALLER
from hub.model import Caller, Role
from tests.support.calls import ask, fails
from tests.support.hubs import FakeClock, StartHub, log_to_memory
from tests.support.peers import CallFrom


class Refusing:
    """A `RefusalLog` and what it has logged."""

    def __init__(self, written: io.StringIO) -> None:
        self.clock = FakeClock()
        self._written = written
        self._log = RefusalLog(Addresses(()), self.clock)

    def lines(self, error: HubError, *peers: str) -> list[dict[str, Any]]:
        """Refuse a call of each of these peers; returns the lines that were logged for it."""
        self._written.seek(0)
        self._written.truncate()
        for peer in peers:
            self._log.note(error, "EventService/EmitEvent", CallFrom(peer))
        return [json.loads(line) for line in self._written.getvalue().splitlines()]


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Refusing:
    """A log of refusals that can be looked at."""
    return Refusing(log_to_memory(monkeypatch))


async def test_repeated_refusals_of_a_caller_are_one_log_line(
    start_hub: StartHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand refusals of one address and reason are one line; the first after a minute counts the others."""
    written = log_to_memory(monkeypatch)
    clock = FakeClock()
    hub = await start_hub(clock, max_failed_authentications=10_000)
    stranger = hub.caller("x")
    for _ in range(1_000):
        await fails(ask(stranger, "DirectoryService/ListScopes"))
    clock.monotonic_offset += 60
    await fails(ask(stranger, "DirectoryService/ListScopes"))
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    assert [line.get("left_out", 0) for line in lines if line["event"] == "refused"] == [0, 999]


def test_each_address_and_each_reason_has_its_own_log_line(refusing: Refusing) -> None:
    """A refusal for another reason, or from another address, is logged at once."""
    assert len(refusing.lines(KeyMissing(), "ipv4:192.0.2.1:1", "ipv4:192.0.2.1:2", "ipv4:192.0.2.2:1")) == 2
    assert len(refusing.lines(KeyUnknown(), "ipv4:192.0.2.1:1")) == 1


def test_callers_behind_one_proxy_are_counted_by_key(refusing: Refusing) -> None:
    """For callers with a valid key the key counts, not the address: behind a proxy all share one."""
    told = []
    for key_id in ("a", "b", "a"):
        token = CALLER.set(Caller(Role.BOT, key_id, "", "EventService/EmitEvent", ""))
        told.append(len(refusing.lines(TooManyCalls("no"), "ipv4:192.0.2.1:1")))
        CALLER.reset(token)
    assert told == [1, 1, 0]


def test_log_lines_about_strangers_are_bounded_per_minute(refusing: Refusing) -> None:
    """Any number of addresses get no more lines and memory than the bound; the rest is counted."""
    peers = [f"ipv4:10.{a}.{b}.1:1" for a in range(40) for b in range(50)]
    assert len(refusing.lines(KeyMissing(), *peers)) == refusals.MAX_UNKNOWN
    refusing.clock.monotonic_offset += 60
    [line] = refusing.lines(KeyMissing(), peers[-1])
    assert line["left_out_of_others"] == len(peers) - refusals.MAX_UNKNOWN
    assert len(refusing.lines(KeyMissing(), *peers)) == refusals.MAX_UNKNOWN - 1


def test_an_evicted_address_adds_its_count_to_the_next_line(refusing: Refusing) -> None:
    """The count of an address that makes room for another is not lost."""
    assert len(refusing.lines(KeyMissing(), *["ipv4:192.0.2.1:1"] * 8)) == 1
    refusing.clock.monotonic_offset += 60
    told = refusing.lines(KeyMissing(), *(f"ipv4:10.0.{a}.{b}:1" for a in range(2) for b in range(250)))
    assert sum(line.get("left_out_of_others", 0) for line in told) == 7


def test_refusals_of_strangers_do_not_use_up_the_lines_of_callers(refusing: Refusing) -> None:
    """However many strangers are refused, the first refusal of a valid key is logged."""
    refusing.lines(KeyMissing(), *(f"ipv4:10.{a}.{b}.1:1" for a in range(20) for b in range(50)))
    token = CALLER.set(Caller(Role.BOT, "a", "", "EventService/EmitEvent", ""))
    assert len(refusing.lines(EmitBacklogFull("no"), "ipv4:192.0.2.1:1")) == 1
    CALLER.reset(token)


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (KeyMissing(), "info"),
        (EmitBacklogFull("no"), "info"),
        (StorageFull(), "warning"),
        (StorageUnavailable(), "warning"),
    ],
)
def test_the_log_level_says_whether_an_operator_is_needed(refusing: Refusing, error: HubError, level: str) -> None:
    """A full disk is a warning; a caller's mistake is not."""
    assert [line["level"] for line in refusing.lines(error, "ipv4:192.0.2.1:1")] == [level]


def test_refusals_during_a_stop_are_logged_at_debug_level(refusing: Refusing) -> None:
    """Calls that are refused because the hub stops get a line at debug level only."""
    assert refusing.lines(Draining(), "ipv4:192.0.2.1:1") == []
