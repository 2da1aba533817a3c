"""The TypeScript client as it is packed: for programs in ESM and in CommonJS, with types for both."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.programs import needs, without

CLIENT = Path(__file__).parents[2] / "clients" / "typescript"
COMPILER = CLIENT / "node_modules" / "typescript" / "bin" / "tsc"
LOADING = {
    "mjs": 'import { HubClient } from "@tickets/hub"; import { Scope } from "@tickets/hub/messages";',
    "cjs": 'const { HubClient } = require("@tickets/hub"); const { Scope } = require("@tickets/hub/messages");',
}
CALLS = """
import { HubClient } from "@tickets/hub";

process.on("warning", (warning) => console.log(warning.message));
const client = new HubClient("127.0.0.1:1", "tkt_integration_a_b", { policy: { callTimeout: 1 } });
await Promise.allSettled(Array.from({ length: 30 }, () => client.commit("c")));
await client.close();
console.log("done");
"""
TYPED = """
import { HubClient } from "@tickets/hub";
import { Scope } from "@tickets/hub/messages";

export async function creators(client: HubClient): Promise<string[]> {
    const found: string[] = [];
    const events = client.subscribe({ scopes: [Scope.TICKET_CREATED] }, { autoCommit: true });
    for await (const event of events) {
        if (event.payload.case === "ticketCreated") found.push(event.payload.value.creatorUserId ?? "");
    }
    // @ts-expect-error: ids are text
    await client.emit({ guildId: 41 });
    return found;
}
"""


def run(*words: str | Path, cwd: Path) -> str:
    """Run a command; returns what it printed, and fails where it fails."""
    done = subprocess.run(list(map(str, words)), cwd=cwd, capture_output=True, text=True, check=False)  # noqa: S603  npm, node, tsc
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packed client installed in it; `make clients-test` has built it."""
    if not (CLIENT / "dist").is_dir():
        without("clients/typescript is not built: make clients-test")
    folder = tmp_path_factory.mktemp("program")
    npm = needs("npm")
    run(npm, "init", "--yes", cwd=folder)
    [packed] = json.loads(run(npm, "pack", "--ignore-scripts", "--json", CLIENT, cwd=folder))
    run(npm, "install", "--no-audit", "--no-fund", f"./{packed['filename']}", cwd=folder)
    return folder


@pytest.mark.timeout(300)
@pytest.mark.parametrize("ending", LOADING)
def test_the_package_loads_as_esm_and_commonjs(program: Path, ending: str) -> None:
    """`import` and `require` find the client and the messages."""
    file = program / f"program.{ending}"
    file.write_text(LOADING[ending] + "console.log(typeof HubClient, Scope[Scope.TICKET_STATS]);")
    assert run(needs("node"), file, cwd=program) == "function TICKET_STATS\n"


@pytest.mark.timeout(300)
def test_many_concurrent_calls_leave_no_listeners_behind(program: Path) -> None:
    """Node.js would warn of more than ten."""
    (program / "calls.mjs").write_text(CALLS)
    assert run(needs("node"), "--trace-warnings", program / "calls.mjs", cwd=program) == "done\n"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("ending", ["mts", "cts"])
def test_a_strict_program_is_typed(program: Path, ending: str) -> None:
    """Events are discriminated by their payload, and a wrong request is a compiler error."""
    (program / f"program.{ending}").write_text(TYPED)
    types = ("--typeRoots", CLIENT / "node_modules" / "@types", "--types", "node")
    run(
        *(needs("node"), COMPILER, "--strict", "--noEmit", "--module", "nodenext", "--target", "es2022", *types),
        f"program.{ending}",
        cwd=program,
    )
