"""The known forms of a row, and which of them a file is written in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

from llama_recipes.data.example import BadRow, Example, Format, PromptAnswer, Text
from llama_recipes.data.sources import alpaca
from llama_recipes.data.sources.chat import chat_from
from llama_recipes.data.sources.rows import (
    Rows,
    UnusableError,
    answer_field,
    filled_field,
    kind,
    names,
    text_field,
)
from llama_recipes.errors import DataError

_ROWS_LOOKED_AT = 100


@dataclass(frozen=True, slots=True)
class Form:
    """`setting` names it in file_dataset.format; it needs `columns`, all of the type `holds`."""

    setting: str
    says: str
    format: Format
    columns: tuple[str, ...]
    holds: type
    parse: Callable[[Mapping[str, object]], Example]

    def fits(self, row: Mapping[str, object]) -> bool:
        return all(isinstance(row.get(column), self.holds) for column in self.columns)

    def named_by(self, row: Mapping[str, object]) -> bool:
        return all(column in row for column in self.columns)


def _prompt_completion(row: Mapping[str, object]) -> PromptAnswer:
    return PromptAnswer(text_field(row, "prompt"), answer_field(row, "completion"))


def _text(row: Mapping[str, object]) -> Text:
    return Text(filled_field(row, "text"))


# Where a row has the columns of several, the first counts.
FORMS = (
    Form(
        "chat",
        "chat messages",
        "chat",
        ("messages",),
        list,
        partial(chat_from, fields=("messages",)),
    ),
    Form(
        "sharegpt",
        "ShareGPT conversations",
        "chat",
        ("conversations",),
        list,
        partial(chat_from, fields=("conversations",)),
    ),
    Form(
        "alpaca",
        "instructions and outputs",
        "alpaca",
        ("instruction", "output"),
        str,
        alpaca.example,
    ),
    Form(
        "prompt_completion",
        "prompts and completions",
        "prompt_completion",
        ("prompt", "completion"),
        str,
        _prompt_completion,
    ),
    Form(
        "prompt_completion",
        "prompts and completions made of messages",
        "chat",
        ("prompt", "completion"),
        list,
        partial(chat_from, fields=("prompt", "completion")),
    ),
    Form("text", "texts", "text", ("text",), str, _text),
)


def recognise(rows: Rows, setting: str, name: str) -> Form:
    """The form of the first row that has one, among those that file_dataset.format allows.

    Only the first rows are looked at, so that a broken file of any size is known at once. Raises
    DataError where they fit no form; `name` is what the message calls the file.
    """
    allowed = [form for form in FORMS if setting in ("auto", form.setting)]
    first: Mapping[str, object] | None = None
    problem = ""
    for row in islice(rows, _ROWS_LOOKED_AT):
        if isinstance(row, BadRow):
            problem = problem or f"{row.where}: {row.reason}"
        elif not isinstance(row.value, Mapping):
            problem = problem or f"{row.where}: the row is {kind(row.value)}, not an object"
        else:
            for form in allowed:
                if form.fits(row.value):
                    return form
            first = row.value if first is None else first
    if first is None:
        if problem:
            raise DataError(f"{name}: none of the first rows can be used. {problem}.")
        raise DataError(f"{name} holds no rows.")
    for form in allowed:
        if form.named_by(first):
            return form
    raise DataError(_unknown(name, first, allowed, setting))


def parse_as(form: Form, row: Mapping[str, object]) -> Example:
    """The row as an example; UnusableError says so where it is plainly in another form."""
    if not form.named_by(row):
        for other in FORMS:
            if other.named_by(row):
                raise UnusableError(
                    f"the row holds {other.says} ({names(row)}), the file {form.says} "
                    f"({_columns(form)})"
                )
    return form.parse(row)


def _unknown(name: str, row: Mapping[str, object], allowed: Sequence[Form], setting: str) -> str:
    known = "; ".join(dict.fromkeys(f"{form.setting}: {_columns(form)}" for form in allowed))
    forced = "" if setting == "auto" else f" with --file_dataset.format {setting}"
    return (
        f"{name} has the columns {names(row)}, which are in no known form{forced}. "
        f"Known are {known}. Rename the columns to those of one form."
    )


def _columns(form: Form) -> str:
    return ", ".join(f"`{column}`" for column in form.columns)
