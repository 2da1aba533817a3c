"""Make the client's messages and ``generated/`` from ``protos/``; with ``--check``, only tell whether they are fresh.

The modules lie in the client's package, with relative imports, so that it lives beside any other package named
``tickets`` or ``buf``. ``generated/`` hands the same modules to the server under the contract's own names.

Everything comes from the pinned ``grpcio-tools``, so the result depends on nothing that this machine has installed.
``buf.validate`` is not copied into the project: its descriptor is the one that ``protovalidate`` carries.
"""

import argparse
import filecmp
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import protovalidate
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool
from google.protobuf.message_factory import GetMessageClass
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
GENERATED = Path("generated")
CLIENT = Path("clients", "python", "tickets_hub")
MADE = (GENERATED, CLIENT / "v1", CLIENT / "buf")  # below ROOT; nothing else lies in them
LANDED = PROTOS / "landed.binpb"
PLUGINS = [
    f"--plugin={name}={Path(sys.executable).parent / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")
]
VALIDATE = "buf/validate/validate.proto"
PACKAGE = "tickets.hub.v1"
ERROR_MODULES = (any_pb2, status_pb2, error_details_pb2, code_pb2)  # each after what it imports
RESULT_MODULES = (any_pb2, status_pb2)  # what the contract itself imports of them

# The modules import ``validate_pb2`` only so that their options can be resolved: its descriptor has to be in the
# default pool. A pool refuses a second version of a file, so a program that brought its own keeps it.
VALIDATE_PB2 = '''\
"""Puts ``buf/validate/validate.proto`` into the default pool, unless the program has it. Made by ``make proto``."""

from google.protobuf import descriptor_pb2, descriptor_pool, duration_pb2, field_mask_pb2, timestamp_pb2  # noqa: F401
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message_factory import GetMessageClass


def _descriptor() -> FileDescriptor:
    pool = descriptor_pool.Default()
    try:
        return pool.FindFileByName("buf/validate/validate.proto")
    except KeyError:
        return pool.AddSerializedFile(_FILE)


_FILE = {content!r}

DESCRIPTOR = _descriptor()
StringRules = GetMessageClass(DESCRIPTOR.message_types_by_name["StringRules"])
'''

VALIDATE_PYI = '''\
"""What the contract's own stubs need of ``buf/validate/validate.proto``. Made by ``make proto``."""

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import Message

DESCRIPTOR: FileDescriptor

class StringRules(Message): ...
'''

SAME_MODULE = '''\
"""The client's ``{module}``, under the contract's own name. Made by ``make proto``."""

from {module} import *
'''


def main() -> int:
    """Write what is made, or compare it with what is there: 1 when that is stale."""
    parser = argparse.ArgumentParser(description="Make the client's messages and generated/ from protos/.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when something is stale")
    parser.add_argument("--landed", action="store_true", help="note the contract as the one that clients now rely on")
    parser.add_argument("--image", type=Path, help="write an image of all files there, for buf")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch)
        image = generate(made)
        if arguments.image:
            arguments.image.write_bytes(image)
        if arguments.landed:
            LANDED.write_bytes(without_source(image))
        if not arguments.check:
            write(made)
            return 0
        stale = sorted(name for folder in MADE for name in differences(made, folder))
    for name in stale:
        print(f"{name} is stale: run 'make proto'", file=sys.stderr)
    return 1 if stale else 0


def write(made: Path) -> None:
    """Replace the folders of `MADE` by those below `made`."""
    for folder in MADE:
        shutil.rmtree(ROOT / folder, ignore_errors=True)
        shutil.copytree(made / folder, ROOT / folder)


def generate(target: Path) -> bytes:
    """Make everything below `target`; return the image: all files with all options, and what they import."""
    with tempfile.TemporaryDirectory() as scratch:
        validate, image_file = Path(scratch, "validate.binpb"), Path(scratch, "image.binpb")
        validate.write_bytes(validate_set())
        sources = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
        inputs = [f"--descriptor_set_in={validate}", f"--proto_path={PROTOS}", *PLUGINS]
        modules = Path(scratch, "modules")
        modules.mkdir()
        run_protoc(*inputs, *image_outputs(image_file), *module_outputs(modules), *sources)
        run_protoc(*inputs, *service_outputs(modules), *(name for name in sources if name.endswith("_service.proto")))
        write_client(modules / "tickets" / "hub" / "v1", target / CLIENT)
        image = image_file.read_bytes()
    write_same_modules(target)
    (target / GENERATED / "tickets_hub.binpb").write_bytes(published(image))
    return image


def write_client(modules: Path, package: Path) -> None:
    """The contract's modules as a part of the client's package, and what they import of ``buf.validate``."""
    for module in sorted(modules.iterdir()):
        write_text(package / "v1" / module.name, relative(module.read_text(), module.stem))
    write_text(
        package / "v1" / "__init__.py", '"""The messages and services of the contract. Made by ``make proto``."""\n'
    )
    validate = package / "buf" / "validate"
    write_text(validate / "validate_pb2.py", VALIDATE_PB2.format(content=validate_file()))
    write_text(validate / "validate_pb2.pyi", VALIDATE_PYI)
    for folder in (validate, validate.parent):
        write_text(folder / "__init__.py", "")


def relative(text: str, stem: str) -> str:
    """A module or its stub that imports its neighbours as parts of one package, and knows its place in it."""
    text = re.sub(r"^from tickets\.hub\.v1 import ", "from . import ", text, flags=re.MULTILINE)
    text = re.sub(r"^from buf\.validate import ", "from ..buf.validate import ", text, flags=re.MULTILINE)
    return text.replace(f"'tickets.hub.v1.{stem}'", f"'{CLIENT.name}.v1.{stem}'")  # where pickle looks for a class


def write_same_modules(target: Path) -> None:
    """``generated/``: each module of the client under the name that protoc gives it."""
    package = target / CLIENT
    for module in sorted(package.rglob("*_pb2*.py")):
        place = module.relative_to(package)
        name = ".".join((CLIENT.name, *place.with_suffix("").parts))
        named = Path("tickets", "hub", place) if place.parts[0] == "v1" else place
        write_text(target / GENERATED / named, SAME_MODULE.format(module=name))


def write_text(file: Path, text: str) -> None:
    """Write a file and the folders above it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def without_source(image: bytes) -> bytes:
    """The image without comments and places in files."""
    every = descriptor_pb2.FileDescriptorSet.FromString(image)
    for file in every.file:
        file.ClearField("source_code_info")
    return every.SerializeToString(deterministic=True)


def validate_set() -> bytes:
    """What the contract imports and what that imports, from the libraries that carry them."""
    well_known = files("grpc_tools") / "_proto"
    names = [
        f"google/protobuf/{name}.proto" for name in ("descriptor", "duration", "field_mask", "struct", "timestamp")
    ]
    with tempfile.NamedTemporaryFile() as out:
        run_protoc(f"--proto_path={well_known}", f"--descriptor_set_out={out.name}", *names)
        every = descriptor_pb2.FileDescriptorSet.FromString(Path(out.name).read_bytes())
    every.file.add().ParseFromString(validate_file())
    for module in RESULT_MODULES:
        every.file.add().ParseFromString(module.DESCRIPTOR.serialized_pb)
    return every.SerializeToString(deterministic=True)


def validate_file() -> bytes:
    """The descriptor of ``buf/validate/validate.proto``, byte for byte as its authors publish it."""
    content: bytes = protovalidate.ViolationPb.desc().file.proto.to_binary()
    return content


def image_outputs(image: Path) -> list[str]:
    """What makes protoc write an image for buf."""
    return [f"--descriptor_set_out={image}", "--include_imports", "--include_source_info"]


def module_outputs(target: Path) -> list[str]:
    """What makes protoc write the modules of messages and their type stubs."""
    return [f"--python_out={target}", f"--mypy_out=quiet:{target}"]


def service_outputs(target: Path) -> list[str]:
    """What makes protoc write the modules of services and their type stubs."""
    return [f"--grpc_python_out={target}", f"--mypy_grpc_out=quiet:{target}"]


def run_protoc(*arguments: str) -> None:
    """Run the pinned protoc; its own messages say what is wrong."""
    if protoc.main(["protoc", *arguments]) != 0:
        raise SystemExit("protoc failed")


def published(image: bytes) -> bytes:
    """What other languages read: the image without the validation rules, and with the messages of errors.

    It needs nothing beside itself.
    """
    kept = readable_set(with_errors(image))
    rules = {VALIDATE} | {file.name for file in kept.file if only_extends_rules(file)}
    for file in [file for file in kept.file if file.name in rules]:
        kept.file.remove(file)
    for file in kept.file:
        keep_comments(file)
        dependencies = [name for name in file.dependency if name not in rules]
        file.ClearField("dependency")
        file.dependency.extend(dependencies)
        for thing in with_options(file):
            strip_rules(thing)
    data: bytes = kept.SerializeToString(deterministic=True)
    return data


def with_errors(image: bytes) -> bytes:
    """The image with ``google.rpc``, in which the details of a failed call are written, and what that imports."""
    every = descriptor_pb2.FileDescriptorSet.FromString(image)
    known = {file.name for file in every.file}
    for module in ERROR_MODULES:
        if module.DESCRIPTOR.name not in known:
            every.file.add().ParseFromString(module.DESCRIPTOR.serialized_pb)
    return every.SerializeToString()


def readable_set(image: bytes) -> Any:
    """The image, read by a pool that knows the options of ``buf.validate`` (and so can drop them), and no others."""
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(validate_set()).file:
        pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName("google.protobuf.FileDescriptorSet")).FromString(image)


def only_extends_rules(file: Any) -> bool:
    """Whether a file does nothing but define validation rules."""
    return bool(file.extension) and all(e.extendee.startswith(".buf.validate.") for e in file.extension)


def with_options(file: Any) -> Iterator[Any]:
    """Every message, field and oneof of a file that has options."""
    pending = list(file.message_type)
    while pending:
        message = pending.pop()
        pending.extend(message.nested_type)
        yield from (x for x in (message, *message.field, *message.oneof_decl) if x.HasField("options"))


def keep_comments(file: Any) -> None:
    """Of the source keep what describes a thing, without its place: `grpcurl -protoset ... describe` shows it."""
    places = [place for place in file.source_code_info.location if place.leading_comments]
    file.ClearField("source_code_info")  # not an empty one: Rust's prost would look for each message in it
    for place in places if file.package == PACKAGE else ():
        file.source_code_info.location.add(path=place.path, span=[0, 0, 0], leading_comments=place.leading_comments)


def strip_rules(thing: Any) -> None:
    """Drop the options of ``buf.validate``; an options message that is empty then goes, too."""
    for field, _ in thing.options.ListFields():
        if field.is_extension and field.file.name == VALIDATE:
            thing.options.ClearExtension(field)
    if not thing.options.ByteSize():
        thing.ClearField("options")


def differences(made: Path, folder: Path) -> Iterator[str]:
    """The names of a folder's files that differ, or that only one of `made` and the project has."""
    roots = (made / folder, ROOT / folder)
    names = {str(p.relative_to(root)) for root in roots for p in root.rglob("*") if p.is_file()}
    for name in names:
        sides = [root / name for root in roots]
        if "__pycache__" in name:
            continue
        if not all(side.is_file() for side in sides) or not filecmp.cmp(sides[0], sides[1], shallow=False):
            yield str(folder / name)


if __name__ == "__main__":
    sys.exit(main())
