"""The seam against a model: a plain list does what the docstrings say, and every backend must do the same."""

import asyncio
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from hub.errors import Conflict, EventIdConflict
from hub.model import Appended, Entry, Kind
from hub.state import COMPACTED_PREFIXES
from hub.storage import Log
from tests.contract.conftest import BACKENDS, STORES
from tests.support.stores import read_all

WINDOW = 10 * 1_000_000
KEYS = ["integration/a", "integration/b", "cursor/a", "claim/a"]

EVENTS = st.builds(
    Entry,
    kind=st.just(Kind.EVENT),
    time=st.integers(0, 60 * 1_000_000),
    body=st.sampled_from([b"", b"one", b"two"]),
    id=st.sampled_from(["", *"abcdefgh"]),
    guild_id=st.integers(0, 2**63 - 1),
    event_type=st.integers(0, 20),
)
STATES = st.builds(
    Entry,
    kind=st.just(Kind.STATE),
    time=st.integers(0, 60 * 1_000_000),
    body=st.binary(max_size=5),
    key=st.sampled_from(KEYS),
)
BATCHES = st.lists(EVENTS | STATES, max_size=6)
EXPECTATIONS = st.dictionaries(st.sampled_from(KEYS), st.integers(0, 3), max_size=2)


class Model:
    """The log as a list, in the plainest words."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.ids: dict[str, tuple[int, int, bytes]] = {}
        self.first, self.last, self.time = 1, 0, 0

    def head(self, key: str) -> int:
        """The newest position of a key."""
        return max((e.position for e in self.entries if e.key == key), default=0)

    def append(self, entries: list[Entry], expect: dict[str, int], *, independent: bool = False) -> list[Appended]:
        """As the seam has it."""
        for key, position in expect.items():
            if self.head(key) != position:
                raise Conflict(key)
        last, time, ids, added, results = self.last, self.time, dict(self.ids), list[Entry](), list[Appended]()
        for entry in entries:
            at = max(entry.time, time)
            known = ids.get(entry.id) if entry.id else None
            if known and at - known[1] <= WINDOW:
                same = known[2] == entry.body
                if not same and not independent:
                    raise EventIdConflict(entry.id)
                results.append(Appended(known[0], known[1], duplicate=same, conflict=not same))
                continue
            last, time = last + 1, at
            ids[entry.id] = (last, time, entry.body)
            added.append(msgspec.structs.replace(entry, time=time, position=last))
            results.append(Appended(last, time))
        self.last, self.time, self.ids = last, time, ids
        for entry in added:
            if entry.key.startswith(COMPACTED_PREFIXES):
                self.entries = [e for e in self.entries if e.key != entry.key]
            self.entries.append(entry)
        return results

    def trim(self, before: int, limit: int) -> int:
        """As the seam has it."""
        before = min(before, self.last + 1)
        if before > self.first:
            old = [e for e in self.entries if self.first <= e.position < before and may_go(e)][:limit]
            self.entries = [e for e in self.entries if e not in old]
            self.first = max([e.position + 1 for e in old if e.kind is not Kind.STATE], default=self.first)
        return self.first

    def erase(self, positions: list[int]) -> None:
        """As the seam has it."""
        self.entries = [
            Entry(Kind.ERASED, e.time, b"", position=e.position)
            if e.position in positions and e.kind is Kind.EVENT
            else e
            for e in self.entries
        ]

    def remove_superseded(self, positions: list[int]) -> None:
        """As the seam has it."""
        self.entries = [
            e for e in self.entries if not (e.key and e.position in positions and e.position < self.head(e.key))
        ]


def may_go(entry: Entry) -> bool:
    """Whether a trim removes such an entry: an event, or what says that something ephemeral is forgotten."""
    return entry.kind is not Kind.STATE or (entry.key.startswith(COMPACTED_PREFIXES) and not entry.body)


class LogMachine(RuleBasedStateMachine):
    """Random calls to a log and to the model side by side. Set `backend` in a subclass."""

    backend = ""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.directory = Path(tempfile.mkdtemp())
        self.store = STORES[self.backend](self.directory / "data")
        self.model = Model()
        self.log: Log

    def run(self, call: Any) -> Any:  # noqa: ANN401  whatever the call gives
        """Run one call of the log to its end."""
        return self.runner.run(call)

    @initialize()
    def open(self) -> None:
        """Open an empty store."""
        self.log = self.run(self.store.open(dedupe_window=WINDOW / 1e6))

    @rule(entries=BATCHES, expect=EXPECTATIONS)
    def append(self, entries: list[Entry], expect: dict[str, int]) -> None:
        """Append with whatever is expected."""
        self.append_both([entries], [expect])

    @rule(entries=BATCHES, keys=st.sets(st.sampled_from(KEYS), max_size=2))
    def append_as_it_stands(self, entries: list[Entry], keys: set[str]) -> None:
        """Append with an expectation that holds."""
        self.append_both([entries], [{key: self.model.head(key) for key in sorted(keys)}])

    @rule(entries=BATCHES, keys=st.sets(st.sampled_from(KEYS), max_size=2))
    def append_independent(self, entries: list[Entry], keys: set[str]) -> None:
        """Append what can be, and hear of each of the others why not; an expectation still concerns all of it."""
        self.append_both([entries], [{key: self.model.head(key) for key in sorted(keys)}], independent=True)

    @rule(batches=st.lists(BATCHES, max_size=5), expects=st.lists(EXPECTATIONS, min_size=5, max_size=5))
    def append_independent_side_by_side(self, batches: list[list[Entry]], expects: list[dict[str, int]]) -> None:
        """Several such callers at once: each gets the outcome of its own entries."""
        self.append_both(batches, expects, independent=True)

    @rule(batches=st.lists(BATCHES, max_size=5), expects=st.lists(EXPECTATIONS, min_size=5, max_size=5))
    def append_side_by_side(self, batches: list[list[Entry]], expects: list[dict[str, int]]) -> None:
        """Several callers at once: the outcome is that of one after the other."""
        self.append_both(batches, expects)

    def append_both(
        self, batches: list[list[Entry]], expects: list[dict[str, int]], *, independent: bool = False
    ) -> None:
        """The same to the log and the model, with the same outcome."""

        async def at_once() -> list[object]:
            calls = [
                self.log.append(batch, expect, independent=independent)
                for batch, expect in zip(batches, expects, strict=False)
            ]
            return list(await asyncio.gather(*calls, return_exceptions=True))

        outcomes = self.run(at_once())
        for outcome, batch, expect in zip(outcomes, batches, expects, strict=False):
            try:
                wanted: object = self.model.append(batch, expect, independent=independent)
            except (Conflict, EventIdConflict) as error:
                assert repr(outcome) == repr(error)  # noqa: PT017  the model's error is the expected outcome
            else:
                assert outcome == wanted

    @rule(before=st.integers(0, 40), limit=st.integers(0, 8))
    def trim(self, before: int, limit: int) -> None:
        """Trim a little."""
        expected = self.model.trim(before, limit) if limit else self.model.first
        assert self.run(self.log.trim(before, limit)) == expected

    @rule(positions=st.lists(st.integers(1, 40), max_size=5))
    def erase(self, positions: list[int]) -> None:
        """Erase some."""
        self.model.erase(positions)
        self.run(self.log.erase(positions))

    @rule(positions=st.lists(st.integers(1, 40), max_size=5))
    def remove_superseded(self, positions: list[int]) -> None:
        """Remove what is superseded among some."""
        self.model.remove_superseded(positions)
        self.run(self.log.remove_superseded(positions))

    @rule()
    def reopen(self) -> None:
        """Close and open again."""
        self.run(self.log.close())
        self.open()

    @rule(after=st.integers(0, 40), limit=st.integers(1, 9), kinds=st.none() | st.frozensets(st.sampled_from(Kind)))
    def read(self, after: int, limit: int, kinds: frozenset[Kind] | None) -> None:
        """Pages from anywhere, of any kinds."""
        expected = [e for e in self.model.entries if e.position > after and (kinds is None or e.kind in kinds)]
        assert self.run(read_all(self.log, after, limit, kinds)) == expected

    @rule(before=st.integers(0, 40), limit=st.integers(1, 9), prefix=st.sampled_from(["", "integration/", *KEYS]))
    def history(self, before: int, limit: int, prefix: str) -> None:
        """The audit trail from anywhere."""
        page = self.run(self.log.history(before, limit, prefix))
        kept = [e for e in self.model.entries if e.key.startswith(prefix) and not e.key.startswith(COMPACTED_PREFIXES)]
        expected = [e for e in reversed(kept) if e.kind is Kind.STATE and e.position < before][:limit]
        assert list(page.entries) == expected
        assert page.through == (expected[-1].position if len(expected) == limit else 0)

    @rule(time=st.integers(0, 61 * 1_000_000))
    def position_at(self, time: int) -> None:
        """After it comes all of that time and later, and nothing older."""
        position = self.run(self.log.position_at(time))
        assert self.run(read_all(self.log, position)) == [e for e in self.model.entries if e.time >= time]

    @invariant()
    def same(self) -> None:
        """The whole log, its newest states and its extent are the model's."""
        if not hasattr(self, "log"):
            return
        bounds = self.run(self.log.bounds())
        assert (bounds.first, bounds.last) == (self.model.first, self.model.last)
        assert self.run(read_all(self.log)) == self.model.entries
        newest = [e for e in self.model.entries if e.key and self.model.head(e.key) == e.position]
        assert self.run(self.log.snapshot()) == (newest, self.model.last)

    def teardown(self) -> None:
        """Leave nothing behind."""
        self.run(self.store.close())
        self.runner.close()
        shutil.rmtree(self.directory)


@pytest.mark.parametrize("name", BACKENDS)
def test_the_log_behaves_like_its_model(name: str) -> None:
    """Random appends, expectations, trims, erasures and restarts give what a plain list gives."""
    run_state_machine_as_test(
        type(f"LogMachine_{name}", (LogMachine,), {"backend": name}),
        settings=settings(
            max_examples=300 if os.environ.get("TORTURE") else 30,
            stateful_step_count=25,
            deadline=None,
            # a store is opened for each example; how long that takes says nothing about the log
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
