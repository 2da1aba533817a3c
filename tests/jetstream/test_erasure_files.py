"""What is left of the erased in the files of NATS: nothing in the stream's, and in Raft's until these are compacted."""

import asyncio
from pathlib import Path

from hub.storage.jetstream.connection import NoReply
from hub.storage.jetstream.stream import ApiError
from tests.jetstream.conftest import Hubs
from tests.support.cluster_state import leader, log_of
from tests.support.hubs import RunningHub, emit_all
from tests.support.nats_servers import PATIENCE, Cluster, Server
from tests.support.privacy import USER, by, done, erase_guild, erase_user, occurrences, stream_files

GUILD = "612345678901234567"
COUNT = 60


async def filled(hub: RunningHub) -> None:
    """Events of a user and of a guild, whose ids name them, and others."""
    mine = [by(USER, f"{USER}-{n}") for n in range(COUNT)]
    of_guild = [by("7", f"{GUILD}-{n}", GUILD) for n in range(COUNT)]
    await emit_all(hub, [*mine, *of_guild, *(by("9", f"other-{n}") for n in range(COUNT))])


async def erased(hub: RunningHub) -> None:
    """Both are erased."""
    for erasure in (await erase_user(hub), await erase_guild(hub, GUILD)):
        assert (await done(hub.bot, erasure.erasure_id)).events_erased == COUNT


def left(directory: Path) -> int:
    """How often their ids stand in the files below a directory."""
    return occurrences(directory, USER) + occurrences(directory, GUILD)


async def test_a_finished_erasure_leaves_no_byte_on_one_server(tmp_path: Path, hubs: Hubs) -> None:
    """Message contents, headers, subjects, indexes: also after a restart, which writes the index again."""
    server = Server(tmp_path / "nats")
    server.start()
    try:
        [hub] = await hubs(server.url)
        await filled(hub)
        assert left(server.directory) > 4 * COUNT
        await erased(hub)
        assert left(server.directory) == 0
        server.stop()
        server.start()
        assert left(server.directory) == 0
    finally:
        server.kill()


async def step_down(hub: RunningHub, cluster: Cluster, server: Server) -> None:
    """Another server leads the log."""
    log = log_of(hub)
    async with asyncio.timeout(PATIENCE):
        while await leader(log, cluster) is server:
            try:
                await log._replica.stream.call("STREAM.LEADER.STEPDOWN")
            except (NoReply, ApiError):
                await asyncio.sleep(0.1)


async def until_healthy(server: Server) -> None:
    """A server that was started again has what the others have."""
    async with asyncio.timeout(PATIENCE):
        while not await asyncio.to_thread(server.is_healthy):  # noqa: ASYNC110  it says so only when it is asked
            await asyncio.sleep(0.1)


async def test_on_three_servers_raft_logs_keep_bytes_until_compaction(cluster: Cluster, hubs: Hubs) -> None:
    """The streams' files are clean once it is done. A server that does not lead compacts when it is stopped."""
    [hub] = await hubs(cluster.url, nats_replicas=3)
    await filled(hub)
    in_the_stream = [left(stream_files(server, hub.settings.nats_stream)) for server in cluster.servers]
    assert all(left(one.directory) > count for one, count in zip(cluster.servers, in_the_stream, strict=True))
    await erased(hub)
    for server in cluster.servers:
        assert left(stream_files(server, hub.settings.nats_stream)) == 0
    for server in cluster.servers:
        await step_down(hub, cluster, server)
        server.stop()
        server.start()
        await until_healthy(server)
        assert left(server.directory) == 0, server.name
