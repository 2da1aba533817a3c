"""Play scripts to a client: ``python -m conformance [--only NAME] -- COMMAND...``."""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from conformance.player import Deviation, Player
from conformance.scripts import Script, load
from conformance.server import scripted_hub
from conformance.subject import Subject, running

WEBHOOKS = Path(__file__).parent / "webhooks.json"


async def play(command: Sequence[str], scripts: Sequence[Script]) -> dict[str, str]:
    """Play scripts one after the other to one process of a client; returns what was wrong, by name of the script.

    After a deviation the next script gets another process.
    """
    wrong: dict[str, str] = {}
    waiting = list(scripts)
    while waiting:
        async with running(command) as client:
            while waiting:
                script = waiting.pop(0)
                async with scripted_hub() as hub:
                    try:
                        await Player(hub, client).play(script)
                    except Deviation as deviation:
                        wrong[script.name] = str(deviation)
                        break
    return wrong


async def verify_webhooks(command: Sequence[str]) -> dict[str, str]:
    """Have a client verify the requests of ``webhooks.json``; returns what was wrong, by name of the request."""
    wrong: dict[str, str] = {}
    async with running(command) as client:
        for case in json.loads(WEBHOOKS.read_text()):
            if complaint := await verify(client, case):
                wrong[case["name"]] = complaint
    return wrong


async def verify(client: Subject, case: dict[str, object]) -> str:
    """What was wrong with the client's answer to one request; empty where nothing was."""
    client.tell({"do": "verify_webhook", **{key: case[key] for key in ("headers", "body", "secret", "now")}})
    async with asyncio.timeout(20):
        answer = (await client.hear("verify_webhook"))["result"]
    return "" if answer == case["result"] else f"{case['name']}: {answer}, not {case['result']}"


def main() -> int:
    """Play, and print what was wrong: 1 where anything was."""
    parser = argparse.ArgumentParser(prog="python -m conformance", description="Play the scripts to a client.")
    parser.add_argument("--only", metavar="NAME", help="the script of this name, or those that begin with it")
    parser.add_argument("command", nargs="+", help="the client under test, after --")
    arguments = parser.parse_args()
    scripts = [script for script in load() if script.name.startswith(arguments.only or "")]
    wrong = asyncio.run(play(arguments.command, scripts))
    if not arguments.only:
        wrong |= asyncio.run(verify_webhooks(arguments.command))
    for complaint in wrong.values():
        print(complaint)
    print(f"{len(scripts)} scripts, {len(wrong)} of them wrong" if wrong else f"{len(scripts)} scripts passed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
