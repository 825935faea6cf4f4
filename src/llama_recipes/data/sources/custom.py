"""The user's own data set: a Python file whose function returns samples that are tokens already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from numbers import Integral
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, cast

from llama_recipes.data.example import BadRow, Collator, Located, Source, Split, Tokens
from llama_recipes.data.sources import user_code
from llama_recipes.data.sources.origin import existing_file
from llama_recipes.data.sources.rows import UnusableError, kind
from llama_recipes.errors import DataError

if TYPE_CHECKING:
    from llama_recipes.configs.datasets import CustomDataset
    from llama_recipes.data.tokenizer import Tokenizer

_FLAG = "custom_dataset.file"
_FUNCTION = "get_custom_dataset"
_COLLATOR = "get_data_collator"
_IGNORED = -100
_HIGHEST = 2**31 - 1  # ids are kept in 32 bits
_END = object()


class _MapStyle(Protocol):
    """What torch calls a map-style data set."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> object: ...


def open_custom(section: CustomDataset, split: Split, tokenizer: Tokenizer) -> Source:
    """Runs the user's file and calls its function with (section, Hugging Face tokenizer, split).

    Raises DataError for a missing file or function, and for whatever the user's code raises.
    """
    file, name = _file_and_function(section.file)
    module = user_code.load(file)
    make = user_code.function(module, name, file)
    part = section.train_split if split == "train" else section.test_split
    call = partial(user_code.guarded, file, lambda: make(section, tokenizer.hf, part))
    data = call()
    _check_kind(data, f"{name} in {file}, asked for the split `{part}`,")

    def rows() -> Iterator[Located | BadRow]:
        # A generator can be read once only, so each reading needs a new one.
        samples = call() if isinstance(data, Iterator) else data
        return _rows(file, cast("Iterable[object] | _MapStyle", samples))

    return Source(
        name="custom_dataset",
        format="tokens",
        rows=rows,
        fingerprint=None,
        description=f"{file.name}: samples of {name} for the split `{part}`",
        on_bad_row=section.on_bad_row,
        collator=_collator(module, file, tokenizer),
    )


def has_collator(section: CustomDataset) -> bool:
    """Whether the file defines one. Raises DataError."""
    file, _ = _file_and_function(section.file)
    return hasattr(user_code.load(file), _COLLATOR)


def _collator(module: ModuleType, file: Path, tokenizer: Tokenizer) -> Collator | None:
    if not hasattr(module, _COLLATOR):
        return None
    make = user_code.function(module, _COLLATOR, file)
    collator = user_code.guarded(file, lambda: make(tokenizer.hf))
    if not callable(collator):
        raise DataError(f"{_COLLATOR} in {file} returned {kind(collator)}; a function is needed.")
    made = cast(Collator, collator)
    return lambda samples: user_code.guarded(file, lambda: made(samples))


def _file_and_function(setting: str) -> tuple[Path, str]:
    path, colon, name = setting.rpartition(":")
    if not colon or not path.endswith(".py"):
        path, name = setting, _FUNCTION
    return existing_file(path, _FLAG), name


def _check_kind(data: object, who: str) -> None:
    if isinstance(data, Mapping):
        raise DataError(
            f"{who} returned an object with the keys {', '.join(map(str, data))}; the samples of "
            "that one split are needed."
        )
    if isinstance(data, str) or not (
        hasattr(data, "__iter__") or (hasattr(data, "__getitem__") and hasattr(data, "__len__"))
    ):
        raise DataError(
            f"{who} returned {kind(data)}; a list, a torch Dataset or another iterable of samples "
            "is needed."
        )


def _rows(file: Path, data: Iterable[object] | _MapStyle) -> Iterator[Located | BadRow]:
    samples = user_code.guarded(file, lambda: _iterator(data))
    number = 0
    while True:
        sample = user_code.guarded(file, lambda: next(samples, _END))
        if sample is _END:
            return
        number += 1
        where = f"{file.name}, sample {number}"
        if not isinstance(sample, Mapping):
            raise DataError(
                f"{where} is {kind(sample)}; a mapping with input_ids, labels and attention_mask "
                "is needed."
            )
        for field in ("input_ids", "labels"):
            if sample.get(field) is None:
                found = ", ".join(map(str, sample))
                raise DataError(
                    f"{where} has no {field} (found: {found}); add {field}, one number a token"
                    + (", -100 where nothing is to be learnt." if field == "labels" else ".")
                )
        try:
            yield Located(where, _tokens(sample))
        except UnusableError as problem:
            yield BadRow(where, str(problem))


def _iterator(data: Iterable[object] | _MapStyle) -> Iterator[object]:
    if isinstance(data, Iterable):
        return iter(data)
    return (data[index] for index in range(len(data)))


def _tokens(sample: Mapping[str, Any]) -> Tokens:
    ids, labels = _numbers(sample, "input_ids"), _numbers(sample, "labels")
    masked = sample.get("attention_mask") is not None
    mask = _numbers(sample, "attention_mask") if masked else [1] * len(ids)
    if not len(ids) == len(labels) == len(mask):
        raise UnusableError(
            f"{len(ids)} input_ids, {len(labels)} labels and an attention_mask of {len(mask)}; "
            "the lengths must agree"
        )
    wrong = next((id_ for id_ in ids if not 0 <= id_ <= _HIGHEST), None)
    if wrong is not None:
        raise UnusableError(f"input_ids holds {wrong}; ids are 0 to {_HIGHEST}")
    wrong = next((x for x in labels if not 0 <= x <= _HIGHEST and x != _IGNORED), None)
    if wrong is not None:
        raise UnusableError(f"labels holds {wrong}; it may hold ids and {_IGNORED}")
    kept = [position for position, seen in enumerate(mask) if seen]
    return Tokens([ids[at] for at in kept], [labels[at] for at in kept])


def _numbers(sample: Mapping[str, Any], field: str) -> list[int]:
    """A list, numpy array or tensor as a list of whole numbers; a mask may be of true and false."""
    value = sample[field]
    value = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(value, list | tuple):
        raise UnusableError(f"{field} is {kind(value)}, a list of numbers is needed")
    for entry in value:
        true_or_false = isinstance(entry, bool) and field != "attention_mask"
        if not isinstance(entry, Integral) or true_or_false:
            shown = "a fraction" if isinstance(entry, float) else kind(entry)
            raise UnusableError(f"{field} holds {shown}; a flat list of whole numbers is needed")
    return [int(entry) for entry in value]
