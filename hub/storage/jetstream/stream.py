"""JetStream's interface: publish, get, page, purge, and its errors. NATS ADR-31 (pages), ADR-50 (batches)."""

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from hub.storage.jetstream.connection import Message, NatsConnection, NoReply

REPLY_TIMEOUT = 2.0
"""Seconds that a request waits for its reply."""

MAX_BATCH = 1_000
"""Messages that the server takes as one atomic batch."""

PAGE_BYTES = 8 * 1024 * 1024

_NOT_FOUND = {10037, 10014, 10059}
_WRONG_LAST = {10071, 10164}
_FULL = {10002, 10023, 10047, 10077}
"""Resource limits of the account, of the cluster, of the store; the store could not be written."""


class ApiError(Exception):
    """JetStream refused a request. `code`: its error code."""

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
    """The last position of the stream, or of the subject, is not the expected one."""

    @property
    def last(self) -> int:
        """The last position."""
        found = re.search(r"(\d+)$", self.text)
        return int(found[1]) if found else 0


class StoredMessage(msgspec.Struct, frozen=True, gc=False):
    """A message of a stream."""

    position: int
    subject: str
    headers: Mapping[str, str]
    data: bytes


class OutgoingMessage(msgspec.Struct, frozen=True, gc=False):
    """A message to be published."""

    subject: str
    headers: dict[str, str]
    data: bytes


class Listing(msgspec.Struct, frozen=True):
    """Messages in order; `ended`: the answering server has no more messages; it may lag behind the leader."""

    messages: list[StoredMessage]
    ended: bool


class NatsStream:
    """One stream of the cluster, by name. Every method may raise `NoReply` and `ApiError`."""

    def __init__(self, connection: NatsConnection, name: str) -> None:
        self.connection = connection
        self.name = name

    async def call(self, what: str, body: object = None, *, time_limit: float = REPLY_TIMEOUT) -> dict[str, Any]:
        """One request to the API, such as "STREAM.INFO"; the stream's name is added."""
        data = b"" if body is None else msgspec.json.encode(body)
        operation, _, rest = what.partition("/")
        subject = f"$JS.API.{operation}.{self.name}" + (f".{rest}" if rest else "")
        answer = await self.connection.request(subject, data, time_limit=time_limit)
        return _decoded(answer)

    async def info(self) -> dict[str, Any]:
        """Configuration and extent, as the leader has them."""
        return await self.call("STREAM.INFO")

    async def last(self) -> int:
        """The newest position ever assigned, as the leader knows it."""
        return int((await self.info())["state"]["last_seq"])

    async def get(self, **which: str | int) -> StoredMessage | None:
        """One message, of the leader: by `seq`, `last_by_subj`, or `seq` and `next_by_subj`."""
        try:
            message = (await self.call("STREAM.MSG.GET", which))["message"]
        except ApiError as error:
            if error.is_not_found:
                return None
            raise
        headers = _headers(base64.b64decode(message.get("hdrs", "")))
        return StoredMessage(message["seq"], message["subject"], headers, base64.b64decode(message.get("data", "")))

    async def page(self, start: int, limit: int, subject: str = "") -> Listing:
        """Up to `limit` messages from a position on, of any replica."""
        request: dict[str, object] = {"seq": start, "batch": limit, "max_bytes": PAGE_BYTES}
        if subject:
            request["next_by_subj"] = subject
        *found, end = await self._direct_get(request)
        messages = _in_order(found)
        headers = end.headers or {}
        if headers.get("Status") == "404":
            return Listing(messages, ended=True)
        if headers.get("Status") != "204":
            raise NoReply(f"a page ended with status {headers.get('Status')}")
        if messages and int(headers["Nats-Last-Sequence"]) != messages[-1].position:
            raise NoReply("a page has lost its last message on its way")
        return Listing(messages, ended=len(messages) < limit and headers["Nats-Num-Pending"] == "0")

    async def count(self, start: int, subject: str) -> int:
        """How many messages of a subject there are from a position on, as any replica knows it."""
        answers = await self._direct_get({"seq": start, "batch": 1, "next_by_subj": subject})
        return int((answers[0].headers or {})["Nats-Num-Pending"]) + 1 if len(answers) > 1 else 0

    async def _direct_get(self, request: Mapping[str, object]) -> list[Message]:
        """The messages that any replica has, and a status behind them."""
        subject = f"$JS.API.DIRECT.GET.{self.name}"
        return await self.connection.page(subject, msgspec.json.encode(request), time_limit=REPLY_TIMEOUT)

    async def purge(self, subject: str, *, before: int = 0, keep: int = 0) -> None:
        """Remove messages of a subject: those below a position, or all but the newest `keep`."""
        wanted: dict[str, object] = {"filter": subject}
        if before:
            wanted["seq"] = before
        if keep:
            wanted["keep"] = keep
        await self.call("STREAM.PURGE", wanted)

    async def overwrite(self, position: int) -> None:
        """Remove a message and overwrite its bytes in the file."""
        try:
            await self.call("STREAM.MSG.DELETE", {"seq": position, "no_erase": False})
        except ApiError as error:
            if not error.is_not_found and await self.get(seq=position) is not None:
                raise

    async def publish(self, message: OutgoingMessage, *, time_limit: float = REPLY_TIMEOUT) -> int:
        """Store a message; returns its position."""
        return await self._acknowledged(message, time_limit)

    async def publish_together(
        self, messages: Sequence[OutgoingMessage], batch: str, *, time_limit: float = REPLY_TIMEOUT
    ) -> int:
        """Store messages one after the other, with nothing between them, all or none; returns the last position."""
        *others, last = messages
        for number, message in enumerate(others, 1):
            message.headers.update({"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(number)})
            await self.connection.send(message.subject, message.data, message.headers)
        last.headers.update(
            {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(len(messages)), "Nats-Batch-Commit": "1"}
        )
        return await self._acknowledged(last, time_limit)

    async def _acknowledged(self, message: OutgoingMessage, time_limit: float) -> int:
        answer = await self.connection.request(message.subject, message.data, message.headers, time_limit=time_limit)
        return int(_decoded(answer)["seq"])


def _decoded(answer: Message) -> dict[str, Any]:
    try:
        content: dict[str, Any] = msgspec.json.decode(answer.data)
    except msgspec.DecodeError:
        raise NoReply("an answer that cannot be read") from None
    error = content.get("error")
    if error is None:
        return content
    code, text = int(error.get("err_code", 0)), str(error.get("description", ""))
    raise (WrongLast if code in _WRONG_LAST else ApiError)(code, text)


def _in_order(answers: Sequence[Message]) -> list[StoredMessage]:
    """The messages in the answers to one request; each names the message before it.

    Raises:
        NoReply: one is missing between two others.
    """
    messages: list[StoredMessage] = []
    for answer in answers:
        headers = answer.headers or {}
        if messages and int(headers["Nats-Last-Sequence"]) != messages[-1].position:
            raise NoReply("a page has lost a message on its way")
        messages.append(StoredMessage(int(headers["Nats-Sequence"]), headers["Nats-Subject"], headers, answer.data))
    return messages


def _headers(raw: bytes) -> dict[str, str]:
    """The lines of a header block, without the first, which names the protocol."""
    lines = raw.decode("utf-8", "replace").split("\r\n")[1:]
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines) if value}
