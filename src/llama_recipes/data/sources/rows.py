"""Rows as they stand in a file, and the one way in which a row is found unusable."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from llama_recipes.data.example import BadRow, Example, Located

# Ten times the longest book. A longer row is a broken file (a missing newline, a quote never
# closed), and reading it whole would let memory grow with the file.
MAX_ROW_BYTES = 32 * 2**20


@dataclass(frozen=True, slots=True)
class Row:
    """`value` is whatever the file held there: usually a mapping, but nothing is promised."""

    where: str
    value: object


Rows = Iterable[Row | BadRow]


class UnusableError(Exception):
    """Why a row cannot be used; becomes the reason of a BadRow and never leaves this package."""


def kind(value: object) -> str:
    """What a user would call this value."""
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case bytes():
            return "bytes"
        case Mapping():
            return "an object"
        case list() | tuple():
            return "a list"
        case _:
            return f"a {type(value).__name__}"


def checked_text(value: object, name: str) -> str:
    """`value` as text that every tokenizer can take. Raises UnusableError that names `name`."""
    if value is None:
        raise UnusableError(f"{name} is null")
    if not isinstance(value, str):
        raise UnusableError(f"{name} is {kind(value)}, text is needed")
    if "\0" in value:
        raise UnusableError(f"{name} holds a NUL character")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        surrogate = f"\\u{ord(value[error.start]):04x}"
        raise UnusableError(
            f"{name} holds a lone surrogate ({surrogate}), which is no character"
        ) from None
    return value


def text_field(row: Mapping[str, object], field: str) -> str:
    if field not in row:
        raise UnusableError(f"the field `{field}` is missing (found: {names(row)})")
    return checked_text(row[field], f"the field `{field}`")


def filled_field(row: Mapping[str, object], field: str) -> str:
    """A text field that is more than white space."""
    text = text_field(row, field)
    if not text.strip():
        raise UnusableError(f"the field `{field}` is empty")
    return text


def answer_field(row: Mapping[str, object], field: str) -> str:
    """The text that is trained; without one the row would teach the model to say nothing."""
    text = text_field(row, field)
    if not text.strip():
        raise UnusableError(f"empty answer (the field `{field}`)")
    return text


def names(row: Mapping[str, object]) -> str:
    return ", ".join(f"`{name}`" for name in row) or "no fields"


def to_examples(
    rows: Rows, parse: Callable[[Mapping[str, object]], Example]
) -> Iterator[Located | BadRow]:
    """Each row parsed; what `parse` finds UnusableError becomes a BadRow in its place."""
    for row in rows:
        if isinstance(row, BadRow):
            yield row
            continue
        try:
            if not isinstance(row.value, Mapping):
                raise UnusableError(
                    f"the row is {kind(row.value)}, an object with fields is needed"
                )
            example = parse(row.value)
        except UnusableError as problem:
            yield BadRow(row.where, str(problem))
        else:
            yield Located(row.where, example)
