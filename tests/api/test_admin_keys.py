"""AdminService over the wire: keys made, rotated, revoked, listed; overlaps that no step of the wall clock moves."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from tickets.hub.v1.integration_pb2 import KEY_STATE_ACTIVE, KEY_STATE_EXPIRED, KEY_STATE_REVOKED, Key
from tickets.hub.v1.permissions_pb2 import ROLE_ADMIN, ROLE_BOT, ROLE_INTEGRATION

from tests.support.admin_calls import HOUR, Code, ask, refusal, span, use, violations
from tests.support.calls import detail_of, fails, info_of
from tests.support.hubs import Caller, FakeClock, RunningHub, StartHub

REVOKED = (Code.UNAUTHENTICATED, "KEY_REVOKED")
EXPIRED = (Code.UNAUTHENTICATED, "KEY_EXPIRED")
NO_SUCH_KEY = (Code.NOT_FOUND, "KEY_NOT_FOUND")
DAY, YEAR = 24 * HOUR, 365 * 24 * HOUR


class Holder:
    """An integration whose keys are rotated: its newest key, and the callers with each key, the newest last."""

    def __init__(self, hub: RunningHub, integration_id: str, first: Caller) -> None:
        self.hub = hub
        self.integration_id = integration_id
        self.callers = [first]

    async def rotate(self, **fields: Any) -> Any:  # noqa: ANN401  fields of the request; the reply
        """Make a new key."""
        reply = await ask(self.hub.admin, "RotateKey", integration_id=self.integration_id, **fields)
        self.callers.append(self.hub.caller(reply.key.secret))
        return reply

    def rotating(self, **fields: Any) -> Awaitable[Any]:  # noqa: ANN401  the same
        """A rotation that is to be refused."""
        return ask(self.hub.admin, "RotateKey", integration_id=self.integration_id, **fields)

    async def keys(self) -> list[Key]:
        """Its keys, the newest first."""
        return list((await ask(self.hub.admin, "ListKeys", integration_id=self.integration_id)).keys)


async def holder(hub: RunningHub) -> Holder:
    """An integration whose first key is in use."""
    integration, caller = await hub.register("TICKET_CREATED")
    await use(caller)
    return Holder(hub, integration.integration_id, caller)


def pass_time(clock: FakeClock, seconds: float) -> None:
    """Let time pass, by both clocks."""
    clock.monotonic_offset += seconds
    clock.wall_offset += round(seconds * 1e6)


async def test_after_a_rotation_the_old_key_works_for_a_day(start_hub: StartHub) -> None:
    """By default the old key works for 24 h beside the new one, and not a minute longer."""
    clock = FakeClock()
    mine = await holder(await start_hub(clock))
    reply = await mine.rotate()
    [old] = reply.previous_keys
    assert (old.state, old.key_id) == (KEY_STATE_ACTIVE, mine.callers[0].key.split("_")[2])
    assert DAY <= old.expire_time.seconds - reply.key.create_time.seconds <= DAY + 1
    assert (reply.key.state, reply.key.HasField("expire_time")) == (KEY_STATE_ACTIVE, False)
    pass_time(clock, DAY - 60)
    for caller in mine.callers:
        await use(caller)
    pass_time(clock, 120)
    await use(mine.callers[1])
    assert await refusal(use(mine.callers[0])) == EXPIRED
    assert [key.state for key in await mine.keys()] == [KEY_STATE_ACTIVE, KEY_STATE_EXPIRED]


async def test_the_default_overlap_is_a_setting(start_hub: StartHub) -> None:
    """key_overlap says how long a rotated key lives where the request does not."""
    mine = await holder(await start_hub(key_overlap=HOUR))
    reply = await mine.rotate()
    assert HOUR <= reply.previous_keys[0].expire_time.seconds - reply.key.create_time.seconds <= HOUR + 1


async def test_a_rotation_without_overlap_ends_every_earlier_key(hub: RunningHub) -> None:
    """With "0s" all earlier keys end at once, whatever rotation was under way."""
    mine = await holder(hub)
    await mine.rotate()
    await use(mine.callers[1])
    reply = await mine.rotate(overlap=Duration())
    assert [key.state for key in reply.previous_keys] == [KEY_STATE_REVOKED] * 2
    assert [await refusal(use(caller)) for caller in mine.callers[:2]] == [REVOKED] * 2
    await use(mine.callers[2])


@pytest.mark.parametrize("overlap", [span(7 * DAY + 1), span(-1), Duration(nanos=-1), Duration(seconds=2**62)])
async def test_an_overlap_is_between_zero_and_seven_days(hub: RunningHub, overlap: Duration) -> None:
    """A longer or negative overlap is refused, and no key is made."""
    mine = await holder(hub)
    assert await violations(mine.rotating(overlap=overlap)) == ["overlap"]
    assert len(await mine.keys()) == 1
    await mine.rotate(overlap=span(7 * DAY))


async def test_rotating_again_replaces_a_key_that_was_never_used(hub: RunningHub) -> None:
    """A lost new key ends at once; the key in use keeps its overlap."""
    mine = await holder(hub)
    first_end = (await mine.rotate(overlap=span(HOUR))).previous_keys[0].expire_time
    reply = await mine.rotate(overlap=span(DAY))
    assert [key.state for key in reply.previous_keys] == [KEY_STATE_REVOKED, KEY_STATE_ACTIVE]
    assert reply.previous_keys[1].expire_time == first_end
    assert await refusal(use(mine.callers[1])) == REVOKED
    await use(mine.callers[0])


async def test_a_third_live_key_is_refused(start_hub: StartHub) -> None:
    """While two used keys are live a third is refused, naming them; once one has ended it is made."""
    clock = FakeClock()
    mine = await holder(await start_hub(clock))
    await mine.rotate(overlap=span(HOUR))
    await use(mine.callers[1])
    error = await fails(mine.rotating())
    assert (error.code(), info_of(error).reason) == (Code.FAILED_PRECONDITION, "ROTATION_IN_PROGRESS")
    assert info_of(error).metadata["live_keys"] == ",".join(key.key_id for key in await mine.keys())
    pass_time(clock, HOUR + 1)
    await mine.rotate()
    await use(mine.callers[2])


@pytest.mark.parametrize("step", [HOUR, -HOUR, YEAR, -YEAR])
async def test_a_step_of_the_wall_clock_does_not_change_an_overlap(start_hub: StartHub, step: int) -> None:
    """The clock is set by an hour or a year: the old key neither ends early nor lives on."""
    clock = FakeClock()
    mine = await holder(await start_hub(clock))
    await mine.rotate(overlap=span(DAY))
    clock.wall_offset += step * 1_000_000
    await use(mine.callers[0])
    pass_time(clock, DAY - 60)
    await use(mine.callers[0])
    pass_time(clock, 120)
    assert await refusal(use(mine.callers[0])) == EXPIRED
    await use(mine.callers[1])


async def test_revoking_a_key_is_idempotent(hub: RunningHub) -> None:
    """A revoked key opens nothing; revoking it again changes nothing and is no error."""
    mine = await holder(hub)
    await mine.rotate()
    one = {"integration_id": mine.integration_id, "key_id": mine.callers[0].key.split("_")[2]}
    revoked = (await ask(hub.admin, "RevokeKey", **one, reason="leaked")).key
    assert (revoked.state, revoked.key_id) == (KEY_STATE_REVOKED, one["key_id"])
    assert await refusal(use(mine.callers[0])) == REVOKED
    trail = await ask(hub.admin, "ListAuditEntries")
    assert (await ask(hub.admin, "RevokeKey", **one, reason="again")).key == revoked
    assert await ask(hub.admin, "ListAuditEntries") == trail
    await use(mine.callers[1])


async def test_a_key_is_found_only_at_its_owner(hub: RunningHub) -> None:
    """Neither another integration nor the list of service keys has it."""
    mine, other = await holder(hub), await holder(hub)
    theirs, bots = other.callers[0].key.split("_")[2], hub.bot.key.split("_")[2]
    for key_id in (theirs, bots, "nosuchkey123"):
        request = {"integration_id": mine.integration_id, "key_id": key_id}
        assert await refusal(ask(hub.admin, "RevokeKey", **request)) == NO_SUCH_KEY
    assert await refusal(ask(hub.admin, "RevokeKey", key_id=theirs)) == NO_SUCH_KEY
    await use(other.callers[0])
    await use(hub.bot)


async def test_the_last_live_admin_key_cannot_be_revoked(start_hub: StartHub) -> None:
    """An ended key does not count as live."""
    clock = FakeClock()
    hub = await start_hub(clock)
    own = hub.admin.key.split("_")[2]
    assert await refusal(ask(hub.admin, "RevokeKey", key_id=own)) == (Code.FAILED_PRECONDITION, "RULES_NOT_MET")
    error = await fails(ask(hub.admin, "RevokeKey", key_id=own))
    assert info_of(error).metadata["rules"] == "last_admin_key"
    ends = Timestamp(seconds=clock.now() // 1_000_000 + HOUR)
    await ask(hub.admin, "CreateServiceKey", role=ROLE_ADMIN, display_name="short", expire_time=ends)
    pass_time(clock, HOUR + 1)
    assert await refusal(ask(hub.admin, "RevokeKey", key_id=own)) == (Code.FAILED_PRECONDITION, "RULES_NOT_MET")
    other = (await ask(hub.admin, "CreateServiceKey", role=ROLE_ADMIN, display_name="heir")).key
    assert (await ask(hub.admin, "RevokeKey", key_id=own)).key.state == KEY_STATE_REVOKED
    assert await refusal(use(hub.admin)) == REVOKED
    await use(hub.caller(other.secret))


async def test_an_admin_key_that_expires_soon_does_not_count_as_the_last_one(start_hub: StartHub) -> None:
    """The last lasting admin key stays while all others end within a week; those can be revoked, and so can a bot's."""
    clock = FakeClock()
    hub = await start_hub(clock)
    own = hub.admin.key.split("_")[2]

    async def made(role: Any, days: int) -> str:  # noqa: ANN401  an enum of the stubs
        ends = Timestamp(seconds=clock.now() // 1_000_000 + days * 24 * HOUR + 60)
        created = await ask(hub.admin, "CreateServiceKey", role=role, display_name="short", expire_time=ends)
        return str(created.key.key_id)

    short, bots = await made(ROLE_ADMIN, 6), await made(ROLE_BOT, 6)
    error = await fails(ask(hub.admin, "RevokeKey", key_id=own))
    assert info_of(error).metadata["rules"] == "last_admin_key"
    assert "7 days" in (error.details() or "")
    for key_id in (short, bots, short):
        assert (await ask(hub.admin, "RevokeKey", key_id=key_id)).key.state == KEY_STATE_REVOKED
    await made(ROLE_ADMIN, 7)
    assert (await ask(hub.admin, "RevokeKey", key_id=own)).key.state == KEY_STATE_REVOKED


async def test_two_admins_cannot_revoke_each_other(hub: RunningHub) -> None:
    """Of two concurrent revocations of each other's key one fails."""
    other = (await ask(hub.admin, "CreateServiceKey", role=ROLE_ADMIN, display_name="the other")).key
    own, caller = hub.admin.key.split("_")[2], hub.caller(other.secret)
    calls = ask(hub.admin, "RevokeKey", key_id=other.key_id), ask(caller, "RevokeKey", key_id=own)
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(result, BaseException) for result in results) == 1
    alive = hub.admin if not isinstance(results[0], BaseException) else caller
    await use(alive)


@pytest.mark.parametrize(("role", "name"), [(ROLE_BOT, "bot"), (ROLE_ADMIN, "admin")])
async def test_service_keys(start_hub: StartHub, role: Any, name: str) -> None:  # noqa: ANN401  an enum of the stubs
    """A service key has its role and name, is listed without its secret, and ends at its time."""
    clock = FakeClock()
    hub = await start_hub(clock)
    ends = Timestamp(seconds=clock.now() // 1_000_000 + HOUR)
    made = (await ask(hub.admin, "CreateServiceKey", role=role, display_name="Shard 7", expire_time=ends)).key
    assert (made.role, made.display_name, made.expire_time) == (role, "Shard 7", ends)
    assert made.secret.startswith(f"tkt_{name}_{made.key_id}_")
    await use(hub.caller(made.secret))
    listed = (await ask(hub.admin, "ListKeys")).keys[0]
    assert (listed.key_id, listed.secret, listed.state) == (made.key_id, "", KEY_STATE_ACTIVE)
    pass_time(clock, HOUR + 1)
    assert await refusal(use(hub.caller(made.secret))) == EXPIRED
    assert (await ask(hub.admin, "ListKeys")).keys[0].state == KEY_STATE_EXPIRED


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"role": ROLE_INTEGRATION}, "role"),
        ({"role": 0}, "role"),
        ({"role": 9}, "role"),
        ({"display_name": ""}, "display_name"),
        ({"display_name": "x" * 81}, "display_name"),
        ({"display_name": "a\nb\x1b"}, "display_name"),
        ({"expire_time": Timestamp(seconds=1)}, "expire_time"),
        ({"expire_time": Timestamp(seconds=-1)}, "expire_time"),
        ({"expire_time": Timestamp(seconds=2**62)}, "expire_time"),
        ({"expire_time": Timestamp(seconds=253_402_300_799, nanos=2**31 - 1)}, "expire_time"),
        ({"reason": "x" * 501}, "reason"),
    ],
)
async def test_invalid_service_keys_are_refused(hub: RunningHub, fields: dict[str, Any], field: str) -> None:
    """A role, name or time that a service key cannot have is refused, and no key is made."""
    wanted = {"role": ROLE_BOT, "display_name": "x"} | fields
    assert await violations(ask(hub.admin, "CreateServiceKey", **wanted)) == [field]
    assert len((await ask(hub.admin, "ListKeys")).keys) == 2


async def test_the_last_use_of_a_key_is_stored(start_hub: StartHub) -> None:
    """The time of a key's last use is listed, is unset before the first, and survives a restart."""
    clock = FakeClock()
    hub = await start_hub(clock)
    integration, reader = await hub.register("TICKET_CREATED")
    mine = Holder(hub, integration.integration_id, reader)
    assert not (await mine.keys())[0].HasField("last_use_time")
    await use(reader)
    pass_time(clock, HOUR)
    before = clock.now()
    await use(reader)
    [used] = await mine.keys()
    assert before <= used.last_use_time.ToMicroseconds() <= clock.now()
    await hub.close()
    mine.hub = await start_hub(clock)
    assert await mine.keys() == [used]
    assert (await mine.rotate(overlap=span(HOUR))).previous_keys[0].state == KEY_STATE_ACTIVE


async def test_the_keys_of_a_deleted_integration_are_refused(hub: RunningHub) -> None:
    """After DeleteIntegration its keys are refused with the reason, and can still be listed and revoked."""
    mine = await holder(hub)
    await ask(hub.admin, "DeleteIntegration", integration_id=mine.integration_id, reason="closed down")
    assert await refusal(use(mine.callers[0])) == (Code.PERMISSION_DENIED, "INTEGRATION_DELETED")
    [key] = await mine.keys()
    one = {"integration_id": mine.integration_id, "key_id": key.key_id}
    assert (await ask(hub.admin, "RevokeKey", **one)).key.state == KEY_STATE_REVOKED


@pytest.mark.parametrize("step", [YEAR, -YEAR])
async def test_a_second_rotation_after_a_clock_step_does_not_lengthen_the_overlap(
    start_hub: StartHub, step: int
) -> None:
    """A running overlap ends when it was to end, whatever the clock says at the next rotation."""
    clock = FakeClock()
    mine = await holder(await start_hub(clock))
    await mine.rotate(overlap=span(HOUR))
    clock.wall_offset += step * 1_000_000
    await mine.rotate(overlap=span(DAY))
    pass_time(clock, HOUR + 60)
    assert await refusal(use(mine.callers[0])) == EXPIRED


async def test_live_service_keys_have_a_limit(start_hub: StartHub) -> None:
    """With as many keys as may live, another is refused with RULES_NOT_MET; revoking one makes room."""
    hub = await start_hub(max_service_keys=3)
    made = await ask(hub.admin, "CreateServiceKey", role=ROLE_BOT, display_name="one more")
    refused = await refusal(ask(hub.admin, "CreateServiceKey", role=ROLE_BOT, display_name="too many"))
    assert refused == (Code.FAILED_PRECONDITION, "RULES_NOT_MET")
    await ask(hub.admin, "RevokeKey", key_id=made.key.key_id)
    await ask(hub.admin, "CreateServiceKey", role=ROLE_BOT, display_name="one more")


async def test_each_missing_field_of_a_service_key_has_one_sentence(hub: RunningHub) -> None:
    """An empty request is refused with one sentence for each field."""
    told = detail_of(await fails(ask(hub.admin, "CreateServiceKey")), error_details_pb2.BadRequest).field_violations
    assert [(one.field, one.description) for one in told] == [
        ("role", "is required"),
        ("display_name", "is required"),
    ]
