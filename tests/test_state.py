"""Stored values stay readable: state keys, records, and everything made with the secret."""

import asyncio

import msgspec
import pytest

from hub import state
from hub.api.paging import Pages
from hub.clock import Clock
from hub.config import Settings
from hub.control.hub_secret import HubSecret, choose
from hub.crypto import Seal, derived_secrets, secret_check, state_check
from hub.delivery.cursor import CursorSeal
from hub.errors import CursorInvalid, InvalidRequest
from hub.latch import PositionLatch
from hub.model import Actor, Change, ClaimRecord, Cursor, Entry, Kind, OversightRecord, Role, UseRecord

SECRET = bytes(range(32))
"""Under this one the texts below were made, by the hub of format 2."""

CURSOR = "eZSmYP2VxQUcQ0bco2Afs6GyXsn2xTOwnfMQzX91I_sWXOcYzqr5GFvSM_fnXnbB"
PAGE_TOKEN = "3zipsjb4kKEGFKa4yZDfYRf3F-ybyJ0E"
EARLIER = "xUDg/t1QGFYSCp2TS9TG+/2LJLqmF+ixlIawGUMPjh0CLAVwYHi/z4NmCAiE4w2f"


def test_values_made_with_the_secret_stay_readable() -> None:
    """Cursors, page tokens, digests and earlier secrets of stores and callers are read as they were made."""
    assert state_check(SECRET) == "cc8ceb613e4224ed3e1aaf07428ab53c"
    assert secret_check(SECRET).hex() == "c0b191f900ce19febd6b8ac126b18775c5247aa4b06d05d51932758a51e89f3a"
    assert CursorSeal(SECRET).open(CURSOR) == Cursor(epoch=3, position=7, time=9)
    pages = Pages(SECRET, Settings.model_validate({}), Clock())
    assert pages.after(PAGE_TOKEN, "integrations", "state = ACTIVE") == [7, "x7"]
    record = f'{{"check":"{state_check(SECRET)}","earlier":[{{"sealed":"{EARLIER}","rotate_time":5}}]}}'
    body = f'{{"actor":{{}},"method":"hub","record":{record}}}'.encode()
    assert choose([SECRET], [Entry(Kind.STATE, 1, body, "secret")]) == HubSecret(SECRET, ((b"e" * 32, 5),))


@pytest.mark.parametrize("text", ["", "A", "=" * 64, CURSOR[:-1] + "A", CURSOR + "AAAA", "é" * 64])
def test_a_text_that_was_not_sealed_does_not_open(text: str) -> None:
    """Neither as a cursor nor as a page token; nor does a page token of another list."""
    with pytest.raises(CursorInvalid):
        CursorSeal(SECRET).open(text)
    pages = Pages(SECRET, Settings.model_validate({}), Clock())
    with pytest.raises(InvalidRequest):
        pages.after(text or PAGE_TOKEN, "integrations", "state = PENDING")


def test_a_seal_opens_what_earlier_secrets_sealed() -> None:
    """But makes its own under the newest, and keeps purposes apart."""
    text = Seal(SECRET, "cursors").seal(b"inside", b"context").decode()
    newer = Seal(b"n" * 32, "cursors", [SECRET])
    assert newer.open(text, b"context") == b"inside"
    assert newer.seal(b"inside", b"context").decode() != text
    assert newer.open(text) is None
    assert Seal(SECRET, "page tokens").open(text, b"context") is None


def test_a_secret_setting_may_be_hexadecimal_digits() -> None:
    """64 hexadecimal digits are also read as the 32 bytes that a store has made."""
    assert derived_secrets(SECRET.hex())[1:] == [SECRET]
    assert len(derived_secrets("not hexadecimal, but long enough")) == 1


def test_compacted_keys_are_a_property_of_their_kinds() -> None:
    """The log keeps the newest entry alone of these, and everything of all others."""
    of_readers = {"cursor/", "claim/", "use/", "emitter/", "import/", "place/", "hub/"}
    assert set(state.COMPACTED_PREFIXES) == of_readers | {"told/", "notice/", "erased/", "erasing/"}
    for kind in (state.INTEGRATION, state.INSTALLATION, state.BLOCK, state.OVERSIGHT, state.SERVICE, state.SECRET):
        assert not kind.key("x").startswith(state.COMPACTED_PREFIXES)


def test_keys_name_their_kind_and_what_they_are_about() -> None:
    """A key is taken apart as it was put together; only some keys belong to an integration."""
    key = state.INSTALLATION.key("x7", 42)
    assert (key, state.INSTALLATION.rest(key), state.kind_name(key)) == ("installation/x7/42", "x7/42", "installation")
    assert state.KEY_USE.has("use/key/k1")
    assert not state.KEY_USE.has("use/integration/x7")
    assert not state.KEY_USE.has("use/keyring/k1")
    keys = (key, "integration/x7", "oversight/x7", "service", "claim/x7/default")
    assert [state.integration_of(one) for one in keys] == ["x7", "x7", "x7", "", ""]


def test_records_are_read_back() -> None:
    """A compacted entry is the bare record, or empty; an audited one has the change around its record."""
    claim = ClaimRecord("s1", 5)
    entry = state.CLAIM.entry(state.CLAIM.key("x7/default"), 9, claim)
    assert (entry.kind, entry.key, entry.time) == (Kind.STATE, "claim/x7/default", 9)
    assert state.CLAIM.decode(entry.body) == claim
    assert state.CLAIM.entry(entry.key, 9, None).body == b""
    record, change = OversightRecord("x7", "tail"), Change(Actor(Role.ADMIN, "k1"), "EventService/Tail", reason="why")
    read = state.OVERSIGHT.decode(state.OVERSIGHT.encode(change, record))
    assert (read.record, read.change.actor, read.change.reason) == (record, change.actor, "why")
    with pytest.raises(msgspec.DecodeError):
        state.OVERSIGHT.decode(state.KEY_USE.encode(UseRecord(1)))


async def test_a_latch_releases_callers_at_their_position() -> None:
    """Callers wait for different positions; a cancelled one delays no other, and positions never go back."""
    latch = PositionLatch()
    near, far, gone = (asyncio.ensure_future(latch.wait(position)) for position in (2, 3, 2))
    await asyncio.sleep(0)
    gone.cancel()
    latch.advance(2)
    latch.advance(1)
    await asyncio.wait_for(near, 1)
    assert (latch.position, far.done()) == (2, False)
    latch.advance(5)
    await asyncio.wait_for(far, 1)
    await asyncio.wait_for(latch.wait(4), 1)
