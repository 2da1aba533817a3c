"""The filter of ListIntegrations: a part of AIP-160, terms joined by AND.

state = ACTIVE   owner_user_id = 123   scopes:ticket_created   word   "some text"
"""

import re
from collections.abc import Callable

from hub import scopes as table
from hub.errors import InvalidRequest
from hub.model import IntegrationRecord, State

Test = Callable[[IntegrationRecord], bool]

_TERM = re.compile(
    r"""\s*(?:(?P<field>[a-z_]+)\s*(?P<operator>!?=|:)\s*)?(?:"(?P<quoted>[^"]*)"|(?P<bare>[^\s"=:!]+))(?=\s|$)""",
    re.VERBOSE,
)


def parse(text: str) -> Test:
    """A test for records.

    Raises:
        InvalidRequest: the filter is none, or names a field or value that there is not.
    """
    tests: list[Test] = []
    at = 0
    while text[at:].strip():
        match = _TERM.match(text, at)
        if match is None:
            raise _complaint(f"cannot be read from '{text[at:].strip()[:20]}' on")
        at = match.end()
        word = match["bare"] if match["quoted"] is None else match["quoted"]
        if match["field"] is None and match["bare"] == "AND":
            continue
        if match["field"] is None and match["bare"] in ("OR", "NOT"):
            raise _complaint(
                f"knows no {match['bare']}: terms are joined by AND; put it in quotes to look for the word"
            )
        tests.append(_test(match["field"], match["operator"], word))
    return lambda record: all(test(record) for test in tests)


def _test(field: str | None, operator: str | None, word: str) -> Test:
    if field is None:
        return lambda record: word.lower() in f"{record.display_name}\n{record.description}".lower()
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
    raise _complaint(f"knows no '{field}{operator}': use state=, owner_user_id= or scopes:")


def _named(states: type[State], name: str) -> State:
    if name not in states.__members__:
        raise _complaint(f"knows no state '{name}': use {', '.join(states.__members__)}")
    return states[name]


def _scope(name: str) -> int:
    wanted = name.lower().removeprefix("scope_")
    found = next((scope.number for scope in table.SCOPES.values() if scope.name == wanted), None)
    if found is None:
        raise _complaint(f"knows no scope '{name}': ListScopes shows which there are")
    return found


def _complaint(text: str) -> InvalidRequest:
    return InvalidRequest.field("filter", text)
