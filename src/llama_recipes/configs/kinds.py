"""What a type annotation means to a user: its name, its rule in words, how its text is read."""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal, Union, get_args, get_origin


@dataclass(frozen=True, slots=True)
class Kind:
    """`metavar` stands in --help, `rule` in sentences; `read` raises ValueError for other texts."""

    metavar: str
    rule: str
    read: Callable[[str], object]
    words: tuple[str, ...] = ()


def kinds(annotation: Any) -> list[Kind]:
    """The kinds of value that a setting can have, in the order in which a text is tried."""
    found = [_kind(member) for member in _members(annotation)]
    # A word is also a text and a list of one, and None is a text: the narrower is tried first.
    return sorted(found, key=lambda kind: -1 if kind.words else _NARROW_TO_WIDE.index(kind))


def _members(annotation: Any) -> list[Any]:
    if get_origin(annotation) in (Union, types.UnionType):
        return [kind for member in get_args(annotation) for kind in _members(member)]
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    return [annotation]


def _kind(member: Any) -> Kind:
    if get_origin(member) is Literal:
        return _words(get_args(member), prefix="")
    if isinstance(member, type) and issubclass(member, StrEnum):
        return _words(tuple(member), prefix=f"{member.__name__}.")
    return _PLAIN[get_origin(member) or member]


def _words(words: tuple[str, ...], prefix: str) -> Kind:
    def read(text: str) -> str:
        word = text.removeprefix(prefix)
        if word not in words:
            raise ValueError(text)
        return word

    rule = f"one of {', '.join(words)}" if len(words) > 2 else " or ".join(words)
    return Kind("|".join(words), rule, read, words)


def _read_none(text: str) -> None:
    if text not in ("None", "null"):
        raise ValueError(text)


_SWITCH = {"true": True, "yes": True, "on": True, "1": True}
_SWITCH |= {"false": False, "no": False, "off": False, "0": False}


def read_switch(text: str) -> bool:
    if text.lower() not in _SWITCH:
        raise ValueError(text)
    return _SWITCH[text.lower()]


def _read_list(text: str) -> list[str]:
    """`a,b` or `[a, b]`, each item with or without quotes."""
    inner = text.strip()
    if inner.startswith("[") and inner.endswith("]"):
        inner = inner[1:-1].strip()
    return [item.strip().strip("'\"") for item in inner.split(",")] if inner else []


_PLAIN: dict[Any, Kind] = {
    types.NoneType: Kind("None", "None", _read_none),
    bool: Kind("True|False", "True or False", read_switch),
    int: Kind("int", "a whole number", int),
    float: Kind("float", "a number", float),
    list: Kind("list", "a list such as a,b", _read_list),
    str: Kind("text", "text", str),
}
_NARROW_TO_WIDE = list(_PLAIN.values())
