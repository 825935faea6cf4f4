"""What about the data ruins a run, as sentences: how many documents, which ones, and the cure.

Each rule looks at what was counted, and stays silent below the share that it names: a finding is
something to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llama_recipes.data.example import Format
from llama_recipes.data.inspect import Flags, Marks
from llama_recipes.data.prepare import Preparation
from llama_recipes.data.sameness import Copies, Overlap
from llama_recipes.data.store import TokenStore
from llama_recipes.data.wording import Wording

NOTEWORTHY = 0.01
"""Share of the documents, or of the rows, from which most findings are made."""
MANY_COPIES = 0.05
FEW_SUPERVISED = 0.01
"""Share of the tokens that are trained, below which hardly anything is learnt from a step."""
NEARLY_CONSTANT = 0.9
ENOUGH_TO_COMPARE = 10
"""Documents from which it says something that nearly all answers are equal."""
MOST = 0.5
EXAMPLES = 5


@dataclass(frozen=True)
class Finding:
    """`name` is for programs; `what` and `fix` are sentences for people.

    part: training, validation or run. count documents or rows `of` so many. rows: the numbers, from
    1, of the first in their part of the data set; matches: for each the row of the training part
    that it equals, where that is what was found.
    """

    name: str
    part: str
    count: int
    of: int
    what: str
    fix: str
    rows: tuple[int, ...] = ()
    matches: tuple[int, ...] = ()

    @property
    def share(self) -> float:
        return self.count / self.of if self.of else 0.0


@dataclass(frozen=True)
class Part:
    """One part of a data set and what was counted of it.

    wording: None for ready-made ids, which have no text.
    """

    name: str
    store: TokenStore
    form: Format
    marks: Marks
    copies: Copies
    wording: Wording | None

    @property
    def has_prompt(self) -> Flags:
        """Documents that are asked something before they are trained: more than a BOS."""
        return self.marks.prompts > 1


def findings_of(
    part: Part, how: Preparation, overlap: Overlap | None, other: Part
) -> list[Finding]:
    """All of one part. overlap: of the validation part with `other`, the training part."""
    found = [
        *_left_out(part, how),
        *_labels(part, how),
        *_tokens(part),
        *_words(part),
        *(_answers(part) if part.name == "training" else ()),
        *(_leaks(part, overlap, other) if overlap else ()),
    ]
    return [finding for finding in found if finding.count]


def _left_out(part: Part, how: Preparation) -> Iterator[Finding]:
    counts = part.store.report["counts"]
    rows = counts.get("rows", 0)
    bad, long, silent = (
        counts.get(kind, 0) for kind in ("bad_rows", "too_long", "no_supervised_token")
    )
    shown = "; ".join(part.store.report.get("bad_rows_shown", [])[:EXAMPLES])
    if bad >= NOTEWORTHY * rows:
        yield Finding("bad_rows", part.name, bad, rows,
                      f"rows cannot be used and are left out: {shown}.",
                      "Mend these rows, or take them out of the data.")  # fmt: skip
    if long >= NOTEWORTHY * rows:
        yield Finding("long_documents_dropped", part.name, long, rows,
                      f"rows have more than {how.context_length} tokens and are left out.",
                      "Raise --context_length, or keep their beginning with"
                      " --truncation end.")  # fmt: skip
    if silent >= NOTEWORTHY * rows:
        yield Finding("no_supervised_token", part.name, silent, rows,
                      "rows are left out because no token of them is trained: the prompt alone"
                      f" fills the {how.context_length} tokens, or there is no answer.",
                      "Raise --context_length, or shorten the prompts.")  # fmt: skip


def _labels(part: Part, how: Preparation) -> Iterator[Finding]:
    store, marks = part.store, part.marks
    cut, idle = store.cut > 0, store.supervised == 0
    yield _of_documents(
        "no_supervised_token", part, idle,
        "documents have nothing trained once get_data_collator's function is through with them.",
        "Let it keep the labels of the samples.",
    )  # fmt: skip
    longest = int((store.lengths + store.cut).max())
    yield _of_documents(
        "answers_cut", part, cut,
        f"documents are cut to {how.context_length} tokens, so that their answers end in the"
        " middle and no stop is learnt from them.",
        f"Raise --context_length (the longest has {longest} tokens), or leave such documents out"
        " with --truncation drop.",
    )  # fmt: skip
    silent = ~marks.ends & ~cut & ~idle & ~marks.stop_is_masked
    yield _of_documents(
        "stop_token_not_trained", part, silent,
        "documents are trained without a stop token at the end: the model does not learn when to"
        " stop.",
        "Let the chat template write an end of turn after each answer, or give a tokenizer that"
        " has an EOS token with --tokenizer_name.",
        least=MOST if part.form == "tokens" else NOTEWORTHY,
    )  # fmt: skip
    yield _of_documents(
        "stop_token_masked", part, marks.stop_is_masked & ~marks.ends,
        "documents end with a stop token that is not trained: most often the padding token is the"
        " stop token, and the labels of all padding were set to -100.",
        "In your --custom_dataset.file, mask padding by attention_mask and not by its id.",
    )  # fmt: skip
    yield _of_documents(
        "labels_shifted", part, marks.shifted,
        "documents have labels that are shifted already; training shifts them once more, and each"
        " token would learn the one after the next.",
        "In your --custom_dataset.file, let labels[t] be input_ids[t] where it is trained.",
    )  # fmt: skip
    yield _of_documents(
        "empty_answers", part, marks.only_stops,
        "documents have answers of nothing but a stop token: the model learns to say nothing.",
        "Take these rows out of the data.",
    )  # fmt: skip
    supervised, tokens = int(store.supervised.sum()), int(store.lengths.sum())
    if supervised < FEW_SUPERVISED * tokens:
        yield Finding(
            "few_supervised_tokens", part.name, supervised, tokens,
            "tokens are trained; all others are read for nothing.",
            "Shorten the prompts, or train on them too with --train_on_prompt.",
        )  # fmt: skip


def _tokens(part: Part) -> Iterator[Finding]:
    marks = part.marks
    yield _of_documents(
        "bos_twice", part, marks.begins_twice,
        "documents begin with two BOS tokens: one is put there, another stands in the data.",
        "Take the BOS token out of the text; a custom data set gives it once, or leaves it out.",
    )  # fmt: skip
    yield _of_documents(
        "unknown_tokens", part, marks.unknown > 0,
        "documents hold characters that the tokenizer does not know; they are lost.",
        "Take the tokenizer of the model, or one with these characters with --tokenizer_name.",
    )  # fmt: skip


_ABOUT_WORDS = {
    "control_tokens_in_text": (
        "rows spell a control token in their text ({said}), which becomes the token itself.",
        "Take it out: BOS and EOS are put there anyway. Conversations go into the field messages,"
        " without a template's markers.",
    ),
    "foreign_markers": (
        "rows hold the markers of another model's template as plain text ({said}).",
        "Turn them into messages with roles and contents, which get this model's own template:"
        " --file_dataset.format chat.",
    ),
    "replacement_characters": (
        "rows hold U+FFFD, which stands for characters that were lost ({said}).",
        "Read the source of these rows again, in its own encoding.",
    ),
    "mojibake": (
        "rows hold UTF-8 that was read in another encoding ({said}).",
        "Write them anew: text.encode('cp1252').decode('utf-8') undoes most of it.",
    ),
}


def _words(part: Part) -> Iterator[Finding]:
    if part.wording is None:
        return
    for name, (what, fix) in _ABOUT_WORDS.items():
        rows = np.asarray(part.wording.faults.get(name, ()), np.int64)
        said = repr(part.wording.said.get(name, ""))
        hit = np.isin(part.store.rows, rows)
        yield _of_documents(name, part, hit, what.format(said=said), fix)


def _answers(part: Part) -> Iterator[Finding]:
    """What makes a task too easy to learn anything from; of the training part alone."""
    store, marks, documents = part.store, part.marks, len(part.store)
    copies = part.copies
    if len(copies.copies) >= max(MANY_COPIES * documents, 2):
        yield Finding(
            "many_duplicates", part.name, len(copies.copies), documents,
            "documents are there more than once, token for token.",
            "Take the copies out, unless they are meant to weigh more.",
            rows=_rows(part, copies.copies), matches=_rows(part, copies.originals),
        )  # fmt: skip
    asked = part.has_prompt
    _, first, count = np.unique(marks.answer[asked], return_index=True, return_counts=True)
    if asked.sum() >= ENOUGH_TO_COMPARE and count.max() >= NEARLY_CONSTANT * asked.sum():
        usual = first[count.argmax()]
        hit = asked & (marks.answer == marks.answer[asked][usual])
        yield _of_documents(
            "constant_answers", part, hit,
            "documents have one and the same answer: the model learns to give it whatever it is"
            " asked.",
            "Check the field of the answers, and that classes are balanced.",
        )  # fmt: skip
    if part.wording is not None:
        long, holds = (
            np.isin(store.rows, np.asarray(rows, np.int64))
            for rows in (part.wording.long_answers, part.wording.faults.get(_HOLDS, ()))
        )
        if holds.sum() >= MOST * long.sum() and long.sum() >= NOTEWORTHY * documents:
            yield Finding(
                _HOLDS, part.name, int(holds.sum()), int(long.sum()),
                "documents with a longer answer have it in their prompt, word for word: copying is"
                f" all there is to learn ({part.wording.said.get(_HOLDS, '')!r}).",
                "Take the answers out of the prompts.", rows=_rows(part, np.flatnonzero(holds)),
            )  # fmt: skip


_HOLDS = "prompt_holds_answer"


def _leaks(part: Part, overlap: Overlap, training: Part) -> Iterator[Finding]:
    kinds = (
        ("validation_in_training", overlap.same, "are in the training part too, token for token"),
        ("validation_near_training", overlap.alike,
         "are in the training part too, but for case and white space"),
        ("validation_prompts_in_training", overlap.prompt,
         "have a prompt that is trained with another answer"),
    )  # fmt: skip
    for name, hit, what in kinds:
        places = np.flatnonzero(hit)
        yield Finding(
            name, part.name, len(places), len(hit),
            f"validation documents {what}: the evaluation's loss is too good to be true.",
            "Take them out of one of the parts, or give other rows with"
            " --file_dataset.validation_file.",
            rows=_rows(part, places), matches=_rows(training, overlap.match[places]),
        )  # fmt: skip


def _of_documents(
    name: str, part: Part, hit: Flags, what: str, fix: str, *, least: float = NOTEWORTHY
) -> Finding:
    """Of the documents that `hit` marks; of none where they are fewer than that share."""
    count = int(hit.sum())
    count = count if count >= least * len(hit) else 0
    rows = _rows(part, np.flatnonzero(hit)) if count else ()
    return Finding(name, part.name, count, len(hit), what, fix, rows)


def _rows(part: Part, documents: NDArray[np.int64]) -> tuple[int, ...]:
    """The rows of the first of these documents."""
    return tuple(part.store.rows[documents[:EXAMPLES]].tolist())
