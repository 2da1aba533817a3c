"""What JetStream can be asked, in its own words: publish, get, page, purge. ADR-31 (pages), ADR-50 (batches).

Lives here: subjects and JSON of the server's interface, its errors. Must not know what the entries of a log are.
"""

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from hub.storage._jetstream_wire import Message, NoAnswer, Wire

PATIENCE = 2.0
"""Seconds that one question waits for its answer."""

MAX_BATCH = 1_000
"""Messages that the server takes as one atomic batch."""

PAGE_BYTES = 8 * 1024 * 1024

_NOT_FOUND = {10037, 10014, 10059}
_WRONG_LAST = {10071, 10164}
_FULL = {10002, 10023, 10047, 10077}
"""Resource limits of the account, of the cluster, of the store; the store could not be written."""


class ApiError(Exception):
    """JetStream said no. `code`: its error code."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{text} ({code})")
        self.code = code
        self.text = text

    @property
    def is_not_found(self) -> bool:
        """Whether there is no such message, consumer or stream."""
        return self.code in _NOT_FOUND

    @property
    def is_full(self) -> bool:
        """Whether there is no room."""
        return self.code in _FULL


class WrongLast(ApiError):
    """The stream, or the subject, stands elsewhere than was expected."""

    @property
    def last(self) -> int:
        """Where it stands."""
        found = re.search(r"(\d+)$", self.text)
        return int(found[1]) if found else 0


class Stored(msgspec.Struct, frozen=True, gc=False):
    """A message of a stream."""

    position: int
    subject: str
    headers: Mapping[str, str]
    data: bytes


class Draft(msgspec.Struct, frozen=True, gc=False):
    """A message to be published."""

    subject: str
    headers: dict[str, str]
    data: bytes


class Listing(msgspec.Struct, frozen=True):
    """Messages in order; `ended`: whoever answered has no more of them, be it that it is behind the leader."""

    messages: list[Stored]
    ended: bool


class Stream:
    """One stream of the cluster, by name. Every method may raise `NoAnswer` and `ApiError`."""

    def __init__(self, wire: Wire, name: str) -> None:
        self.wire = wire
        self.name = name

    async def call(self, what: str, body: object = None, *, patience: float = PATIENCE) -> dict[str, Any]:
        """One question to the interface, "STREAM.INFO" for example; the stream's name is added."""
        data = b"" if body is None else msgspec.json.encode(body)
        operation, _, rest = what.partition("/")
        subject = f"$JS.API.{operation}.{self.name}" + (f".{rest}" if rest else "")
        answer = await self.wire.request(subject, data, patience=patience)
        return _decoded(answer)

    async def info(self) -> dict[str, Any]:
        """Configuration and extent, as the leader has them."""
        return await self.call("STREAM.INFO")

    async def last(self) -> int:
        """The newest position ever given, as the leader has it."""
        return int((await self.info())["state"]["last_seq"])

    async def get(self, **which: str | int) -> Stored | None:
        """One message, of the leader: by `seq`, `last_by_subj`, or `seq` and `next_by_subj`."""
        try:
            message = (await self.call("STREAM.MSG.GET", which))["message"]
        except ApiError as error:
            if error.is_not_found:
                return None
            raise
        headers = _headers(base64.b64decode(message.get("hdrs", "")))
        return Stored(message["seq"], message["subject"], headers, base64.b64decode(message.get("data", "")))

    async def page(self, start: int, limit: int, subject: str = "") -> Listing:
        """Up to `limit` messages from a position on, of any replica."""
        wanted: dict[str, object] = {"seq": start, "batch": limit, "max_bytes": PAGE_BYTES}
        if subject:
            wanted["next_by_subj"] = subject
        answers = await self.wire.page(
            f"$JS.API.DIRECT.GET.{self.name}", msgspec.json.encode(wanted), patience=PATIENCE
        )
        *found, end = answers
        messages: list[Stored] = []
        before = 0
        for answer in found:
            headers = answer.headers or {}
            position = int(headers["Nats-Sequence"])
            if before and int(headers["Nats-Last-Sequence"]) != before:
                raise NoAnswer("a page has lost a message on its way")
            before = position
            messages.append(Stored(position, headers["Nats-Subject"], headers, answer.data))
        headers = end.headers or {}
        if headers.get("Status") == "404":
            return Listing(messages, ended=True)
        if headers.get("Status") != "204":
            raise NoAnswer(f"a page ended with status {headers.get('Status')}")
        if messages and int(headers["Nats-Last-Sequence"]) != before:
            raise NoAnswer("a page has lost its last message on its way")
        return Listing(messages, ended=len(messages) < limit and headers["Nats-Num-Pending"] == "0")

    async def count(self, start: int, subject: str) -> int:
        """How many messages of a subject there are from a position on, as any replica has it."""
        wanted = {"seq": start, "batch": 1, "next_by_subj": subject}
        answers = await self.wire.page(
            f"$JS.API.DIRECT.GET.{self.name}", msgspec.json.encode(wanted), patience=PATIENCE
        )
        return int((answers[0].headers or {})["Nats-Num-Pending"]) + 1 if len(answers) > 1 else 0

    async def purge(self, subject: str, *, before: int = 0, keep: int = 0) -> None:
        """Remove messages of a subject: those below a position, or all but the newest `keep`."""
        wanted: dict[str, object] = {"filter": subject}
        if before:
            wanted["seq"] = before
        if keep:
            wanted["keep"] = keep
        await self.call("STREAM.PURGE", wanted)

    async def overwrite(self, position: int) -> None:
        """Remove a message so that the file holds its bytes no more."""
        try:
            await self.call("STREAM.MSG.DELETE", {"seq": position, "no_erase": False})
        except ApiError as error:
            if not error.is_not_found and await self.get(seq=position) is not None:
                raise

    async def publish(self, draft: Draft, *, patience: float = PATIENCE) -> int:
        """Store a message; returns its position."""
        return await self._acknowledged(draft, patience)

    async def publish_together(self, drafts: Sequence[Draft], batch: str, *, patience: float = PATIENCE) -> int:
        """Store messages one after the other, with nothing between them, all or none; returns the last position."""
        *others, last = drafts
        for number, draft in enumerate(others, 1):
            draft.headers.update({"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(number)})
            await self.wire.send(draft.subject, draft.data, draft.headers)
        last.headers.update({"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(len(drafts)), "Nats-Batch-Commit": "1"})
        return await self._acknowledged(last, patience)

    async def _acknowledged(self, draft: Draft, patience: float) -> int:
        answer = await self.wire.request(draft.subject, draft.data, draft.headers, patience=patience)
        return int(_decoded(answer)["seq"])


def _decoded(answer: Message) -> dict[str, Any]:
    try:
        content: dict[str, Any] = msgspec.json.decode(answer.data)
    except msgspec.DecodeError:
        raise NoAnswer("an answer that cannot be read") from None
    error = content.get("error")
    if error is None:
        return content
    code, text = int(error.get("err_code", 0)), str(error.get("description", ""))
    raise (WrongLast if code in _WRONG_LAST else ApiError)(code, text)


def _headers(raw: bytes) -> dict[str, str]:
    """The lines of a header block, without the first, which names the protocol."""
    lines = raw.decode("utf-8", "replace").split("\r\n")[1:]
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines) if value}
