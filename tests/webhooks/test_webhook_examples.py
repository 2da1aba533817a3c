"""The receivers in examples/webhook, run as docs/webhooks.md says, and a receiver in Go with the official library."""

import asyncio
import os
import socket
import subprocess
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.calls import ask
from tests.support.events import ids, ticket
from tests.support.hubs import Caller, RunningHub, StartHub, emit_all
from tests.support.programs import needs, without
from tests.support.receivers import ALLOWED

EXAMPLES = Path(__file__).parents[2] / "examples" / "webhook"
PATIENCE = 60.0

GO = """package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

func main() {
	webhook, err := standardwebhooks.NewWebhook(os.Getenv("WEBHOOK_SECRET"))
	if err != nil {
		panic(err)
	}
	http.HandleFunc("/tickets", func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		if err := webhook.Verify(raw, r.Header); err != nil {
			w.WriteHeader(401)
			return
		}
		var body struct {
			Type string
			Data struct {
				Challenge string
				Events    []struct{ Id string }
			}
		}
		json.Unmarshal(raw, &body)
		for _, event := range body.Data.Events {
			fmt.Println("event", event.Id)
		}
		json.NewEncoder(w).Encode(map[string]string{"challenge": body.Data.Challenge})
	})
	fmt.Println("listening")
	panic(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), nil))
}
"""


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@asynccontextmanager
async def program(*words: str, cwd: Path, variables: Mapping[str, str]) -> AsyncIterator[asyncio.StreamReader]:
    """A receiver that runs; its output."""
    process = await asyncio.create_subprocess_exec(
        *words, cwd=cwd, env=os.environ | variables | {"PYTHONUNBUFFERED": "1"}, stdout=PIPE, stderr=STDOUT
    )
    assert process.stdout is not None
    try:
        yield process.stdout
    finally:
        process.kill()
        await process.wait()


async def line_with(output: asyncio.StreamReader, word: str) -> str:
    """The next line that holds a word."""
    seen = []
    async with asyncio.timeout(PATIENCE):
        while line := (await output.readline()).decode():
            seen.append(line)
            if word in line:
                return line
    raise AssertionError(f"no {word!r} in {seen}")


async def takes_events(hub: RunningHub, words: list[str], cwd: Path, ready: str) -> None:
    """A receiver passes verification and takes every event, in order."""
    _, reader = await hub.register("TICKET_CREATED")
    port = free_port()
    made = await ask(reader, "WebhookService/CreateEndpoint", endpoint={"url": f"http://127.0.0.1:{port}/tickets"})
    variables = {"WEBHOOK_SECRET": made.secret, "PORT": str(port)}
    async with program(*words, cwd=cwd, variables=variables) as output:
        await line_with(output, ready)
        assert (await verified(reader)).state == 2
        await emit_all(hub, [ticket(name) for name in ids("e", 150)])
        for name in ids("e", 150):
            assert (await line_with(output, "event ")).split()[1] == name


async def succeeds(command: list[str], cwd: Path) -> None:
    """Run a command that fetches packages: networks have bad moments, so it has four attempts."""
    for attempt in range(4):
        await asyncio.sleep(5 * attempt)
        done = await asyncio.to_thread(subprocess.run, command, cwd=cwd, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
    without(f"{Path(command[0]).name} {command[1]} failed: {done.stderr.strip()[-200:]}")


async def verified(reader: Caller) -> Any:  # noqa: ANN401  an Endpoint
    """The endpoint, verified."""
    return (await ask(reader, "WebhookService/VerifyEndpoint")).endpoint


async def test_the_python_receiver_verifies_and_shows_events(start_hub: StartHub) -> None:
    """It verifies with the client of this project."""
    await takes_events(await start_hub(**ALLOWED), [sys.executable, "receiver.py"], EXAMPLES, "Running on")


async def test_the_node_receiver_verifies_and_shows_events(start_hub: StartHub) -> None:
    """It verifies with the official library for Node."""
    node, npm = needs("node"), needs("npm")
    if not (EXAMPLES / "node_modules").is_dir():
        await succeeds([npm, "ci"], EXAMPLES)
    await takes_events(await start_hub(**ALLOWED), [node, "receiver.js"], EXAMPLES, "listening")


@pytest.mark.timeout(300)
async def test_a_go_receiver_verifies_events(start_hub: StartHub, tmp_path: Path) -> None:
    """It verifies with the official library for Go."""
    go = needs("go")
    module = "github.com/standard-webhooks/standard-webhooks/libraries"
    (tmp_path / "main.go").write_text(GO)
    (tmp_path / "go.mod").write_text("module receiver\n\ngo 1.21\n")
    for words in (["get", f"{module}@v0.0.1"], ["build", "-o", "receiver"]):
        await succeeds([go, *words], tmp_path)
    await takes_events(await start_hub(**ALLOWED), ["./receiver"], tmp_path, "listening")
