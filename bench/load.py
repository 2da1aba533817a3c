"""A load program: reads its job as JSON from standard input, and writes the outcome as JSON to standard output.

In between it says "ready" and waits for a line, so that what it measures begins for it and for the reader of the
server's clock at the same moment.
"""

import asyncio
import gc
import sys
from typing import Any

import msgspec

from bench import jobs, loads


async def run(job: jobs.Job) -> jobs.Outcome:
    """Do a job."""
    work: Any
    if isinstance(job, jobs.CatchUp | jobs.Emit | jobs.Live | jobs.Idle):
        works: dict[type, Any] = {
            jobs.CatchUp: loads.catch_up,
            jobs.Emit: loads.emit,
            jobs.Live: loads.live,
            jobs.Idle: loads.idle,
        }
    elif isinstance(job, jobs.EmitByClient):
        from bench import client_load  # noqa: PLC0415  the other loads do not pay for what it imports

        works = {jobs.EmitByClient: client_load.emit_by_client}
    elif isinstance(job, jobs.Post):
        from bench import posts  # noqa: PLC0415  the same

        works = {jobs.Post: posts.post}
    else:
        from bench import peers  # noqa: PLC0415  it needs nats-py

        works = {
            jobs.NatsConsume: peers.nats_consume,
            jobs.NatsPublish: peers.nats_publish,
            jobs.RedisRead: peers.redis_read,
            jobs.RedisAdd: peers.redis_add,
        }
    work = works[type(job)](job, wait_for_go)
    outcome: jobs.Outcome = await work
    return outcome


async def wait_for_go() -> None:
    """Say that all is ready; returns with the word to go."""
    gc.collect()
    gc.freeze()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)


if __name__ == "__main__":
    told = msgspec.json.decode(sys.stdin.readline(), type=jobs.Job)
    print(msgspec.json.encode(asyncio.run(run(told))).decode(), flush=True)
