"""The templates in docs/other-languages.md fit the published descriptor set."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "other-languages.md"
CONTRACT = ROOT / "generated" / "tickets_hub.binpb"
OURS = {str(path.relative_to(ROOT / "protos")) for path in (ROOT / "protos").glob("tickets/**/*.proto")} - {
    "tickets/hub/v1/rules.proto"  # validation rules only: they are not published
}

PLUGIN = f"""#!{sys.executable}
import sys
from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest, CodeGeneratorResponse
request = CodeGeneratorRequest.FromString(sys.stdin.buffer.read())
answer = CodeGeneratorResponse(supported_features=3, minimum_edition=998, maximum_edition=1001)
packages = {{file.name: file.options.go_package for file in request.proto_file}}
for name in request.file_to_generate:
    answer.file.add(name=sys.argv[0].rpartition("-")[2] + "/" + name, content=packages[name])
sys.stdout.buffer.write(answer.SerializeToString())
"""
"""A code generator that notes which files it was given, and their Go packages."""


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language on the page."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


def generate(directory: Path, template: str) -> dict[str, str]:
    """Run buf with a template of the page; returns what the code generators were given, by path."""
    (directory / "tickets_hub.binpb").write_bytes(CONTRACT.read_bytes())
    for name in set(re.findall(r"local: (\S+)", template)):
        plugin = directory / name
        plugin.write_text(PLUGIN)
        plugin.chmod(0o755)
    settings = re.sub(r"local: (\S+)", rf"local: {directory}/\1", template)
    (directory / "buf.gen.yaml").write_text(re.sub(r"opt: .*", "opt: none=0", settings))
    buf = Path(sys.executable).parent / "buf"
    ran = subprocess.run([buf, "generate"], cwd=directory, capture_output=True, text=True, check=False)  # noqa: S603  pinned
    assert ran.returncode == 0, ran.stderr
    return {str(path.relative_to(directory)): path.read_text() for path in directory.rglob("*.proto")}


def test_go_gets_every_file_of_ours_and_one_package(tmp_path: Path) -> None:
    """The documented template hands all of the contract, and nothing else, to both generators, in one Go package."""
    [template] = (block for block in blocks("yaml") if "protoc-gen-go-grpc" in block)
    given = generate(tmp_path, template)
    assert set(given) == {f"{generator}/{name}" for generator in ("go", "grpc") for name in OURS}
    assert set(given.values()) == {"example.com/reader/ticketshub"}


def test_typescript_gets_the_errors_too(tmp_path: Path) -> None:
    """The documented template hands the contract and the messages of errors to the generator."""
    [template] = (block for block in blocks("yaml") if "protoc-gen-es" in block)
    given = {path.removeprefix("src/gen/es/") for path in generate(tmp_path, template)}
    assert given >= OURS | {f"google/rpc/{name}.proto" for name in ("status", "error_details", "code")}


@pytest.mark.parametrize("language", ["go", "ts", "rust"])
def test_every_language_shows_how_to_read_an_error(language: str) -> None:
    """Each snippet subscribes with a key and reads the reason of an error."""
    snippet = "".join(blocks(language))
    assert "HUB_KEY" in snippet
    assert "ErrorInfo" in snippet
    assert "Subscribe" in snippet or "subscribe" in snippet


def test_readme_links_the_page() -> None:
    """README names the page, so that a developer finds it."""
    assert "(docs/other-languages.md)" in (ROOT / "README.md").read_text()
