"""What the generated classes of `_messages` have in common: how they are read, and how they look."""

from __future__ import annotations

import dataclasses
import html
import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, TypeVar, get_args, get_origin, get_type_hints


class Choice(str, Enum):
    """A value of an enum of the interface. One that this version does not know is a value all the same."""

    @classmethod
    def read(cls, written: object) -> Choice:
        """The value that JSON writes with the enum's name in front; a number, when it is a later version's."""
        prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).upper() + "_"
        return cls(str(written).removeprefix(prefix))

    @classmethod
    def _missing_(cls, value: object) -> Choice:
        made = str.__new__(cls, str(value))
        made._name_ = made._value_ = f"UNKNOWN_{value}"
        return made

    def __str__(self) -> str:
        return str(self.value)


class Message:
    """A message of the interface. `str()` shows the fields that are set."""

    __slots__ = ()

    def __str__(self) -> str:
        return "\n".join(_lines(self, ""))

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td style='text-align:left'><pre style='margin:0'>{html.escape(_shown(value))}</pre></td></tr>"
            for name, value in _set_fields(self)
        )
        return f"<table><caption>{html.escape(type(self).__name__)}</caption>{rows}</table>"


M = TypeVar("M", bound=Message)


#: Of each class: the fields, their keys in JSON, and how their values are read.
_Readers = list[tuple[str, str, Callable[[Any], Any]]]
_READERS: dict[type[Message], _Readers] = {}


def read(cls: type[M], data: Mapping[str, Any]) -> M:
    """A message from protobuf's JSON. Fields that this version does not know are left out."""
    return cls(**{name: convert(data[key]) for name, key, convert in _readers(cls) if key in data})


def _readers(cls: type[Message]) -> _Readers:
    known = _READERS.get(cls)
    if known is None:
        known = _READERS[cls] = _make_readers(cls)
    return known


def _make_readers(cls: type[Message]) -> _Readers:
    hints = get_type_hints(cls)
    return [
        (field.name, field.metadata.get("json", field.name), _reader(hints[field.name]))
        for field in dataclasses.fields(cls)  # type: ignore[arg-type]
    ]


def _reader(hint: Any) -> Callable[[Any], Any]:
    if get_origin(hint) is tuple:
        each = _reader(get_args(hint)[0])
        return lambda values: tuple(each(value) for value in values)
    inner = [argument for argument in get_args(hint) if argument is not type(None)]
    if inner:
        convert = _reader(inner[0])
        return lambda value: None if value is None else convert(value)
    if isinstance(hint, type) and issubclass(hint, Message):
        return lambda value: read(hint, value)
    if hint is datetime:
        return _datetime
    if hint is timedelta:
        return lambda text: timedelta(seconds=float(text.removesuffix("s")))
    if isinstance(hint, type) and issubclass(hint, Choice):
        return hint.read
    return float if hint is float else lambda value: value


def _datetime(text: str) -> datetime:
    """RFC 3339, of whose fraction Python keeps six digits."""
    date, _, fraction = text.removesuffix("Z").partition(".")
    return datetime.fromisoformat(f"{date}.{fraction[:6]:0<6}+00:00" if fraction else f"{date}+00:00")


def _set_fields(message: Message) -> list[tuple[str, Any]]:
    fields = dataclasses.fields(message)  # type: ignore[arg-type]
    pairs = [(field.name, getattr(message, field.name)) for field in fields]
    return [(name, value) for name, value in pairs if value not in (None, "", 0, False, ()) and not _unset(value)]


def _unset(value: Any) -> bool:
    return isinstance(value, Choice) and value.value == "UNSPECIFIED"


def _shown(value: Any) -> str:
    if isinstance(value, Message):
        return str(value)
    if isinstance(value, tuple):
        return "\n".join(_shown(one) for one in value)
    return value.isoformat(sep=" ", timespec="seconds") if isinstance(value, datetime) else str(value)


def _lines(message: Message, indent: str) -> list[str]:
    lines = [f"{indent}{type(message).__name__}"]
    for name, value in _set_fields(message):
        if isinstance(value, Message):
            lines += [f"{indent}  {name}:", *_lines(value, indent + "    ")]
        elif isinstance(value, tuple) and isinstance(value[0], Message):
            lines.append(f"{indent}  {name}:")
            for one in value:
                lines += _lines(one, indent + "    ")
        elif isinstance(value, tuple):
            lines.append(f"{indent}  {name}: {', '.join(_shown(one) for one in value)}")
        else:
            lines.append(f"{indent}  {name}: {_shown(value)}")
    return lines
