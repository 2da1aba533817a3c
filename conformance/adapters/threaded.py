"""``Client`` as a client under test."""

import threading
from collections.abc import Callable

from tickets_hub import Client, HubCallError, Subscription
from tickets_hub.v1.event_service_pb2 import Erased

from conformance.adapters import protocol
from conformance.adapters.protocol import Line, write


class Adapter:
    """One client and its subscription, as commands ask for them. What blocks has a thread."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self._finished = threading.Event()
        self._client: Client
        self._subscription: Subscription

    def run(self) -> None:
        """Do what standard input says."""
        for command in protocol.commands():
            getattr(self, f"_{command['do']}")(command)

    def _connect(self, command: Line) -> None:
        self._client = Client(command["target"], command["key"], policy=protocol.policy(command))

    def _subscribe(self, command: Line) -> None:
        auto_commit, wanted = command.get("auto_commit", False), protocol.options(command)
        self._finished.clear()
        handler = protocol.on_erased(command, self._delete)
        self._subscription = self._client.subscribe(
            on_notice=protocol.tell, auto_commit=auto_commit, **handler, **wanted
        )

    def _next(self, _: Line) -> None:
        self._start(self._take)

    def _emit(self, command: Line) -> None:
        for name in command["ids"]:
            self._start(lambda name=name: self._emit_one(name, command.get("guild_id", "41")))  # type: ignore[misc]  # a default binds it

    def _emit_batch(self, command: Line) -> None:
        self._start(lambda: self._emit_list(command["ids"]))

    def _use_key(self, command: Line) -> None:
        self._client.use_key(command["key"])
        write(reply="use_key")

    def _rotate_key(self, _: Line) -> None:
        self._start(lambda: write(reply="rotate_key", key=self._client.rotate_key()))

    def _deleted(self, _: Line) -> None:
        self._finished.set()

    def _delete(self, erased: Erased) -> None:
        protocol.tell(erased)
        self._finished.wait()

    def _end(self, _: Line) -> None:
        self._subscription.close()
        write(reply="end")

    def _close(self, _: Line) -> None:
        self._client.close()
        for thread in self._threads:  # what they still say belongs to this script, not to the next
            thread.join(protocol.LAST_WORDS)
        self._threads.clear()
        write(reply="close")

    def _verify_webhook(self, command: Line) -> None:
        protocol.verify(command)

    def _start(self, work: Callable[[], None]) -> None:
        self._threads.append(threading.Thread(target=work, daemon=True))
        self._threads[-1].start()

    def _take(self) -> None:
        try:
            event = next(self._subscription)
        except StopIteration:
            write(reply="next", end=True)
        except HubCallError as error:
            write(reply="next", error=protocol.failure(error))
        else:
            write(reply="next", event=event.id, cursor=self._subscription.cursor)

    def _emit_one(self, name: str, guild_id: str) -> None:
        try:
            answer = self._client.emit(protocol.event(name, guild_id))
        except HubCallError as error:
            write(reply="emit", id=name, error=protocol.failure(error))
        else:
            write(reply="emit", id=name, stored=answer.event_id)

    def _emit_list(self, names: list[str]) -> None:
        try:
            answers = self._client.emit_batch(protocol.event(name, "41") for name in names)
        except HubCallError as error:
            write(reply="emit_batch", error=protocol.failure(error))
        else:
            write(reply="emit_batch", stored=[answer.event_id for answer in answers])


if __name__ == "__main__":
    Adapter().run()
