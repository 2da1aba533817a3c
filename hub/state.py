"""The kinds of state in the log: the keys of each, the encoding of its record, and whether its keys are compacted.

A key is the name of its kind, followed by an id if there are several: "integration/x7", "service". An
entry of an audited kind holds a `Change`; superseded ones stay, as the audit trail, for `audit_retention`. Of a
compacted key the log keeps the newest entry alone, which holds nothing but the record. A compacted entry without a body
is a tombstone: the key is deleted.
"""

from typing import Generic, NamedTuple, TypeVar

import msgspec

from hub.endpoint_model import EndpointRecord, HubRecord, PlaceRecord
from hub.model import (
    BlockRecord,
    Change,
    ClaimRecord,
    CursorRecord,
    DeliveryRecord,
    EmitterRecord,
    Entry,
    ImportRecord,
    InstallationRecord,
    IntegrationRecord,
    Kind,
    OversightRecord,
    SecretRecord,
    ServiceRecord,
    UseRecord,
)
from hub.privacy_model import (
    ErasedSubjectRecord,
    ErasureRecord,
    ErasureWorkRecord,
    NoticeRecord,
    SentRecord,
    SharingRecord,
)

Record = TypeVar("Record", bound=msgspec.Struct)

_encoder = msgspec.json.Encoder()
_change = msgspec.json.Decoder(Change)


class Audited(NamedTuple, Generic[Record]):
    """A record, and the change that produced it."""

    record: Record
    change: Change


class StateKind(Generic[Record]):
    """What audited and compacted kinds have in common: a name and a type of record."""

    def __init__(self, name: str, record: type[Record]) -> None:
        """`name`: what the keys of this kind begin with."""
        self.name = name
        self._records = msgspec.json.Decoder(record)

    def key(self, *parts: str | int) -> str:
        """The key of one entry: its parts behind the name of the kind, separated by slashes."""
        return "/".join((self.name, *map(str, parts)))

    def has(self, key: str) -> bool:
        """Whether a key is of this kind."""
        return key == self.name or key.startswith(f"{self.name}/")

    def rest(self, key: str) -> str:
        """A key of this kind without the name of the kind: "x7" for "integration/x7"."""
        return key[len(self.name) + 1 :]


class AuditedKind(StateKind[Record]):
    """A kind of which superseded entries stay, as the audit trail: its bodies are changes."""

    def encode(self, change: Change, record: Record) -> bytes:
        """The body of an entry: the change with this record."""
        return encode_change(change, record)

    def decode(self, body: bytes) -> Audited[Record]:
        """The record in the body of an entry, and the change that made it.

        Raises:
            msgspec.DecodeError: the body is not of this kind.
        """
        change = _change.decode(body)
        return Audited(self._records.decode(change.record), change)


class CompactedKind(StateKind[Record]):
    """A kind of which only the newest entry of each key is kept: its bodies are records, or empty (a tombstone)."""

    def entry(self, key: str, time: int, record: Record | None) -> Entry:
        """An entry for the log; None deletes the key. `time` in microseconds."""
        return Entry(Kind.STATE, time, b"" if record is None else self.encode(record), key=key)

    def encode(self, record: Record) -> bytes:
        """The body of an entry."""
        return _encoder.encode(record)

    def decode(self, body: bytes) -> Record:
        """The record in the body of an entry that is no tombstone.

        Raises:
            msgspec.DecodeError: the body is not of this kind.
        """
        return self._records.decode(body)


INTEGRATION = AuditedKind("integration", IntegrationRecord)
"""integration/<integration>"""
INSTALLATION = AuditedKind("installation", InstallationRecord)
"""installation/<integration>/<guild>"""
ERASURE = AuditedKind("erasure", ErasureRecord)
"""erasure/<erasure>"""
SHARING = AuditedKind("sharing", SharingRecord)
"""sharing/<guild>"""
BLOCK = AuditedKind("block", BlockRecord)
"""block/<user>"""
OVERSIGHT = AuditedKind("oversight", OversightRecord)
"""oversight/<integration>"""
ENDPOINT = AuditedKind("endpoint", EndpointRecord)
"""endpoint/<integration>/<endpoint>"""
SERVICE = AuditedKind("service", ServiceRecord)
SECRET = AuditedKind("secret", SecretRecord)
CLAIM = CompactedKind("claim", ClaimRecord)
"""claim/<integration>/<subscription>"""
CURSOR = CompactedKind("cursor", CursorRecord)
"""cursor/<integration>/<subscription>"""
PLACE = CompactedKind("place", PlaceRecord)
"""place/<integration>/<endpoint>"""
HUB = CompactedKind("hub", HubRecord)
"""hub/<replica>"""
KEY_USE = CompactedKind("use/key", UseRecord)
"""use/key/<key>"""
DELIVERY = CompactedKind("use/integration", DeliveryRecord)
"""use/integration/<integration>"""
EMITTER = CompactedKind("emitter", EmitterRecord)
"""emitter/<emitter>"""
IMPORT = CompactedKind("import", ImportRecord)
ERASED_SUBJECT = CompactedKind("erased", ErasedSubjectRecord)
"""erased/<erasure>"""
ERASURE_WORK = CompactedKind("erasing", ErasureWorkRecord)
"""erasing/<erasure>"""
NOTICE = CompactedKind("notice", NoticeRecord)
"""notice/<erasure>/<integration>"""
SENT = CompactedKind("told", SentRecord)
"""told/<integration>/<subscription>"""

SERVICE_KEY = SERVICE.key()
SECRET_KEY = SECRET.key()
IMPORT_KEY = IMPORT.key("log")

AUDITED_OF_INTEGRATIONS = (INTEGRATION, INSTALLATION, OVERSIGHT, ENDPOINT)
"""The audited kinds whose keys name an integration first."""


def kind_name(key: str) -> str:
    """The first part of a key: "integration" for "integration/x7"."""
    return key.partition("/")[0]


_COMPACTED = (CURSOR, CLAIM, PLACE, HUB, KEY_USE, DELIVERY, EMITTER, IMPORT, ERASED_SUBJECT, ERASURE_WORK, NOTICE, SENT)
COMPACTED_PREFIXES = tuple(dict.fromkeys(f"{kind_name(kind.name)}/" for kind in _COMPACTED))
"""The prefixes of all compacted keys."""


def encode_change(change: Change, record: msgspec.Struct) -> bytes:
    """The body of an audited entry: the change with this record."""
    return _encoder.encode(msgspec.structs.replace(change, record=msgspec.Raw(_encoder.encode(record))))


def decode_change(body: bytes) -> Change:
    """The change in the body of an audited entry, whatever its kind; its record stays raw."""
    return _change.decode(body)


def integration_of(key: str) -> str:
    """The integration that an audited key names; "" for none."""
    kind, _, rest = key.partition("/")
    return rest.partition("/")[0] if kind in {one.name for one in AUDITED_OF_INTEGRATIONS} else ""
