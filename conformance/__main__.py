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

END = "the end of the program"
"""What stands in the place of a script's name where the program does not end with its standard input."""

WEBHOOKS = Path(__file__).parent / "webhooks.json"


async def play(command: Sequence[str], scripts: Sequence[Script]) -> dict[str, str]:
    """Play scripts one after the other to one process of a client; returns what was wrong, by name of the script.

    After a deviation the next script gets another process.
    """
    wrong: dict[str, str] = {}
    waiting = list(scripts)
    while waiting:
        async with running(command) as client:
            deviation = await play_until_wrong(client, waiting)
        if client.lingered and not deviation:
            deviation = {END: "a timer, a thread or a connection of a closed client keeps the program alive"}
        wrong |= deviation
    return wrong


async def play_until_wrong(client: Subject, waiting: list[Script]) -> dict[str, str]:
    """Play scripts, and take them from the list, until the client does something else; returns what that was."""
    while waiting:
        script = waiting.pop(0)
        async with scripted_hub() as hub:
            try:
                await Player(hub, client).play(script)
            except Deviation as deviation:
                return {script.name: str(deviation)}
    return {}


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
    if not scripts:
        parser.error(f"no script has a name that begins with {arguments.only!r}")
    wrong = asyncio.run(play(arguments.command, scripts))
    if not arguments.only:
        wrong |= asyncio.run(verify_webhooks(arguments.command))
    for complaint in wrong.values():
        print(complaint)
    print(f"{len(scripts)} scripts, {len(wrong)} of them wrong" if wrong else f"{len(scripts)} scripts passed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
