"""Structure and style: which way imports run, how large files and classes are, and which words are used."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HUB = ROOT / "hub"
CLIENT = ROOT / "clients" / "python" / "tickets_hub"
HUB_FILES = sorted(HUB.rglob("*.py"))
CLIENT_FILES = sorted(CLIENT.glob("*.py"))  # not the folders in it: `make proto` writes those
FILES = [*HUB_FILES, *CLIENT_FILES]
PROSE = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("clients/*/*.md"),
        *ROOT.glob("conformance/*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "protos" / "tickets").rglob("*.proto"),
    ]
)
OTHER = sorted(
    file
    for folder in ("tests", "bench", "examples", "tools", "deploy", "clients", "conformance")
    for file in (ROOT / folder).rglob("*")
    if file.suffix in (".py", ".ts", ".js", ".go", ".toml", ".yml", ".service")
    and not {"node_modules", "tickets", "dist", "hubpb", "gen"} & set(file.parts)
    and file not in FILES
)
"""What else people write: everything but what `make proto` writes."""

LAYERS = (
    *(
        "errors",
        "model",
        "privacy_model",
        "endpoint_model",
        "crypto",
        "state",
        "secret_files",
        "environment",
        "config",
        "permissions",
        "subjects",
    ),
    *("storage", "control", "periodic", "archive", "delivery", "webhooks", "privacy", "api", "http", "app", "cli"),
)
"""Bottom up: each layer may import those before it. `logs`, `client` and those in `ANYWHERE` stand beside."""

ANYWHERE = {"addresses", "clock", "complaints", "latch", "metrics", "slices", "text", "text_files"}
"""They import nothing of ours, so everyone may import them."""

OUTSIDE = {
    "aiosqlite": ["storage/sqlite/connection.py"],
    "nats": ["storage/jetstream/connection.py"],
    "grpc": ["api/"],
    "aiohttp": ["http/", "webhooks/sender.py"],
    "jinja2": ["http/directory/"],
    "prometheus": ["http/"],
    "rich": ["cli/"],
}
"""Where a driver or a transport may be imported, as the beginnings of paths below hub/."""

STANDARD = frozenset(sys.stdlib_module_names)

MAX_ATTRIBUTES = 12
LARGER = {
    "app.Hub": "it holds every part, so that tests and the command line reach them",
    "control.registry.Registry": "it has a part for each kind of state",
}
"""Classes with more attributes of their own than `MAX_ATTRIBUTES`, each with its reason."""

PRIVATE = {
    ("api/health.py", "grpc_health.v1._async"): "the asyncio servicer has no public name",
    ("api/reflection.py", "grpc_reflection.v1alpha._async"): "the asyncio servicer has no public name",
    ("api/grpc_core.py", "grpc._cython.cygrpc"): "the only way to the poller of gRPC's core",
}
"""Private parts of libraries that a file imports, each with its reason; pyproject.toml bounds their versions."""

FORMER_NAMES = {
    *("Lens", "Shape", "Look", "Excerpt", "Interest", "Ends", "Surroundings", "Holder", "Held"),
    *("OpenLimit", "Calling", "Buckets"),
}
"""Names of classes that gave way to the field's words: projection, field mask, matches, fan-out group, bounds."""

FORMER_WORDS = {
    r"\banew\b": "again",
    r"\bbe it that\b": "whether ... or",
    r"\b(of|callers of|as of) before\b": "from before, earlier",
    r"\bcommitted places?\b": "committed cursor",
    r"\b(is|are|was|were) none of\b": "is not one of",
    r"\bis no (setting|export|backup)\b": "unknown setting; not an export",
    r"\b(lens|lenses|excerpt|excerpts|teller|surroundings)\b": "projection, matches",
    r"\b(is|are|was|were|be|been) told\b(?! apart)": "learns, gets; say who does what",
    r"\b(is|are|was|were|be|been|who) handed\b(?! (over|to))|\bhand(ed out|outs?)\b": "was sent, received",
    r"\bsigns? of life\b": "heartbeat",
    r"\bunless given\b": "by default",
    r"\b(in|of) its life\b": "state",
    r"\bdel context\b": "nothing: pyproject.toml permits the unused argument of a handler",
}
"""Turns of phrase that do not come back, each with the plain English for it."""


def imports(file: Path) -> Iterator[str]:
    """The dotted names that a file imports, wherever in it: "hub.control.keys"."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports hide which layer is meant"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def layer(name: str) -> str:
    """The layer that a dotted name of ours is in: "control" for hub.control.keys; "" for what is not ours."""
    first, _, rest = name.partition(".")
    return rest.partition(".")[0] if first == "hub" else ""


def below(file: Path) -> str:
    """A path relative to hub/, or to clients/python/ for the client's."""
    return file.relative_to(HUB if file.is_relative_to(HUB) else CLIENT.parent).as_posix()


def home(file: Path) -> str:
    """The layer that a file is in."""
    return below(file).partition("/")[0].removesuffix(".py")


@pytest.mark.parametrize("file", HUB_FILES, ids=below)
def test_imports_run_one_way(file: Path) -> None:
    """Each layer imports the layers below it in `LAYERS`, never those above."""
    here = home(file)
    met = {layer(name) for name in imports(file)} - {"", here}
    if here in ("__init__", "__main__"):
        allowed = {"cli"}
    elif here == "client":
        allowed = set[str]()
    elif here == "logs":
        allowed = {"errors", "metrics", "model"}
    elif here in ANYWHERE:
        allowed = set()
    else:
        allowed = {*LAYERS[: LAYERS.index(here)], *ANYWHERE} | (
            {"logs"} if here in ("api", "http", "app", "cli") else set()
        )
        allowed |= {"client"} if here == "cli" else set()  # it may call a hub as others do
    assert met <= allowed


@pytest.mark.parametrize("package", OUTSIDE)
def test_drivers_are_imported_only_where_allowed(package: str) -> None:
    """Aiosqlite and nats are each known to one file, gRPC to the api alone (and to the client, which is no layer)."""
    where = [
        below(file) for file in HUB_FILES if any(name.split(".")[0].split("_")[0] == package for name in imports(file))
    ]
    assert [path for path in where if not path.startswith(tuple(OUTSIDE[package]))] == []


def test_the_client_knows_the_contract_only() -> None:
    """What integrations install needs its own package, gRPC, and nothing of the hub or of its other libraries."""
    allowed = ("tickets_hub.", "grpc", "google.protobuf", "google.rpc")
    names = {name for file in CLIENT_FILES for name in imports(file)}
    assert [name for name in names if not name.startswith(allowed) and name.split(".")[0] not in STANDARD] == []


@pytest.mark.parametrize("file", FILES, ids=below)
def test_files_and_functions_are_short(file: Path) -> None:
    """No file has over 400 lines, no function over 50: more than that is not taken in at a glance."""
    text = file.read_text()
    assert text.count("\n") <= 400
    functions = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    assert [node.name for node in functions if (node.end_lineno or 0) - node.lineno >= 50] == []


@pytest.mark.parametrize("file", FILES, ids=below)
def test_every_ignored_rule_has_its_reason(file: Path) -> None:
    """The reason is on the same line, or on an earlier line of the file that ignores the same rule."""
    reasons: set[str] = set()
    for line in file.read_text().splitlines():
        _, mark, rest = line.partition("# noqa: ")
        for code in rest.partition("  ")[0].split(", ") if mark else ():
            assert "  " in rest or code in reasons, line.strip()
            reasons.add(code)


def own_attributes(cls: ast.ClassDef) -> set[str]:
    """The names that a class assigns to `self` in its `__init__`."""
    stores = (
        node
        for method in cls.body
        if isinstance(method, ast.FunctionDef) and method.name == "__init__"
        for node in ast.walk(method)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    )
    return {node.attr for node in stores if isinstance(node.value, ast.Name) and node.value.id == "self"}


def classes(file: Path) -> Iterator[ast.ClassDef]:
    """Every class of a file."""
    return (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ClassDef))


@pytest.mark.parametrize("file", FILES, ids=below)
def test_classes_are_small(file: Path) -> None:
    """No class has more than 12 attributes of its own but those that `LARGER` gives a reason for."""
    module = below(file).removesuffix(".py").replace("/", ".")
    large = {f"{module}.{cls.name}" for cls in classes(file) if len(own_attributes(cls)) > MAX_ATTRIBUTES}
    assert large <= LARGER.keys()


@pytest.mark.parametrize("file", FILES, ids=below)
def test_private_parts_stay_in_their_package(file: Path) -> None:
    """What begins with an underscore is imported within its package only, and of libraries as `PRIVATE` explains."""
    here = ".".join(file.relative_to(HUB.parent if file in HUB_FILES else CLIENT.parent).parts[:-1])
    private = [name for name in imports(file) if re.search(r"(^|\.)_(?!_)", name)]
    foreign = [name for name in private if not name.startswith(f"{here}.") and (below(file), name) not in PRIVATE]
    assert foreign == []


@pytest.mark.parametrize("file", FILES, ids=below)
def test_former_names_do_not_come_back(file: Path) -> None:
    """Classes are named as the field names them."""
    former = [cls.name for cls in classes(file) if cls.name.lstrip("_") in FORMER_NAMES]
    assert former == []


@pytest.mark.parametrize("file", [*FILES, *PROSE, *OTHER], ids=lambda file: file.relative_to(ROOT).as_posix())
def test_plain_english(file: Path) -> None:
    """None of the phrases in `FORMER_WORDS`; the message of a failure names the plain ones."""
    if file == Path(__file__):
        return  # it names them
    text = " ".join(file.read_text().split())
    former = [(found[0], plain) for phrase, plain in FORMER_WORDS.items() for found in re.finditer(phrase, text)]
    assert former == []
