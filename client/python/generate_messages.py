"""Writes `python/weightsd/_messages.py`: the messages of the interface that Python's callers see, as dataclasses with the
comments of the `.proto` files. `--check` compares instead.

Needs the built package and `protobuf`.
"""

from __future__ import annotations

import importlib.util
import re
import sys
import textwrap
from pathlib import Path

from google.protobuf import descriptor_pb2 as pb

FILE = Path(__file__).parent / "python/weightsd/_messages.py"
#: Answers, by which everything else is reached, and what a Python program calls them.
NAMES = {
    "GetStatusResponse": "Status",
    "ResolveResponse": "Resolution",
    "AuditResponse": "Audit",
    "ListComponentsResponse": "Listing",
    "GetComponentResponse": "ComponentDetails",
    "EvictResponse": "Eviction",
    "WatchEventsResponse": "WatchedEvent",
    "PullReport": "PullReport",
    "VerifyReport": "VerifyReport",
    "Progress": "Progress",
    "Component": "ComponentInfo",
    "Notice": "Notice",
    "AuditReport": "AuditReport",
}
#: Used up by the time anybody sees the message.
LEFT_OUT = {("Lease", "ticket")}
SCALARS = {
    pb.FieldDescriptorProto.TYPE_STRING: ("str", '""'),
    pb.FieldDescriptorProto.TYPE_BOOL: ("bool", "False"),
    pb.FieldDescriptorProto.TYPE_DOUBLE: ("float", "0.0"),
    pb.FieldDescriptorProto.TYPE_UINT32: ("int", "0"),
    pb.FieldDescriptorProto.TYPE_UINT64: ("int", "0"),
    pb.FieldDescriptorProto.TYPE_INT64: ("int", "0"),
}
WELL_KNOWN = {".google.protobuf.Timestamp": "datetime", ".google.protobuf.Duration": "timedelta"}
HEAD = '''"""Messages of the interface. Written by `generate_messages.py` from `proto/`; change those."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from ._message import Choice, Message
'''


def main() -> None:
    files = pb.FileDescriptorSet.FromString(descriptors())
    messages, enums, comments = {}, {}, {}
    for file in files.file:
        if file.package != "weights.v1":
            continue
        said = {tuple(where.path): where.leading_comments.strip() for where in file.source_code_info.location}
        for number, message in enumerate(file.message_type):
            messages[message.name] = message
            comments[message.name] = said.get((4, number), "")
            for place, field in enumerate(message.field):
                comments[message.name, field.name] = said.get((4, number, 2, place), "")
        for number, enum in enumerate(file.enum_type):
            enums[enum.name] = enum
            comments[enum.name] = said.get((5, number), "")
            for place, value in enumerate(enum.value):
                comments[enum.name, value.name] = said.get((5, number, 2, place), "")
    reached: list[str] = []
    for root in NAMES:
        reach(root, messages, enums, reached)
    text = HEAD + "".join(
        enum_class(enums[name], comments) if name in enums else message_class(messages[name], comments)
        for name in reached
    )
    if "--check" in sys.argv[1:]:
        sys.exit(FILE.read_text() != text and f"{FILE} is not what {Path(__file__).name} writes")
    FILE.write_text(text)


def descriptors() -> bytes:
    """The interface, as the compiled half has it. The package itself cannot be imported before the file is written."""
    package = importlib.util.find_spec("weightsd")
    assert package is not None and package.submodule_search_locations, "the package is not installed"
    (library,) = Path(package.submodule_search_locations[0]).glob("_native*.so")
    spec = importlib.util.spec_from_file_location("_native", library)
    assert spec is not None and spec.loader is not None
    native = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(native)
    made: bytes = native.descriptors()
    return made


def local(type_name: str) -> str:
    return type_name.rsplit(".", 1)[1]


def reach(name: str, messages: dict, enums: dict, reached: list[str]) -> None:
    """What a message is made of comes before it."""
    if name in reached:
        return
    for field in messages[name].field if name in messages else ():
        if field.type_name and field.type_name not in WELL_KNOWN:
            reach(local(field.type_name), messages, enums, reached)
    if name not in reached:
        reached.append(name)


def enum_class(enum: pb.EnumDescriptorProto, comments: dict) -> str:
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum.name).upper() + "_"
    lines = ["", "", f"class {enum.name}(Choice):", *docstring(comments[enum.name]), ""]
    for value in enum.value:
        short = value.name.removeprefix(prefix)
        lines += [f"    #: {line}" for line in wrapped(comments[enum.name, value.name])]
        lines.append(f'    {short} = "{short}"')
    return "\n".join(lines) + "\n"


def message_class(message: pb.DescriptorProto, comments: dict) -> str:
    lines = ["", "", "@dataclass(frozen=True)", f"class {NAMES.get(message.name, message.name)}(Message):"]
    lines += [*docstring(comments[message.name]), ""]
    for field in message.field:
        if (message.name, field.name) in LEFT_OUT:
            continue
        if field.type_name in WELL_KNOWN:
            hint, default = f"{WELL_KNOWN[field.type_name]} | None", "None"
        elif field.type == field.TYPE_MESSAGE:
            inner = local(field.type_name)
            hint, default = f"{NAMES.get(inner, inner)} | None", "None"
        elif field.type == field.TYPE_ENUM:
            hint = local(field.type_name)
            default = f"{hint}.UNSPECIFIED"
        else:
            hint, default = SCALARS[field.type]
        if field.label == field.LABEL_REPEATED:
            hint, default = f"tuple[{hint.removesuffix(' | None')}, ...]", "()"
        lines += [f"    #: {line}" for line in wrapped(comments[message.name, field.name])]
        lines.append(f"    {field.name}: {hint} = {default}")
    return "\n".join(lines) + "\n"


def wrapped(comment: str) -> list[str]:
    return textwrap.wrap(" ".join(comment.split()), 110)


def docstring(comment: str) -> list[str]:
    lines = textwrap.wrap(" ".join(comment.split()), 112)
    if len(lines) <= 1:
        return [f'    """{"".join(lines)}"""']
    return [f'    """{lines[0]}', *(f"    {line}" for line in lines[1:]), '    """']


main()
