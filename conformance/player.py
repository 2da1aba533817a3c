"""Plays a script: the scripted hub does its part, the client under test is asked, and what it does is compared."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message
from tickets_hub.v1.developer_service_pb2 import RotateOwnKeyResponse
from tickets_hub.v1.event_service_pb2 import (
    BatchEmitEventsRequest,
    BatchEmitEventsResponse,
    CommitCursorResponse,
    EmitEventResponse,
    SubscribeRequest,
    SubscribeResponse,
)

from conformance.scripts import Script, Step
from conformance.server import End, Occurrence, ScriptedHub, status
from conformance.subject import Subject

PATIENCE = 20.0
"""Seconds after which something that did not happen counts as not happening. No script needs one of them."""

EARLY = 0.002
"""Seconds by which a timer may fire early: some clocks count whole milliseconds."""

KEY = "tkt_integration_first_key"


class Deviation(Exception):
    """The client did something else than the script says."""


class Player:
    """One script with one client."""

    def __init__(self, hub: ScriptedHub, client: Subject) -> None:
        self._hub = hub
        self._client = client
        self._stream: Occurrence | None = None
        self._held: Occurrence | None = None
        self._key = KEY

    async def play(self, script: Script) -> None:
        """Play it all. Deviation says at which step the client did something else."""
        self._client.forget()
        self._client.tell({"do": "connect", "target": self._hub.address, "key": KEY, "policy": script.policy})
        for number, step in enumerate([*script.steps, {"do": "close"}, {"done": "close"}], 1):
            try:
                async with asyncio.timeout(PATIENCE):
                    await self._take(step)
            except (Deviation, TimeoutError, ConnectionError) as error:
                what = str(error) or "it did not happen"
                raise Deviation(f"{script.name}, step {number}, {step}: {what}\n  {script.rule}") from None
        self._compare_rest(script)

    async def _take(self, step: Step) -> None:
        if "do" in step:
            if step["do"] == "use_key":
                self._key = step["key"]
            self._client.tell(step)
            return
        kind, wanted = next(iter(step.items()))
        await getattr(self, f"_{kind}")(wanted, step)

    async def _opens(self, wanted: Step, _: Step) -> None:
        """The client opens a stream, with this request, this key, and not earlier than some seconds after the last."""
        stream = await self._hub.calls["Subscribe"].get()
        request = ParseDict(wanted["request"], SubscribeRequest())
        require(stream.request == request, f"the request was {MessageToDict(stream.request)}")
        key = wanted.get("key", self._key)
        require(stream.key == key, f"the key was {stream.key!r}")
        if self._stream is not None:
            elapsed = stream.time - self._stream.last
            require(elapsed >= wanted.get("not_before", 0.0) - EARLY, f"it came after {elapsed:.3f} s")
        self._stream = stream

    async def _send(self, frames: list[Step], _: Step) -> None:
        """The hub sends frames."""
        for frame in frames:
            self._open().todo.put_nowait(message(frame))

    async def _end(self, end: Step, _: Step) -> None:
        """The hub ends the stream."""
        self._open().todo.put_nowait(end)

    async def _cancelled(self, wanted: Step, _: Step) -> None:
        """The client cancels the stream, not earlier than some seconds after the hub's last word."""
        stream = self._open()
        await stream.gone.wait()
        elapsed = stream.gone_time - (stream.last or stream.time)
        require(elapsed >= wanted.get("not_before", 0.0) - EARLY, f"it came after {elapsed:.3f} s")
        stream.last = stream.gone_time

    async def _gets(self, wanted: Step, step: Step) -> None:
        """The caller gets an event, a failure, or the end. What is sent "meanwhile" is sent until then."""
        hearing = asyncio.create_task(self._client.hear("next"))
        while meanwhile := step.get("meanwhile"):
            await self._send(meanwhile, step)
            if (await asyncio.wait((hearing,), timeout=0.05))[0]:
                break
        fits(await hearing, wanted)

    async def _notice(self, wanted: Step, _: Step) -> None:
        """The caller hears of this, perhaps after other notices."""
        delay = wanted.get("delay")
        rest = {key: value for key, value in wanted.items() if key != "delay"}
        while (heard := await self._client.hear("notice"))["notice"] != wanted["notice"]:
            pass
        fits(heard, rest)
        if delay:
            require(delay[0] - 1e-6 <= heard["delay"] <= delay[1] + 1e-6, f"the delay is {heard['delay']}")

    async def _commits(self, wanted: Step, step: Step) -> None:
        """The client commits a cursor; the hub accepts it, refuses it, or holds the call."""
        call = await self._hub.calls["CommitCursor"].get()
        fits(MessageToDict(call.request, preserving_proto_field_name=True), wanted)
        self._answer(call, step)

    async def _commits_until(self, cursor: str, _: Step) -> None:
        """The client commits cursors, each accepted, until it commits this one."""
        seen = ""
        while seen != cursor:
            call = await self._hub.calls["CommitCursor"].get()
            seen = call.request.cursor
            call.todo.put_nowait(CommitCursorResponse(cursor=seen, committed=True))

    async def _commits_nothing(self, seconds: float, _: Step) -> None:
        """The client commits nothing for so long, beside what earlier steps have named."""
        await asyncio.sleep(seconds)
        require(self._hub.calls["CommitCursor"].empty(), "it committed")

    async def _rotates(self, wanted: Step, step: Step) -> None:
        """The client asks for a new key; the hub answers with it."""
        call = await self._hub.calls["RotateOwnKey"].get()
        require(call.key == wanted.get("key", self._key), f"the key was {call.key!r}")
        self._key = step["answer"]["secret"]
        call.todo.put_nowait(ParseDict({"key": {"secret": self._key}}, RotateOwnKeyResponse()))

    async def _rotated(self, wanted: Step, _: Step) -> None:
        """The caller gets the new key."""
        fits(await self._client.hear("rotate_key"), wanted)

    async def _emits(self, wanted: Step, step: Step) -> None:
        """The client emits exactly these events in one call; the hub stores them, refuses, or holds the call."""
        call = await self._hub.calls["Emit"].get()
        require(ids(call) == wanted["ids"], f"it emitted {ids(call)}")
        if "independent" in wanted:
            require(call.request.independent == wanted["independent"], f"independent: {call.request.independent}")
        self._answer(call, step)

    async def _answers(self, answer: Step, _: Step) -> None:
        """The hub answers the call that it holds."""
        if self._held is None:
            raise Deviation("the hub holds no call")
        self._answer(self._held, {"answer": answer})

    async def _pause(self, seconds: float, _: Step) -> None:
        """Time for what must not happen."""
        await asyncio.sleep(seconds)

    def _answer(self, call: Occurrence, step: Step) -> None:
        if step.get("hold"):
            self._held = call
        else:
            call.todo.put_nowait(step.get("answer") or accepted(call))

    async def _emits_all(self, wanted: Step, _: Step) -> None:
        """The client emits these events, each once, in less than so many calls, never two at a time.

        `shared`: the hub refuses calls of several events as a whole.
        """
        missing, calls = set(wanted["ids"]), 0
        while missing:
            call = await self._hub.calls["Emit"].get()
            calls += 1
            require(missing >= set(ids(call)), f"it emitted {ids(call)} again")
            if len(ids(call)) > 1 and "shared" in wanted:
                call.todo.put_nowait(wanted["shared"])
                continue
            missing -= set(ids(call))
            call.todo.put_nowait(stored(call, wanted.get("refused", {})))
        require(calls < wanted["calls_below"], f"it took {calls} calls")
        require(self._hub.most_emitting == 1, f"{self._hub.most_emitting} calls were under way at a time")

    async def _emitted(self, wanted: Step, _: Step) -> None:
        """The callers of `emit` get their answers, in any order."""
        for _ in wanted["answers"]:
            heard = await self._client.hear("emit")
            fits(heard, wanted["answers"][heard["id"]])

    async def _emitted_list(self, wanted: Step, _: Step) -> None:
        """The caller of `emit_batch` gets this answer."""
        fits(await self._client.hear("emit_batch"), wanted)

    async def _done(self, command: str, _: Step) -> None:
        """The client has done what it was asked for."""
        await self._client.hear(command)

    def _compare_rest(self, script: Script) -> None:
        """Nothing happened that no step has named, but for further commits and notices."""
        for method in ("Subscribe", "Emit", "RotateOwnKey"):
            if not self._hub.calls[method].empty():
                call = self._hub.calls[method].get_nowait()
                raise Deviation(f"{script.name}: one more call of {method}, {call.request}\n  {script.rule}")

    def _open(self) -> Occurrence:
        if self._stream is None:
            raise Deviation("there is no stream")
        return self._stream


def require(condition: bool, complaint: str) -> None:  # noqa: FBT001  an assertion that `python -O` keeps
    """Raise a Deviation unless the condition holds."""
    if not condition:
        raise Deviation(complaint)


def fits(heard: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise a Deviation unless everything wanted was heard; more may have been."""
    for key, value in wanted.items():
        if isinstance(value, Mapping) and isinstance(heard.get(key), Mapping):
            fits(heard[key], value)
        elif heard.get(key, type(value)()) != value:
            raise Deviation(f"{key} is {heard.get(key)!r}, in {dict(heard)}")


def message(frame: Step) -> SubscribeResponse:
    """A frame; an event may be given by its id alone, and what no client knows yet as bytes in hex, "unknown"."""
    content = dict(frame)
    unknown = bytes.fromhex(content.pop("unknown", ""))
    content["events"] = [
        {"id": event, "guild_id": "41", "ticket_closed": {}} if isinstance(event, str) else event
        for event in content.get("events", [])
    ]
    return SubscribeResponse.FromString(ParseDict(content, SubscribeResponse()).SerializeToString() + unknown)


def ids(call: Occurrence) -> list[str]:
    """The ids of the events of a call."""
    many = isinstance(call.request, BatchEmitEventsRequest)
    return [event.id for event in (call.request.events if many else [call.request.event])]


def accepted(call: Occurrence) -> Message | End:
    """The hub's answer where nothing is wrong."""
    if call.method == "CommitCursor":
        return CommitCursorResponse(cursor=call.request.cursor, committed=True)
    return stored(call, {})


def stored(call: Occurrence, refused: Mapping[str, End]) -> Message | End:
    """The hub's answer: every event is stored but those refused. "{field}" in a refusal stands for the event's name."""
    if not isinstance(call.request, BatchEmitEventsRequest):
        [name] = ids(call)
        return named(refused[name], "event") if name in refused else EmitEventResponse(event_id=name)
    results = [
        EmitEventResponse(
            event_id=name, error=status(named(refused[name], f"events[{index}]")) if name in refused else None
        )
        for index, name in enumerate(ids(call))
    ]
    return BatchEmitEventsResponse(results=results)


def named(refusal: End, event: str) -> End:
    """A refusal that names the event as this call does."""
    named: End = json.loads(json.dumps(refusal).replace("{field}", event))
    return named
