"""The filter of ListIntegrations: a part of AIP-160, terms joined by AND.

state = ACTIVE   owner_user_id = 123   scopes:ticket_created   requested_scopes:*   word   "some text"
"""

import re
from collections.abc import Callable, Collection

from hub import permissions as table
from hub.errors import InvalidRequest
from hub.model import IntegrationRecord, State
from hub.text import fold

Test = Callable[[IntegrationRecord], bool]
TextOf = Callable[[IntegrationRecord], str]
"""A function that gives the folded text of an integration, for searches."""

_TERM = re.compile(
    r"""\s*(?:(?P<field>[a-z_]+)\s*(?P<operator>!?=|:)\s*)?(?:"(?P<quoted>[^"]*)"|(?P<bare>[^\s"=:!]+))(?=\s|$)""",
    re.VERBOSE,
)


def parse(text: str, text_of: TextOf) -> Test:
    """A filter as a test of records.

    Raises:
        InvalidRequest: the filter cannot be parsed, or names an unknown field or value.
    """
    tests: list[Test] = []
    words: set[str] = set()
    at = 0
    while text[at:].strip():
        match = _TERM.match(text, at)
        if match is None:
            raise _complaint(f"cannot be parsed at '{text[at:].strip()[:20]}'")
        at = match.end()
        word = match["bare"] if match["quoted"] is None else match["quoted"]
        if match["field"] is None and match["bare"] == "AND":
            continue
        if match["field"] is None and match["bare"] in ("OR", "NOT"):
            raise _complaint(
                f"does not support {match['bare']}: join terms with AND, or put it in quotes to search for the word"
            )
        if match["field"] is None:
            words.add(fold(word))
        else:
            tests.append(_test(match["field"], match["operator"], word))
    if words:
        tests.append(words_test(words, text_of))
    return lambda record: all(test(record) for test in tests)


def words_test(words: Collection[str], text_of: TextOf) -> Test:
    """A test whether an integration's text contains all of some folded words; the longest, and rarest, go first."""
    ordered = sorted(set(words), key=len, reverse=True)

    def test(record: IntegrationRecord) -> bool:
        text = text_of(record)
        return all(word in text for word in ordered)

    return test


def _test(field: str, operator: str, word: str) -> Test:
    if operator == "!=":
        wanted = _test(field, "=", word)
        return lambda record: not wanted(record)
    if field == "owner_user_id" and operator == "=":
        return lambda record: record.owner_user_id == word
    if field == "state" and operator == "=":
        state = _named(State, word.removeprefix("INTEGRATION_STATE_"))
        return lambda record: record.state is state
    if field == "scopes" and operator == ":":
        scope = _scope(word)
        return lambda record: any(grant.scope == scope for grant in record.grants)
    if field == "requested_scopes" and operator == ":":
        wanted_scope = 0 if word == "*" else _scope(word)
        return lambda record: any(wanted_scope in (0, request.scope) for request in record.requested_scopes)
    raise _complaint(
        f"has an unknown term '{field}{operator}': use state=, owner_user_id=, scopes: or requested_scopes:"
    )


def _named(states: type[State], name: str) -> State:
    if name not in states.__members__:
        raise _complaint(f"has an unknown state '{name}': use {', '.join(states.__members__)}")
    return states[name]


def _scope(name: str) -> int:
    wanted = name.lower().removeprefix("scope_")
    found = next((scope.number for scope in table.SCOPES.values() if scope.name == wanted), None)
    if found is None:
        raise _complaint(f"has an unknown scope '{name}': ListScopes shows all scopes")
    return found


def _complaint(text: str) -> InvalidRequest:
    return InvalidRequest.field("filter", text)
