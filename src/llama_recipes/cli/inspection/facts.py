"""What was found, as lines and tables of text: the terminal and the page show the same."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from llama_recipes.cli.inspection.samples import Sample
from llama_recipes.configs.run import RunConfig
from llama_recipes.data.finding import Finding, Part
from llama_recipes.data.sameness import Overlap
from llama_recipes.data.spread import Spread, spread
from llama_recipes.data.steps import Filling
from llama_recipes.data.template import Template
from llama_recipes.data.tokenizer import Tokenizer

SPREAD_COLUMNS = ("min", "25%", "median", "75%", "95%", "99%", "max")
HOW_TO_READ = (
    "A trained token is one that is predicted, from the tokens before it in its own document; the"
    " loss is taken one place before it. Nothing predicts the first token of a document."
)


@dataclass
class Inspection:
    """All that is shown. parts: training first. places: of rows, by part and number. refused: why
    the run itself would stop at its data, where it would."""

    config: RunConfig
    tokenizer: Tokenizer
    parts: list[Part]
    overlap: Overlap | None
    template: Template | None
    filling: Filling
    total_steps: int
    processes: int
    samples: list[Sample]
    findings: list[Finding] = field(default_factory=list)
    places: dict[str, dict[int, str]] = field(default_factory=dict)
    refused: str = ""

    def place(self, part: str, row: int) -> str:
        return self.places.get(part, {}).get(row) or f"row {row}"


def figures(shown: Inspection) -> list[tuple[str, list[str]]]:
    """Name and one value a part."""
    columns = [_figures(part) for part in shown.parts]
    lines = [(name, [column[name] for column in columns]) for name in columns[0]]
    if shown.overlap is not None:
        for name, hit in (
            ("in the training part, token for token", shown.overlap.same),
            ("the same but for case and space", shown.overlap.alike),
            ("prompt trained with another answer", shown.overlap.prompt),
        ):
            lines.append((name, ["", _count(int(hit.sum()), len(hit))]))
    return lines


def _figures(part: Part) -> dict[str, str]:
    store, marks, counts = part.store, part.marks, part.store.report["counts"]
    tokens, cut = int(store.lengths.sum()), store.cut
    rows = counts.get("rows")
    ends = int(marks.ends.sum())
    alike = near_copies(part)
    return {
        "rows read": f"{rows:,}" if rows else "",
        "left out as bad": _count(counts.get("bad_rows", 0), rows or 0),
        "left out as too long": _count(counts.get("too_long", 0), rows or 0),
        "left out, nothing trained": _count(counts.get("no_supervised_token", 0), rows or 0),
        "documents": f"{len(store):,}",
        "cut to context_length": _count(int((cut > 0).sum()), len(store)),
        "tokens cut off": f"{int(cut.sum()):,}",
        "tokens": f"{tokens:,}",
        "trained tokens": _count(int(store.supervised.sum()), tokens),
        "documents that train their stop": _count(ends, len(store)),
        "copies of a document before": _count(len(part.copies.copies), len(store)),
        "copies but for case and space": (
            "no text" if alike is None else _count(alike, len(store))
        ),
        "prompt is there with other answers": _count(part.copies.other_answers, len(store)),
    }


def near_copies(part: Part) -> int | None:
    """Documents whose row is there before, but for case and white space, and is no exact copy."""
    if part.wording is None:
        return None
    alike = part.wording.hashes(part.store.rows)
    _, first = np.unique(alike, return_index=True)
    again = np.ones(len(alike), bool)
    again[first] = False
    again[part.copies.copies] = False
    return int(again.sum())


def spreads(part: Part) -> dict[str, Spread]:
    return {
        "tokens": spread(part.store.lengths),
        "trained": spread(part.store.supervised),
        "before trained": spread(part.marks.prompts),
    }


def spread_cells(values: Spread) -> list[str]:
    numbers = (
        values.smallest, values.p25, values.median, values.p75, values.p95, values.p99,
        values.largest,
    )  # fmt: skip
    return [f"{number:,}" for number in numbers]


def steps(shown: Inspection) -> list[tuple[str, str]]:
    """How documents fill rows and steps, name and value."""
    train, filling = shown.config.train_config, shown.filling
    of_steps, supervised = filling.tokens_of_steps, filling.supervised_of_steps
    packed = train.batching_strategy == "packing"
    computed = "what is left of a row is not computed" if packed else "the rest is padding"
    limit = f", stopped by --max_train_step {train.max_train_step}" if train.max_train_step else ""
    epochs = f"{train.num_epochs} epoch{'s' if train.num_epochs > 1 else ''}"
    share = f", {shown.processes} processes" if shown.processes > 1 else ""
    return [
        ("batching", f"{train.batching_strategy}, context_length {train.context_length:,}"),
        ("rows in the first epoch", f"{filling.rows:,}"),
        ("slots filled", f"{_count(filling.tokens, filling.slots)}: {computed}"),
        ("padding", _count(filling.padding, filling.slots)),
        ("micro-batches in the first epoch", f"{filling.micro_batches:,}"),
        ("micro-batches in a step", f"{filling.micro_batches_of_a_step:,}{share}"),
        ("optimizer steps in the first epoch", f"{filling.steps:,}"),
        ("optimizer steps in all", f"{shown.total_steps:,} ({epochs}{limit})"),
        ("tokens in a step", _range(of_steps)),
        ("trained tokens in a step", _range(supervised)),
        ("steps with nothing trained", _count(filling.idle_steps, filling.steps)),
    ]


def _range(values: Spread) -> str:
    return f"{values.median:,} (median), {values.smallest:,} to {values.largest:,}"


def prompts(shown: Inspection) -> list[tuple[str, str]]:
    """How prompts and labels are made, name and value."""
    tokenizer, train = shown.tokenizer, shown.config.train_config
    form = shown.parts[0].form
    stops = [tokenizer.decode([id_]) for id_ in tokenizer.stop_ids]
    lines = [
        ("prompt format", form),
        ("labels", _labels(form, train_on_prompt=train.train_on_prompt)),
        ("stop tokens", " ".join(map(_quoted, stops)) or "none"),
        ("padding token", _padding(tokenizer)),
    ]
    if form == "chat" and shown.template is not None:
        template = shown.template
        lines += [
            ("template, in front", _quoted(template.before)),
            ("template, asks with", _quoted(template.asks)),
            ("template, trained before an answer", _quoted(template.opens)),
            ("template, behind an answer", _quoted(template.closes)),
        ]
        if template.marks_answers:
            lines.append(("template, {% generation %}", "is there, and not needed"))
    return lines


def _padding(tokenizer: Tokenizer) -> str:
    name = _quoted(tokenizer.decode([tokenizer.pad_id]))
    if tokenizer.pad_id not in tokenizer.stop_ids:
        return f"{name}, never trained"
    return f"{name}, a stop token: trained at the end of an answer, never as padding"


def _labels(form: str, *, train_on_prompt: bool) -> str:
    if form == "tokens":
        return "the data set's own"
    if train_on_prompt:
        return "every token (--train_on_prompt)"
    if form == "chat":
        return "assistant turns with their end: what the template adds to the question it asks"
    return "the text and EOS" if form == "text" else "the answer and EOS, not the prompt"


def headline(finding: Finding) -> str:
    """`3 of 40 documents are …`"""
    if not finding.of:
        return finding.what
    if finding.count == finding.of:
        return f"{_all(finding)} {finding.what}"
    return f"{finding.count:,} of {finding.of:,} {finding.what}"


def _all(finding: Finding) -> str:
    return f"{finding.count:,}" if finding.part == "run" else f"All {finding.count:,}"


def examples(shown: Inspection, finding: Finding) -> list[str]:
    """Where the first rows of a finding stand."""
    said = [shown.place(finding.part, row) for row in finding.rows]
    if not finding.matches:
        return said
    others = [shown.place("training", row) for row in finding.matches]
    return [f"{place} = {other}" for place, other in zip(said, others, strict=True)]


def sample_title(shown: Inspection, sample: Sample) -> str:
    process = f", process {sample.process}" if shown.processes > 1 else ""
    where = f", {shown.place('training', sample.data_row)}" if sample.data_row else ""
    row = f"row {sample.row}, document {sample.place} of {sample.documents_of_row}"
    return f"Step {sample.step}{process}, micro-batch {sample.micro_batch}, {row}{where}"


def sample_note(sample: Sample) -> str:
    trained = sum(label >= 0 for label in sample.labels)
    padding = f", {sample.padding:,} of padding" if sample.padding else ""
    return f"{len(sample.ids):,} tokens, {trained:,} trained{padding}"


def visible(text: str) -> str:
    """Line ends and tabs with a sign before them; no control characters for the terminal."""
    signs = {"\n": "⏎\n", "\t": "⇥\t", "\r": "␍"}
    return "".join(
        signs.get(char) or (char if char.isprintable() else f"\\x{ord(char):02x}") for char in text
    )


def _quoted(text: str) -> str:
    return repr(text) if text else "nothing"


def _count(number: int, of: int) -> str:
    return f"{number:,} ({number / of:.1%})" if number and of else f"{number:,}"
