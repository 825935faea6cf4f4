"""From a data source to a token store: tokenised in parallel, once, and found again later."""

from __future__ import annotations

import atexit
import hashlib
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryFile, mkdtemp
from typing import Any, NamedTuple

import numpy as np
from platformdirs import user_cache_path

import llama_recipes
from llama_recipes.data.example import BadRow, Example, Source
from llama_recipes.data.store import DamagedStoreError, TokenStore, open_store, write_store
from llama_recipes.data.tokenize import Document, Rejected, Truncation, encode, fit
from llama_recipes.data.tokenizer import Tokenizer
from llama_recipes.data.workers import in_order
from llama_recipes.errors import DataError

_PROBLEMS_SHOWN = 20
_LIBRARIES = ("transformers", "tokenizers", "jinja2")
"""What turns text into ids besides this package's own code."""


@dataclass(frozen=True)
class Preparation:
    """What decides how a row becomes a document; every field is part of the cache's key."""

    context_length: int
    truncation: Truncation
    train_on_prompt: bool


def prepare(
    source: Source,
    tokenizer: Tokenizer,
    how: Preparation,
    *,
    notify: Callable[[str], None] = lambda _: None,
) -> TokenStore:
    """The documents of `source`, from the cache where the same have been prepared before.

    Raises DataError for bad rows (unless the source skips them), for documents that are too long
    where that is an error, and where nothing is left to train on.
    """
    notify(source.description)
    folder = _cache_folder(source, tokenizer, how)
    if folder is not None and folder.is_dir():
        try:
            return open_store(folder)
        except DamagedStoreError:
            notify(f"What was kept of it in {folder} is damaged, and is made anew.")
            shutil.rmtree(folder, ignore_errors=True)
    notify("Tokenising …")
    counts: Counter[str] = Counter()
    report: dict[str, Any] = {"counts": counts}
    documents = _documents(source, tokenizer, how, report)
    if folder is not None and not _can_hold_files(folder.parent):
        notify(f"{folder.parent} cannot be written to: nothing is kept for the next run.")
        folder = None
    if folder is None:
        # Or made by the user's own code, which may give something else next time.
        temporary = mkdtemp(prefix="llama_recipes-")
        atexit.register(shutil.rmtree, temporary, ignore_errors=True)
        folder = Path(temporary) / "documents"
    try:
        return write_store(folder, documents, report)
    except OSError as error:
        raise DataError(
            f"The tokenised data set could not be written to {folder.parent}:"
            f" {error.strerror or error}. Make room there."
        ) from error


def _cache_folder(source: Source, tokenizer: Tokenizer, how: Preparation) -> Path | None:
    if source.fingerprint is None:
        return None
    key = (source.fingerprint, source.on_bad_row, tokenizer.fingerprint, how, _code_version())
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).hexdigest()
    return user_cache_path("llama_recipes") / "datasets" / f"{source.name}-{digest}"


def _can_hold_files(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _code_version() -> str:
    """Hash of the code that turns rows into tokens: a changed line is another cache entry."""
    digest = hashlib.blake2b(llama_recipes.__version__.encode())
    for library in _LIBRARIES:
        digest.update(f"{library} {metadata.version(library)}\n".encode())
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _documents(
    source: Source, tokenizer: Tokenizer, how: Preparation, report: dict[str, Any]
) -> Iterator[Document]:
    """Yield what can be trained on; count, and raise for, what cannot."""
    counts: Counter[str] = report["counts"]
    problems: list[str] = []
    places: deque[tuple[int, str]] = deque()  # of the rows that are being tokenised

    def note_bad_row(text: str) -> None:
        counts["bad_rows"] += 1
        if source.on_bad_row == "error":
            problems.append(text)
        elif counts["bad_rows"] <= _PROBLEMS_SHOWN:
            report.setdefault("bad_rows_shown", []).append(text)

    def good_rows() -> Iterator[Example]:
        for row in source.rows():
            counts["rows"] += 1
            if isinstance(row, BadRow):
                note_bad_row(f"{row.where}: {row.reason}")
            else:
                places.append((counts["rows"], row.where))
                yield row.example
            if len(problems) >= _PROBLEMS_SHOWN:
                return

    tokenise = partial(_tokenise, tokenizer=tokenizer, how=how)
    for document, ends in in_order(tokenise, good_rows()):
        number, where = places.popleft()
        if isinstance(document, Rejected):
            explained = f"{where}: {document.reason}"
            if document.kind == "bad_rows":
                note_bad_row(explained)
                continue
            counts[document.kind] += 1
            if document.kind == "too_long" and how.truncation == "error":
                problems.append(explained)
            continue
        counts["documents"] += 1
        counts["truncated"] += document.cut > 0
        # A model that never sees a stop token never learns to stop; ready-made ids may mean it so.
        counts["without_stop_token"] += not ends and source.format != "tokens"
        yield replace(document, row=number)
    if problems:
        raise DataError(_explain(source, how, problems, counts))
    if not counts["documents"]:
        raise DataError(_explain_nothing(source, counts, report.get("bad_rows_shown", [])))


def split_off(store: TokenStore, fraction: float, *, seed: int) -> tuple[TokenStore, TokenStore]:
    """Training and validation part: `fraction` of the documents, drawn once from `seed`.

    Each gets at least one; what was left out is reported of the training part alone. Raises
    DataError where there is only one.
    """
    if len(store) < 2:
        raise DataError(
            "The data set has a single document, so none can be kept apart for validation. Give"
            " more, or leave --file_dataset.validation_fraction out."
        )
    held_out = min(max(round(fraction * len(store)), 1), len(store) - 1)
    order = np.random.default_rng(seed).permutation(len(store))
    return (
        store.subset(np.sort(order[held_out:])),
        store.subset(
            np.sort(order[:held_out]), report={**store.report, "counts": {}, "bad_rows_shown": []}
        ),
    )


def _explain(
    source: Source, how: Preparation, problems: Sequence[str], counts: Counter[str]
) -> str:
    shown = "\n  ".join(problems[:_PROBLEMS_SHOWN])
    more = len(problems) - _PROBLEMS_SHOWN
    rest = f"\n  … and {more} more" if more > 0 else ""
    # Reading stops once there are that many.
    number = f"at least {len(problems)}" if more >= 0 else str(len(problems))
    rows = "1 row" if len(problems) == 1 else f"{number} rows"
    advice = ["mend the data"]
    if counts["bad_rows"] and source.on_bad_row == "error":
        advice.append("leave bad rows out with --on_bad_row skip")
    if counts["too_long"] and how.truncation == "error":
        advice.append(
            "leave long ones out with --truncation drop or cut them with --truncation end"
        )
    return (
        f"{source.description}: {rows} cannot be used:\n  {shown}{rest}\n"
        f"{', or '.join(advice).capitalize()}."
    )


def _explain_nothing(source: Source, counts: Counter[str], bad_rows: Sequence[str]) -> str:
    if not counts["rows"]:
        return f"{source.description}: the data set is empty. Give one that has rows."
    kinds = {
        "bad_rows": "bad",
        "too_long": "too long",
        "no_supervised_token": "no supervised token",
    }
    why = ", ".join(f"{counts[kind]} {words}" for kind, words in kinds.items() if counts[kind])
    rows = "its only row" if counts["rows"] == 1 else f"any of its {counts['rows']} rows"
    first = f" The first bad row is {bad_rows[0]}." if bad_rows else ""
    return (
        f"{source.description}: no supervised token is left in {rows} ({why}).{first} Raise"
        " --context_length, or check that the rows have answers."
    )


class Tokenised(NamedTuple):
    """A document, and whether a stop token of it was to be trained before it was cut."""

    document: Document | Rejected
    ends: bool = False


def _tokenise(
    examples: Sequence[Example], *, tokenizer: Tokenizer, how: Preparation
) -> list[Tokenised]:
    results: list[Tokenised] = []
    try:
        documents = encode(examples, tokenizer, train_on_prompt=how.train_on_prompt)
    except DataError as error:
        if tokenizer.chat_template is None:  # no row's fault
            raise
        if len(examples) > 1:  # which of them it was
            return [_tokenise([one], tokenizer=tokenizer, how=how)[0] for one in examples]
        return [Tokenised(Rejected("bad_rows", str(error)))]
    for document in documents:
        fitted = fit(document, how.context_length, how.truncation)
        ends = bool(np.isin(document.labels, tokenizer.stop_ids).any())
        results.append(Tokenised(fitted, ends))
    return results
