"""Every row of the failure table, over the wire: its status, its reason and its details."""

import json

import pytest
from tickets.hub.v1 import directory_service_pb2, errors_pb2

from hub import errors
from hub.api.status import STATUS
from tests.support.calls import ask, fails, reason_of
from tests.support.failures import ROWS, metadata
from tests.support.hubs import StartHub, log_to_memory
from tests.support.limit_failures import SPILT, broken_hub


def reasons() -> set[str]:
    """The reasons of the contract."""
    names = {value.name.removeprefix("ERROR_REASON_") for value in errors_pb2.ErrorReason.DESCRIPTOR.values}
    return names - {"UNSPECIFIED"}


@pytest.mark.parametrize("reason", sorted(ROWS))
async def test_each_failure_has_its_status_and_reason(start_hub: StartHub, reason: str) -> None:
    """Each failure that the contract names, as callers meet it."""
    status, provoke = ROWS[reason]
    error = await provoke(start_hub)
    assert (error.code(), reason_of(error)) == (status, reason)
    assert error.details()


def test_every_reason_of_the_contract_has_a_test() -> None:
    """A reason that is added to the contract needs a row here."""
    assert set(ROWS) == reasons()


def leaves(cls: type[errors.HubError]) -> set[type[errors.HubError]]:
    """The failures that nothing more special stands below."""
    below = cls.__subclasses__()
    return set.union(*(leaves(one) for one in below)) if below else {cls}


def test_the_error_classes_match_the_reasons_of_the_contract() -> None:
    """Every error class is a reason of the contract and vice versa; INTERNAL is not in the tree."""
    assert {cls.reason() for cls in leaves(errors.HubError)} | {"INTERNAL"} == reasons()
    assert all(any(above in STATUS for above in cls.__mro__) for cls in leaves(errors.HubError))


async def test_an_internal_error_leaks_nothing_to_the_caller(
    start_hub: StartHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Callers get a fixed sentence and an incident id; only the log has the details, under that id."""
    written = log_to_memory(monkeypatch)
    hub, stream = await broken_hub(start_hub)
    met = (await fails(ask(hub.admin, "AdminService/ListAuditEntries")), await stream.ending())
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    for error in met:
        assert reason_of(error) == "INTERNAL"
        incident = metadata(error)["incident"]
        assert error.details() == f"internal error; the hub's log has it as incident {incident}"
        said = repr((error.details(), error.trailing_metadata(), error.debug_error_string()))
        assert not [word for word in (*SPILT.split(), "Decode", "Traceback", ".py") if word in said]
        [told] = [line for line in lines if line.get("incident") == incident]
        assert "DecodeError" in told["exception"]


async def test_the_hub_works_while_its_log_cannot_be_written(
    start_hub: StartHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a closed pipe as its log the hub refuses calls and stops as usual, and can be started again."""
    written = log_to_memory(monkeypatch)
    hub = await start_hub()
    written.close()
    for _ in range(2):
        assert reason_of(await fails(ask(hub.caller("x"), "DirectoryService/ListScopes"))) == "KEY_UNKNOWN"
    await hub.close()
    await (await start_hub()).bot.call("DirectoryService/ListScopes", directory_service_pb2.ListScopesRequest())
