"""The hub as a whole: built from its parts, started, drained and stopped; it decides nothing about requests."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import structlog

from hub.api.json_calls import JsonCalls
from hub.api.paging import Pages
from hub.api.server import Server
from hub.api.services.admin import AdminService
from hub.api.services.admin_audit import AuditTrail
from hub.api.services.admin_blocks import Blocks
from hub.api.services.admin_reports import Reports
from hub.api.services.developer import DeveloperService
from hub.api.services.directory import DirectoryService
from hub.api.services.events import EventService
from hub.api.services.hub_status import HubWatch
from hub.api.services.intake import Intake
from hub.api.services.notices import StreamNotices
from hub.api.services.privacy import PrivacyService
from hub.api.services.subscription_status import SubscriptionList
from hub.api.services.webhook_calls import Parts, WebhookService
from hub.api.tls import DAY, Certificates
from hub.clock import Clock
from hub.config import Settings, version
from hub.control.consents import Consents
from hub.control.endpoint_changes import EndpointChanges
from hub.control.hub_secret import HubSecret, choose
from hub.control.integrations import Integrations
from hub.control.registry import Registry
from hub.control.service_keys import ServiceKeys
from hub.control.transactions import Changes, ShowKeys, initialise
from hub.delivery.bounds import ClusterBounds
from hub.delivery.confirmations import Confirmations
from hub.delivery.cursor import CursorSeal
from hub.delivery.cursor_commits import Commits
from hub.delivery.deps import StreamDeps, Views
from hub.delivery.feed import Feed
from hub.delivery.freshness import Freshness
from hub.delivery.last_seen import LastSeen
from hub.delivery.numbered import NumberedAppends
from hub.delivery.overview import Observer
from hub.delivery.retention import Retention
from hub.delivery.sent_log import SentLog
from hub.delivery.starts import Starts
from hub.delivery.streams import Streams
from hub.delivery.subscriptions import Subscriptions
from hub.delivery.tails import Tails
from hub.errors import HubError
from hub.http import gauges
from hub.http.authorization import Access
from hub.http.console import Console
from hub.http.directory.pages import Directory
from hub.http.listener import Listener
from hub.http.pages import Pages as HttpPages
from hub.model import Role
from hub.periodic import every, watch_loop
from hub.privacy.audit_retention import AuditRetention
from hub.privacy.disclosures import Disclosures
from hub.privacy.erasing import PERIOD, Eraser
from hub.privacy.erasure_file import ErasureFile
from hub.privacy.exports import SubjectExports
from hub.privacy.lookups import Lookups
from hub.privacy.requests import ErasureRequests
from hub.privacy.restored import request_again
from hub.storage import Log, open_storage
from hub.storage.sqlite.data_directory import erasures_path
from hub.webhooks import assembly as webhooks
from hub.webhooks.dispatchers import Dispatchers

log = structlog.get_logger()


class Hub:
    """A hub that is being started, runs, or has ended.

    Attributes:
        port: where it listens.
        http, directory: the listeners for operators and of the public directory, with their ports.
        changes: how state changes; set once it has begun.
        first_keys: the texts of the first keys, by role, if this start made them.
        failed: done, with an exception, once the hub has failed and has to stop.
        certificates: the certificates that it serves TLS with; set once it has begun.
    """

    def __init__(self, settings: Settings, clock: Clock, show_keys: ShowKeys | None = None) -> None:
        """Prepare a hub; `show_keys` shows the first keys before they are stored, or raises StartError."""
        self.port = 0
        self.first_keys: dict[Role, str] | None = None
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.certificates: Certificates
        self._settings = settings
        self._clock = clock
        self._show_keys = show_keys
        self._tasks: list[asyncio.Task[None]] = []
        self._log: Log
        self._registry: Registry
        self._feed: Feed
        self.changes: Changes
        self._confirmations: Confirmations
        self._disclosures: Disclosures
        self._erasures: ErasureFile
        self._streams: Streams
        self._subscriptions: Subscriptions
        self._webhooks: webhooks.Delivery
        self._watch: HubWatch
        self._server: Server | None = None
        self.http = Listener(settings, "http_listen")
        self.directory = Listener(settings, "directory_listen", is_public=True)

    @property
    def log(self) -> Log:
        """The log that it serves; set once the hub has begun."""
        return self._log

    @property
    def registry(self) -> Registry:
        """The state of integrations and keys; set once it has begun."""
        return self._registry

    @property
    def feed(self) -> Feed:
        """Events in and out; set once it has begun."""
        return self._feed

    @property
    def streams(self) -> Streams:
        """The open streams; set once it has begun."""
        return self._streams

    @property
    def dispatchers(self) -> Dispatchers:
        """The dispatchers of endpoints; set once the hub has begun."""
        return self._webhooks.dispatchers

    @property
    def subscriptions(self) -> Subscriptions:
        """The committed cursors of readers; set once it has begun."""
        return self._subscriptions

    @classmethod
    async def start(cls, settings: Settings, clock: Clock | None = None) -> "Hub":
        """Open the store, catch up with it, then serve.

        Raises:
            StartError: it cannot start; nothing is left open.
        """
        hub = cls(settings, clock or Clock())
        await hub.begin()
        return hub

    async def begin(self) -> None:
        """Like `start`, without closing on failure: a start that fails or is cancelled may have made the first keys."""
        self._log = await open_storage(self._settings)
        try:
            await self._assemble()
        except BaseException:
            await self.stop()
            raise

    async def _assemble(self) -> None:
        settings, clock = self._settings, self._clock
        entries, through = await self._log.snapshot()
        secret = choose(await self._log.secrets(), entries)
        registry = self._registry = Registry(secret, clock)
        registry.apply(entries)
        registry.advance(through)
        server = Server(registry, settings, clock)
        self.certificates = server.certificates
        # Before the first keys are made: a start that fails would never show them.
        self.port = server.bind(settings.listen)
        await self.http.bind()
        await self.directory.bind()
        await self._make_first_keys(registry, secret)
        self._erasures = await asyncio.to_thread(ErasureFile.open, erasures_path(settings))
        await request_again(self._log, registry, self._erasures, clock)
        feed = self._feed = Feed(self._log, registry, settings, clock)
        await feed.open()
        self.changes = Changes(self._log, registry, clock)
        seal = CursorSeal(secret.current, self._cursor_secrets(secret))
        self._make_delivery(registry, feed, seal)
        integrations = Integrations(registry, self.changes, settings, clock)
        self._webhooks = webhooks.assemble(
            self._log,
            registry,
            self._streams,
            EndpointChanges(registry, self.changes, integrations, settings, clock),
            secret,
            seal,
            await webhooks.policy_of(settings),
            settings,
            clock,
        )
        self._spawn(feed.pump(self._streams.refresh, self._webhooks.dispatchers.refresh))
        await self._until_failure(registry.wait_applied((await self._log.bounds()).last))
        self._spawn(self._streams.watch())
        self._spawn(self._streams.watch_store())
        audit = AuditRetention(self._log, registry, settings, clock)
        retention = Retention(self._log, feed, self.expire_subscriptions, audit.remove_old, settings, clock)
        await retention.begin()
        self._spawn(every(retention.period, "retention", retention.remove_old))
        self._spawn(every(1, "usage", self.save_usage))
        disclosures = self._disclosures = Disclosures(self._log, registry, self.flush_sent, clock)
        eraser = Eraser(self._log, registry, disclosures, self._erasures, clock)
        self._spawn(every(PERIOD, "erasures", eraser.run))
        self._spawn(every(PERIOD, "erasures list", eraser.save_list))
        observer = Observer(self._log, registry, feed, self._streams, settings, clock)
        self._watch = HubWatch(self._log, registry, feed, observer, settings, clock)
        calls = self._add_services(server, integrations, feed, Pages(secret.current, settings, clock))
        await self._serve(server, observer, calls)

    def _make_delivery(self, registry: Registry, feed: Feed, seal: CursorSeal) -> None:
        store, settings, clock = self._log, self._settings, self._clock
        bounds = ClusterBounds(store, registry, feed)
        freshness = Freshness(store, registry, settings.max_store_silence)
        confirmations = self._confirmations = Confirmations(store, registry, seal, clock)
        notices = StreamNotices(registry, settings)
        deps = StreamDeps(registry, feed, seal, notices, clock, freshness, Views(registry), confirmations)
        starts = Starts(store, registry, feed, bounds, seal, clock)
        last_seen = LastSeen(store, registry, settings, clock)
        self._streams = Streams(deps, starts, last_seen, SentLog(store, registry, clock), settings)
        commits = Commits(store, registry, bounds, clock)
        self._subscriptions = Subscriptions(
            store, registry, feed, commits, confirmations, seal, last_seen, settings, clock
        )

    def _cursor_secrets(self, secret: HubSecret) -> list[bytes]:
        """The earlier secrets under which cursors to events that are still kept may be sealed."""
        kept = self._clock.now() - round(self._settings.retention * 1e6)
        return [earlier for earlier, rotate_time in secret.earlier if rotate_time > kept]

    async def _make_first_keys(self, registry: Registry, secret: HubSecret) -> None:
        """Runs to its end even if the start is cancelled: keys that are stored and not shown are lost."""
        making = asyncio.ensure_future(initialise(self._log, registry, self._clock, secret, self._show_keys))
        try:
            await asyncio.shield(making)
        finally:
            self.first_keys = await making

    def _add_services(self, server: Server, integrations: Integrations, feed: Feed, pages: Pages) -> JsonCalls:
        """Give gRPC its services; returns those of their methods that the console calls."""
        settings, clock, changes, streams = self._settings, self._clock, self.changes, self._streams
        registry, subscriptions = self._registry, self._subscriptions
        tails = Tails(streams, streams.starts, changes)
        shown = SubscriptionList(registry, streams, subscriptions, clock)
        intake = Intake(feed, NumberedAppends(feed, self._log, registry, clock), clock)
        admin = AdminService(
            registry,
            changes,
            integrations,
            ServiceKeys(registry, changes, settings, clock),
            Blocks(registry, changes, pages, clock),
            AuditTrail(self._log, registry, pages),
            Reports(registry, shown, pages, settings, clock),
            pages,
            self._watch,
            clock,
        )
        directory = DirectoryService(registry, integrations, Consents(registry, changes, settings, clock), pages)
        server.add_services(
            EventService(intake, streams, tails, subscriptions, changes, shown, settings, clock),
            admin,
            DeveloperService(registry, changes, streams, integrations, pages, clock),
            directory,
            self._privacy(registry, feed, integrations, pages),
            self._webhook_service(feed, pages),
        )
        return server.json_calls(admin, directory)

    def _webhook_service(self, feed: Feed, pages: Pages) -> WebhookService:
        dispatchers, envelope, policy, changes = self._webhooks
        registry, starts, subscriptions = self._registry, self._streams.starts, self._subscriptions
        return WebhookService(
            Parts(registry, changes, dispatchers, envelope, policy, feed, starts, subscriptions, pages, self._clock)
        )

    def _privacy(self, registry: Registry, feed: Feed, integrations: Integrations, pages: Pages) -> PrivacyService:
        requests = ErasureRequests(self._log, registry, feed, self._erasures, self._settings, self._clock)
        return PrivacyService(
            registry,
            requests,
            Lookups(self._log, registry, self._disclosures),
            SubjectExports(self._log, registry),
            integrations,
            pages,
        )

    async def _serve(self, server: Server, observer: Observer, calls: JsonCalls) -> None:
        self._server = server
        await server.start()
        for work in (observer.begin(), self._watch.keep_samples(), watch_loop(), server.connections.watch()):
            self._spawn(work)
        await self._serve_http(server, observer, calls)
        self._spawn(self._webhooks.dispatchers.run())
        self._spawn(server.serve())
        self._spawn(server.health.watch(self._log))
        self._spawn(every(DAY, "certificates", server.certificates.warn))
        ports = {"http_port": self.http.port, "directory_port": self.directory.port}
        where_to_call: dict[str, Any] = {name: port for name, port in ports.items() if port} | where(self._settings)
        log.info("serving", address=self._settings.listen, port=self.port, version=version(), **where_to_call)
        await server.certificates.warn()
        server.connections.warn()

    async def _serve_http(self, server: Server, observer: Observer, calls: JsonCalls) -> None:
        """Start the HTTP listeners: the operators' one and the public directory."""
        settings, clock = self._settings, self._clock
        guards = server.guards
        parts = gauges.Parts(self._log, self._registry, self._feed, self.certificates, guards, settings, clock.now())
        access = Access(self._registry, settings, guards)
        pages = HttpPages(parts, observer, access, Console(calls), lambda: not self._watch.has_ended)
        await self.http.start(pages.application())
        if self.directory.port:
            directory = Directory(self._log, self._registry, settings, guards, clock)
            await self.directory.start(directory.application())

    def replace_certificates(self, settings: Settings) -> None:
        """Read the TLS files again, for new connections. Blocks: the files may be anywhere.

        Raises:
            StartError: a file is wrong; the former ones stay in use.
        """
        for replace in [one.read_again(settings) for one in (self.certificates, self.http, self.directory)]:
            replace()  # by now all have read what they need, and nothing is wrong

    async def stop(self) -> None:
        """Stop: streams get a Goodbye, calls end within the drain time, then the store closes. Idempotent."""
        if self._server is not None:
            self._watch.end()
            ending = asyncio.create_task(self._webhooks.dispatchers.stop(self._settings.drain_time))
            await self._server.drain(self._streams, self._settings.drain_time)
            await ending
            self._streams.sent_log.request_full_save()
            for save in (self.flush_sent, self.save_usage):  # whatever becomes of the one, the other is tried
                with suppress(HubError):
                    await save()
            self._server = None
            log.info("stopped")
        await self.http.stop()
        await self.directory.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._log.close()

    async def save_usage(self) -> None:
        """Store what is only in memory: times of last use, and the positions of readers."""
        await self._streams.note_usage_in_turns()
        if self._streams.sent_log.is_due():  # first: an erasure waits for it
            await self._save_sent()
        await self.changes.save_usage()
        await self._streams.last_seen.save()
        await self._confirmations.save()

    async def _save_sent(self) -> None:
        await self._streams.save_sent((await self._log.bounds()).first)

    async def flush_sent(self) -> frozenset[str]:
        """Store what this hub's readers were sent; returns the subscriptions that have a stream here."""
        self._streams.note_usage()
        self._streams.sent_log.request_full_save()
        await self._save_sent()
        return self._streams.sent_log.live

    async def expire_subscriptions(self, before: int) -> None:
        """Delete the subscriptions that were not used since a time, in microseconds."""
        self._streams.note_usage()  # a stream that is open now has been seen now
        await self._subscriptions.expire(before)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a background task for as long as the hub runs; if it fails, the hub fails."""
        task = asyncio.create_task(work)
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not self.failed.done():
            self.failed.set_exception(error)

    async def _until_failure(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait for an awaitable, or raise the failure of the hub if that comes first."""
        waiting = asyncio.ensure_future(work)
        try:
            await asyncio.wait({waiting, self.failed}, return_when=asyncio.FIRST_COMPLETED)
            if self.failed.done():
                self.failed.result()
            await waiting
        finally:
            waiting.cancel()


def where(settings: Settings) -> dict[str, str]:
    """The store's location, for the log. The settings have already removed the password from a cluster's URL."""
    if settings.storage == "sqlite":
        return {"data_dir": str(settings.data_dir.absolute())}
    return {"storage": settings.storage, "nats_stream": settings.nats_stream}
