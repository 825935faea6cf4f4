"""What about the data ruins a run, as sentences: how many documents, which ones, and the cure.

Each rule looks at what was counted, and stays silent below the share that it names: a finding is
something to do.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from llama_recipes.data.finding import EXAMPLES, NOTEWORTHY, Finding, Part, of_documents
from llama_recipes.data.findings_same import about_answers, about_leaks
from llama_recipes.data.prepare import Preparation
from llama_recipes.data.sameness import Overlap

FEW_SUPERVISED = 0.01
"""Share of the tokens that are trained, below which hardly anything is learnt from a step."""
MOST = 0.5


def findings_of(
    part: Part, how: Preparation, overlap: Overlap | None, other: Part
) -> list[Finding]:
    """All of one part. overlap: of the validation part with `other`, the training part."""
    found = [
        *_left_out(part, how),
        *_labels(part, how),
        *_tokens(part),
        *_words(part),
        *(about_answers(part) if part.name == "training" else ()),
        *(about_leaks(part, overlap, other) if overlap else ()),
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
    yield of_documents(
        "no_supervised_token", part, idle,
        "documents have nothing trained once get_data_collator's function is through with them.",
        "Let it keep the labels of the samples.",
    )  # fmt: skip
    longest = int((store.lengths + store.cut).max())
    yield of_documents(
        "answers_cut", part, cut,
        f"documents are cut to {how.context_length} tokens, so that their answers end in the"
        " middle and no stop is learnt from them.",
        f"Raise --context_length (the longest has {longest} tokens), or leave such documents out"
        " with --truncation drop.",
    )  # fmt: skip
    silent = ~marks.ends & ~cut & ~idle & ~marks.stop_is_masked
    yield of_documents(
        "stop_token_not_trained", part, silent,
        "documents are trained without a stop token at the end: the model does not learn when to"
        " stop.",
        "Let the chat template write an end of turn after each answer, or give a tokenizer that"
        " has an EOS token with --tokenizer_name.",
        least=MOST if part.form == "tokens" else NOTEWORTHY,
    )  # fmt: skip
    yield of_documents(
        "stop_token_masked", part, marks.stop_is_masked & ~marks.ends,
        "documents end with a stop token that is not trained: most often the padding token is the"
        " stop token, and the labels of all padding were set to -100.",
        "In your --custom_dataset.file, mask padding by attention_mask and not by its id.",
    )  # fmt: skip
    yield of_documents(
        "labels_shifted", part, marks.shifted,
        "documents have labels that are shifted already; training shifts them once more, and each"
        " token would learn the one after the next.",
        "In your --custom_dataset.file, let labels[t] be input_ids[t] where it is trained.",
    )  # fmt: skip
    yield of_documents(
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
    yield of_documents(
        "bos_twice", part, marks.begins_twice,
        "documents begin with two BOS tokens: one is put there, another stands in the data.",
        "Take the BOS token out of the text; a custom data set gives it once, or leaves it out.",
    )  # fmt: skip
    yield of_documents(
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
        yield of_documents(name, part, hit, what.format(said=said), fix)
