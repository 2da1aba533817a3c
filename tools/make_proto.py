"""Make ``generated/`` from ``protos/``; with ``--check``, only tell whether it is fresh.

Everything comes from the pinned ``grpcio-tools``, so the result depends on nothing that this machine has installed.
``buf.validate`` is not copied into the project: its descriptor is the one that ``protovalidate`` carries.
"""

import argparse
import filecmp
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import protovalidate
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message_factory import GetMessageClass
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
GENERATED = ROOT / "generated"
LANDED = PROTOS / "landed.binpb"
PLUGINS = [
    f"--plugin={name}={Path(sys.executable).parent / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")
]
VALIDATE = "buf/validate/validate.proto"
PACKAGE = "tickets.hub.v1"

# The stubs import ``buf.validate.validate_pb2`` only so that its options can be resolved. Putting the descriptor into
# the default pool is all that this takes.
VALIDATE_PB2 = '''\
"""Puts the descriptor of ``buf/validate/validate.proto`` into the default pool. Made by ``make proto``."""

import protovalidate
from google.protobuf import descriptor_pb2, descriptor_pool, duration_pb2, field_mask_pb2, timestamp_pb2  # noqa: F401

DESCRIPTOR = descriptor_pool.Default().AddSerializedFile(
    protovalidate.ViolationPb.desc().file.proto.to_binary()
)
'''


def main() -> int:
    """Write ``generated/``, or compare it with what would be written: 1 when it is stale."""
    parser = argparse.ArgumentParser(description="Make generated/ from protos/.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when generated/ is stale")
    parser.add_argument("--landed", action="store_true", help="note the contract as the one that clients now rely on")
    parser.add_argument("--image", type=Path, help="write an image of all files there, for buf")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch, "generated")
        image = generate(made)
        if arguments.image:
            arguments.image.write_bytes(image)
        if arguments.landed:
            LANDED.write_bytes(without_source(image))
        if not arguments.check:
            shutil.rmtree(GENERATED, ignore_errors=True)
            shutil.copytree(made, GENERATED)
            return 0
        stale = sorted(differences(made, GENERATED))
    for name in stale:
        print(f"generated/{name} is stale: run 'make proto'", file=sys.stderr)
    return 1 if stale else 0


def generate(target: Path) -> bytes:
    """Make everything in `target`; return the image: all files with all options, and what they import."""
    target.mkdir()
    with tempfile.TemporaryDirectory() as scratch:
        validate, image_file = Path(scratch, "validate.binpb"), Path(scratch, "image.binpb")
        validate.write_bytes(validate_set())
        sources = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
        inputs = [f"--descriptor_set_in={validate}", f"--proto_path={PROTOS}", *PLUGINS]
        run_protoc(*inputs, *image_outputs(image_file), *module_outputs(target), *sources)
        run_protoc(*inputs, *service_outputs(target), *(name for name in sources if name.endswith("_service.proto")))
        image = image_file.read_bytes()
    stub = target / "buf" / "validate" / "validate_pb2.py"
    stub.parent.mkdir(parents=True)
    stub.write_text(VALIDATE_PB2)
    (target / "tickets_hub.binpb").write_bytes(published(image))
    return image


def without_source(image: bytes) -> bytes:
    """The image without comments and places in files."""
    every = descriptor_pb2.FileDescriptorSet.FromString(image)
    for file in every.file:
        file.ClearField("source_code_info")
    return every.SerializeToString(deterministic=True)


def validate_set() -> bytes:
    """``buf/validate/validate.proto`` and what it imports, from the libraries that carry them."""
    well_known = files("grpc_tools") / "_proto"
    names = [f"google/protobuf/{name}.proto" for name in ("descriptor", "duration", "field_mask", "timestamp")]
    with tempfile.NamedTemporaryFile() as out:
        run_protoc(f"--proto_path={well_known}", f"--descriptor_set_out={out.name}", *names)
        every = descriptor_pb2.FileDescriptorSet.FromString(Path(out.name).read_bytes())
    every.file.add().ParseFromString(protovalidate.ViolationPb.desc().file.proto.to_binary())
    return every.SerializeToString(deterministic=True)


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
    """The image without the validation rules: readable by anything that knows only ``google.protobuf``."""
    kept = readable_set(image)
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
    del file.source_code_info.location[:]
    for place in places if file.package == PACKAGE else ():
        file.source_code_info.location.add(path=place.path, span=[0, 0, 0], leading_comments=place.leading_comments)


def strip_rules(thing: Any) -> None:
    """Drop the options of ``buf.validate``; an options message that is empty then goes, too."""
    for field, _ in thing.options.ListFields():
        if field.is_extension and field.file.name == VALIDATE:
            thing.options.ClearExtension(field)
    if not thing.options.ByteSize():
        thing.ClearField("options")


def differences(made: Path, there: Path) -> Iterator[str]:
    """The names, relative to ``generated/``, of files that differ or stand on one side only."""
    names = {str(p.relative_to(root)) for root in (made, there) for p in root.rglob("*") if p.is_file()}
    for name in names:
        sides = [root / name for root in (made, there)]
        if "__pycache__" in name:
            continue
        if not all(side.is_file() for side in sides) or not filecmp.cmp(sides[0], sides[1], shallow=False):
            yield name


if __name__ == "__main__":
    sys.exit(main())
