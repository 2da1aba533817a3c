"""The contract's rules for required fields and for texts, tried on every request."""

import unicodedata
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from msgspec.structs import replace
from tickets.hub.v1 import admin_service_pb2, rules_pb2

from hub.api import validation
from hub.api.validation import text_fields
from hub.control.transactions import Intent
from hub.errors import InvalidRequest
from hub.model import Caller, Role
from hub.permissions import SERVICES
from hub.text import escaped
from tests.support.calls import ask, fails, reason_of
from tests.support.hubs import REGISTRATION, RunningHub, scope_requests

RULES: Any = rules_pb2.DESCRIPTOR.pool.FindExtensionByName("buf.validate.field")
REQUESTS = [method.input_type for service in SERVICES for method in service.methods]

SEEN = {
    "plain": "Statistics",
    "accents, composed and not": "Caf\u00e9 Cafe\u0301",
    "Persian with ZWNJ": "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
    "Hindi with ZWJ": "\u0915\u094d\u200d\u0937",
    "a family": "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "a heart with its variation selector": "\u2764\ufe0f",
    "a keycap": "1\ufe0f\u20e3",
    "the flag of England": "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "an emoji of tomorrow": "\U0001faee",
    "Hebrew with a mark of direction": "\u05e9\u05dc\u05d5\u05dd\u200f!",
    "Thai with a place to break": "\u0e01\u200b\u0e02",
    "Hangul": "\ud55c\uad6d\uc5b4",
    "lines and tabs": "one\n\ttwo\r\nthree",
    "a blank letter beside one that is seen": "a\u3164",
}
UNSEEN = {
    "spaces": "   ",
    "no-break space": "\u00a0",
    "ideographic space": "\u3000",
    "line breaks": "\n\r\n",
    "zero-width space": "\u200b",
    "word joiner": "\u2060",
    "soft hyphen": "\u00ad",
    "Hangul filler": "\u3164",
    "halfwidth Hangul filler": "\uffa0",
    "Hangul choseong filler": "\u115f",
    "Hangul jungseong filler": "\u1160",
    "Braille blank": "\u2800",
    "Khmer inherent vowel": "\u17b4",
    "Mongolian vowel separator": "\u180e",
    "a mark alone": "\u0301",
    "a variation selector alone": "\ufe0f",
    "null notehead": "\U0001d159",
    "Egyptian blank": "\U00013441",
    "object replacement": "\ufffc",
}
REFUSED = {
    "NUL": "a\x00",
    "escape": "\x1b[31mred",
    "backspace": "a\bb",
    "carriage return": "good\rbad",
    "carriage return at the end": "good\r",
    "vertical tab": "a\x0bb",
    "delete": "a\x7f",
    "NEL": "a\u0085b",
    "CSI of one character": "a\u009b31m",
    "the last C1 control": "a\u009f",
    "line separator": "a\u2028b",
    "paragraph separator": "a\u2029b",
    **{f"bidi U+{code:04X}": f"a{chr(code)}b" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))},
    "deprecated format character": "a\u206ab",
    "byte order mark": "\ufeffa",
    "annotation anchor": "a\ufff9b",
    "private use": "a\ue000",
    "private use, plane 15": "a\U000f0000",
    "private use, plane 16": "a\U0010fffd",
    "noncharacter": "a\ufdd0",
    "tags that are no flag": "a\U000e0041\U000e0042",
    "a flag of too many tags": "\U0001f3f4" + "\U000e0061" * 40,
    "ZWJ first": "\u200da",
    "ZWJ last": "a\u200d",
    "ZWNJ after a space": "a \u200cb",
    "ZWNJ before a line break": "a\u200c\nb",
    "joiners in a row": "a\u200d\u200d\u200cb",
}


def texts(kind: Descriptor, path: str = "") -> Iterator[str]:
    """The paths of all texts for people in a message, lists by their first entry."""
    for field in text_fields(kind):
        here = f"{path}{field.name}"
        if field.message_type is None:
            yield here
        else:
            yield from texts(field.message_type, f"{here}[0]." if field.is_repeated else f"{here}.")


def put(message: Message, path: str, value: str) -> None:
    """Write a text at a path."""
    first, _, rest = path.partition(".")
    if not rest:
        setattr(message, first, value)
        return
    part = getattr(message, first.removesuffix("[0]"))
    put(part.add() if first.endswith("[0]") else part, rest, value)


def broken(request: Message) -> dict[str, str]:
    """The fields that break a rule, with what is said of each first; what an update changes is checked, too."""
    found: dict[str, str] = {}
    updated = [(field, getattr(request, field)) for field in ("integration", "key") if hasattr(request, field)]
    for prefix, message in (("", request), *updated):
        try:
            validation.check(message, prefix)
        except InvalidRequest as refusal:
            for violation in reversed(refusal.violations):
                found[violation.field] = violation.description
    return found


TEXTS = [(kind, path) for kind in REQUESTS for path in texts(kind)]


@pytest.mark.parametrize(("kind", "path"), TEXTS, ids=lambda one: getattr(one, "name", one))
def test_every_text_for_people_follows_one_rule(kind: Descriptor, path: str) -> None:
    """Invisible text and characters that control a screen are refused; scripts and emoji are accepted."""
    for wanted, several in ((False, UNSEEN | REFUSED), (True, SEEN)):
        for name, text in several.items():
            request = GetMessageClass(kind)()
            put(request, path, text)
            assert (path not in broken(request)) is wanted, name


def test_every_text_field_is_classified() -> None:
    """Each text of a request is an id, a link, a text for people, or listed here as what it is."""
    others = {"filter", "query", "page_token", "etag", "method", "cursor", "request_id"}
    others |= {"url", "public_key", "disable_reason"}  # of an endpoint: settings judge the first, the others are output
    bare = {field.name for kind in REQUESTS for field in every_text(kind, set()) if not has_rule(field)}
    assert bare <= others
    assert len(TEXTS) > 20


def every_text(kind: Descriptor, seen: set[str]) -> Iterator[FieldDescriptor]:
    """The string fields of a request, as deep as its messages are ours; of an integration those that can be changed."""
    if not kind.full_name.startswith(rules_pb2.DESCRIPTOR.package) or kind.full_name in seen:
        return
    seen.add(kind.full_name)
    for field in kind.fields:
        if field.message_type is not None:
            yield from every_text(field.message_type, seen)
        elif field.type == FieldDescriptor.TYPE_STRING and RULES in [one for one, _ in field.GetOptions().ListFields()]:
            yield field


def has_rule(field: FieldDescriptor) -> bool:
    """Whether a string is held to one of the contract's own rules."""
    rules = field.GetOptions().Extensions[RULES]
    several = [rules.string, rules.repeated.items.string]
    return any(option.is_extension for one in several for option, _ in one.ListFields())


@pytest.mark.parametrize("kind", REQUESTS, ids=lambda kind: kind.name)
def test_a_missing_field_is_reported_as_required(kind: Descriptor) -> None:
    """Of an empty request, and of empty parts in it, each refusal says that the field is required, and nothing else."""
    request = GetMessageClass(kind)()
    for field in kind.fields:
        if field.message_type is not None and field.message_type.full_name.startswith(rules_pb2.DESCRIPTOR.package):
            part = getattr(request, field.name)
            part.add() if field.is_repeated else part.SetInParent()
    for message in (GetMessageClass(kind)(), request):
        refusals = {path: text for path, text in broken(message).items() if path.rpartition(".")[2] != "shard"}
        assert set(refusals.values()) <= {"is required"}, refusals


async def test_texts_are_stored_in_nfc(hub: RunningHub) -> None:
    """A name in NFD is stored, shown and returned in NFC, in a new integration and in a changed one."""
    decomposed = unicodedata.normalize("NFD", "Caf\u00e9 \ud55c\uad6d")
    fields: dict[str, Any] = REGISTRATION | {"display_name": decomposed, "scopes": scope_requests("DROP_CLAIMED")}
    made = (await ask(hub.admin, "AdminService/RegisterIntegration", **fields)).integration
    assert made.display_name == unicodedata.normalize("NFC", decomposed) != decomposed
    update = {"integration_id": made.integration_id, "description": decomposed}
    await ask(hub.admin, "AdminService/UpdateIntegration", integration=update, reason=decomposed)
    read = await ask(hub.admin, "AdminService/GetIntegration", integration_id=made.integration_id)
    assert read.integration.description == unicodedata.normalize("NFC", decomposed)
    entries = (await ask(hub.admin, "AdminService/ListAuditEntries", integration_id=made.integration_id)).entries
    assert entries[0].reason == unicodedata.normalize("NFC", decomposed)


async def test_the_length_of_a_text_is_measured_in_nfc(hub: RunningHub) -> None:
    """U+0958 is two characters in NFC: 80 of them are too many for a name, and 40 are a name that can be changed."""
    fields: dict[str, Any] = REGISTRATION | {"scopes": scope_requests("DROP_CLAIMED")}
    error = await fails(ask(hub.admin, "AdminService/RegisterIntegration", **fields | {"display_name": "\u0958" * 80}))
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    named = fields | {"display_name": "\u0958" * 40}
    made = (await ask(hub.admin, "AdminService/RegisterIntegration", **named)).integration
    assert len(made.display_name) == 80
    update = {"integration_id": made.integration_id, "description": "x"}
    await ask(hub.admin, "AdminService/UpdateIntegration", integration=update)


async def test_a_text_stored_under_earlier_rules_does_not_block_other_changes(hub: RunningHub) -> None:
    """Such a name stays until it is changed; a new one has to follow the rule."""
    made, _ = await hub.register("DROP_CLAIMED")
    by = Caller(Role.ADMIN, "", "", "AdminService/UpdateIntegration", "")
    await hub.hub.changes.update_integration(
        Intent(by), made.integration_id, lambda record: replace(record, display_name="\u200b")
    )
    update: dict[str, Any] = {"integration_id": made.integration_id, "description": "x"}
    await ask(hub.admin, "AdminService/UpdateIntegration", integration=update)
    error = await fails(ask(hub.admin, "AdminService/UpdateIntegration", integration=update | {"display_name": " "}))
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")


def test_control_characters_are_escaped_on_a_terminal() -> None:
    """Characters that may not be stored any more, but may have been, are shown escaped."""
    for text in REFUSED.values():
        shown = escaped(text)
        assert shown.replace("\u200c", "").replace("\u200d", "").isprintable()
        assert escaped(shown) == shown
    assert (
        escaped("\x1b[31m\u202e\U0001f468\u200d\U0001f469 caf\u00e9")
        == "\\x1b[31m\\u202e\U0001f468\u200d\U0001f469 caf\u00e9"
    )


def test_an_optional_reason_may_be_left_out() -> None:
    """Where a reason may be empty, an empty one is fine; a blank one is not."""
    request = admin_service_pb2.ResumeIntegrationRequest(integration_id="x")
    assert broken(request) == {}
    request.reason = " "
    assert broken(request) == {"reason": "must contain something that people can see"}
