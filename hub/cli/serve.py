"""``hub serve``: runs the hub, and reacts to signals."""

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import click
import structlog

from hub import logs
from hub.cli.first_keys import show_keys
from hub.cli.notify import Notifier
from hub.cli.options import EPILOG, load_settings, read_settings, run, setting_options
from hub.clock import Clock
from hub.config import Settings
from hub.errors import StartError

if TYPE_CHECKING:
    from hub.app import Hub

RELOADED = {"log_level", "log_format", "tls_certificate", "tls_key", "tls_client_ca"}
"""The settings that SIGHUP reloads."""

log = structlog.get_logger()


@click.command(epilog=EPILOG, short_help="Run the hub.")
@setting_options()
def serve(config_file: str | None, **flags: str | bool | None) -> None:
    """Run the hub until SIGTERM or Ctrl-C. SIGHUP reloads certificates and log level."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the event loop handles it
    with logs.in_background():
        settings = load_settings(config_file, flags)
        run(_serve(settings, partial(read_settings, config_file, flags)))


async def _serve(settings: Settings, read: Callable[[], Settings]) -> None:
    from hub.app import Hub  # noqa: PLC0415  the other commands do without all of it

    stop, reload = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reload.set)
    stopping = asyncio.create_task(_wait(stop))
    hub = Hub(settings, Clock(), show_keys)
    if not await _started(hub, stopping):
        return
    notifier = Notifier(os.environ)
    notifier.ready()
    alive = asyncio.create_task(notifier.keep_alive())
    gc.freeze()  # objects of the start live on: scanning them at each collection blocked the loop for 30 ms
    reloading = asyncio.create_task(_reload_on_signal(hub, settings, read, reload))
    try:
        await asyncio.wait([stopping, hub.failed], return_when=asyncio.FIRST_COMPLETED)
        if hub.failed.done():
            log.error("the hub failed", exc_info=hub.failed.exception())
            sys.exit(1)
    finally:
        notifier.stopping()
        reloading.cancel()
        await hub.stop()
        alive.cancel()


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


async def _started(hub: "Hub", stopping: asyncio.Task[None]) -> bool:
    """Whether the hub has started before a signal stops it: a store that does not answer must not delay the stop."""
    starting = asyncio.create_task(hub.begin())
    try:
        await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
        await starting
    except asyncio.CancelledError:
        return False
    return True


async def _reload_on_signal(
    hub: "Hub", settings: Settings, read: Callable[[], Settings], signalled: asyncio.Event
) -> None:
    """Reload what may change at each signal, and log it; wrong settings change nothing."""
    while True:
        await signalled.wait()
        signalled.clear()
        try:
            fresh = await asyncio.to_thread(read)
            await asyncio.to_thread(hub.replace_certificates, fresh)
        except StartError as error:
            log.error("not reloaded", problem=str(error))  # noqa: TRY400  the text says it all
            continue
        except Exception:  # whatever it is, the next signal is answered again
            log.exception("not reloaded", problem="a fault of the hub")
            continue
        logs.configure(fresh.log_level, fresh.log_format)
        log.info("reloaded", log_level=fresh.log_level, tls=hub.certificates.is_used)
        waiting = {name for name in Settings.model_fields if getattr(fresh, name) != getattr(settings, name)} - RELOADED
        if waiting:
            log.warning("changed settings need a restart", settings=sorted(waiting))
        await hub.certificates.warn()
