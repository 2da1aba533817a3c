"""Every change of scopes, from the log: the entries of an integration's record are its history."""

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from hub.model import Change, Entry
from hub.permissions import SCOPES, Scope
from hub.state import INTEGRATION, decode_change, integration_of
from hub.storage import Log

READ_SIZE = 100
"""Entries of the log that are read at once."""

MAX_READ = 2_000
"""The most entries read for one page; older changes are left out, and the page says so."""

GRANTS = "grants"
"""The field of an integration's record that holds its scopes."""

BY_NAME = {scope.name: scope for scope in SCOPES.values()}


class ScopeChange(NamedTuple):
    """One change; `time` in microseconds."""

    integration_id: str
    time: int
    given: tuple[Scope, ...]
    taken: tuple[Scope, ...]


class History(NamedTuple):
    """Changes of scopes, the newest first; `cut`: there are older ones."""

    changes: list[ScopeChange]
    cut: bool


async def history(log: Log, integration_id: str = "", most: int = MAX_READ) -> History:
    """The changes of one integration's scopes, or ("") the newest `most` of all integrations.

    Raises:
        StorageUnavailable: the store does not answer.
    """
    prefix = INTEGRATION.key(integration_id)
    found: list[ScopeChange] = []
    before = 1 << 62
    for _ in range(MAX_READ // READ_SIZE):
        page = await log.history(before, READ_SIZE, prefix)
        found += [change for entry in page.entries if (change := scope_change(entry)) is not None]
        before = page.through
        if not before or len(found) >= most:
            break
    return History(found[:most], cut=bool(before) or len(found) > most)


def scope_change(entry: Entry) -> ScopeChange | None:
    """The change of scopes in an entry of an integration; None if there is none."""
    before, after = _scopes(decode_change(entry.body))
    if before == after:
        return None
    given, taken = _known(after - before), _known(before - after)
    return ScopeChange(integration_of(entry.key), entry.time, given, taken) if given or taken else None


def _scopes(change: Change) -> tuple[set[str], set[str]]:
    """The names of the scopes before and after a change."""
    for one in change.changes:
        if one.field == GRANTS:
            return _names(one.before), _names(one.after)
    return set(), set()


def _names(grants: str) -> set[str]:
    return {str(grant["scope"]) for grant in msgspec.json.decode(grants)} if grants else set()


def _known(names: Iterable[str]) -> tuple[Scope, ...]:
    """Scopes by their names; a name that the contract no longer has is left out."""
    return tuple(BY_NAME[name] for name in sorted(names) if name in BY_NAME)
