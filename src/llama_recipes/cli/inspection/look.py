"""From the flags of a run to what it would train: made by the run's own functions, then counted."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console

from llama_recipes.checkpoint.store import publish
from llama_recipes.cli.inspection import as_html, as_json, terminal
from llama_recipes.cli.inspection.facts import Inspection
from llama_recipes.cli.inspection.samples import read_samples
from llama_recipes.configs.needs import warnings
from llama_recipes.configs.run import RunConfig
from llama_recipes.data import findings_run
from llama_recipes.data.example import Source
from llama_recipes.data.finding import Finding, Part
from llama_recipes.data.findings import findings_of
from llama_recipes.data.inspect import as_trained, mark
from llama_recipes.data.loader import Loader
from llama_recipes.data.prepare import Preparation
from llama_recipes.data.sameness import Overlap, copies, overlap
from llama_recipes.data.sources import open_source
from llama_recipes.data.splits import Splits
from llama_recipes.data.steps import fill
from llama_recipes.data.template import look_at_template
from llama_recipes.data.tokenizer import NAME_ANOTHER, Tokenizer, load_tokenizer
from llama_recipes.data.wording import Wording, read_places, read_wording
from llama_recipes.errors import ConfigError, DataError, writing
from llama_recipes.model.config import LlamaConfig
from llama_recipes.model.source import open_model
from llama_recipes.monitoring.announce import FEW_STEPS
from llama_recipes.monitoring.screen import Screen
from llama_recipes.parallel.world import CPU_ALONE
from llama_recipes.running import preflight
from llama_recipes.running.parts import make_loaders, make_schedule, open_documents, tokenizer_path
from llama_recipes.running.resolve import resolve, with_tokens_of

if TYPE_CHECKING:
    from llama_recipes.cli.inspect import InspectFlags

_WIDTH = 100
"""Columns where the output is no terminal."""


def inspect_run(flags: InspectFlags, config: RunConfig) -> None:
    """Show it, and write it where the flags say. Raises DataError where the run itself would stop
    at its data, or where there are findings and `strict` was asked for."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH)
    screen = Screen(console)
    shown = look(flags, config, screen)
    terminal.show(shown, console)
    for flag, path, render in (
        ("html", flags.html, as_html.page),
        ("json", flags.json_file, as_json.as_text),
    ):
        if path:
            with writing(f"--{flag} {path}", "Make room, or name another file.", kind=ConfigError):
                publish(Path(path).expanduser(), render(shown).encode())
            screen.line(f"Written: {path}")
    if shown.refused:
        raise DataError(shown.refused)
    if flags.strict and shown.findings:
        names = ", ".join(dict.fromkeys(finding.name for finding in shown.findings))
        raise DataError(
            f"--strict: there are findings ({names}). Do what is written beside them, or leave"
            " --strict out."
        )


class Opened(NamedTuple):
    """refused: why the run itself would stop at this data; empty where it would not."""

    config: RunConfig
    splits: Splits
    tokenizer: Tokenizer
    model: LlamaConfig
    refused: str


def look(flags: InspectFlags, config: RunConfig, screen: Screen) -> Inspection:
    """All that there is to show. Raises LlamaRecipesError."""
    for warning in warnings(config):
        screen.warn(warning)
    opened = _open(config, screen)
    config, splits, tokenizer = opened.config, opened.splits, opened.tokenizer
    train = config.train_config
    preflight.check_vocabulary(splits, tokenizer, opened.model)
    loader, eval_loader = make_loaders(
        train, splits, tokenizer, opened.model.vocab_size, screen, CPU_ALONE
    )
    # N processes take N micro-batches at a time, of the order that one alone would take them in.
    a_step = train.gradient_accumulation_steps * flags.processes
    together = train.model_copy(update={"gradient_accumulation_steps": a_step})
    schedule = make_schedule(together, loader, screen)
    parts, sources = _parts(config, loader, eval_loader, splits, tokenizer)
    shown = Inspection(
        config=config,
        tokenizer=tokenizer,
        parts=parts,
        overlap=_overlap(parts),
        template=look_at_template(tokenizer),
        filling=fill(loader, parts[0].store, micro_batches_of_a_step=a_step),
        total_steps=schedule.total_steps,
        processes=flags.processes,
        samples=read_samples(
            loader,
            flags.samples,
            accumulation=train.gradient_accumulation_steps,
            processes=flags.processes,
        ),
        refused=opened.refused,
    )
    shown.findings = _findings(shown)
    shown.places = _places(shown, sources)
    return shown


def _open(config: RunConfig, screen: Screen) -> Opened:
    """As the run does before it makes its model, without reading a weight."""
    source = open_model(config.train_config.model_name)
    tokenizer = load_tokenizer(tokenizer_path(config.train_config, source), or_else=NAME_ANOTHER)
    known_tokens = source.config.vocab_size
    source = with_tokens_of(tokenizer, source, config.train_config, screen)
    extended = source.config.vocab_size > known_tokens
    config, _ = resolve(config, source.config, screen, extended=extended)
    refused = ""
    try:
        splits = open_documents(config, tokenizer, screen, CPU_ALONE)
    except DataError as error:
        without = _without_bad_rows(config)
        if without == config:
            raise
        try:
            splits = open_documents(without, tokenizer, screen, CPU_ALONE)
        except DataError:
            raise error from None  # it was not about single rows
        screen.warn("Some rows would stop the run; it is looked at without them.")
        config, refused = without, str(error)
    return Opened(config, splits, tokenizer, source.config, refused)


def _without_bad_rows(config: RunConfig) -> RunConfig:
    """The same run where rows that cannot be used are left out."""
    train, name = config.train_config, config.train_config.dataset
    changes: dict[str, Any] = {}
    if "on_bad_row" in type(config.dataset).model_fields:
        changes[name] = config.dataset.model_copy(update={"on_bad_row": "skip"})
    if train.truncation == "error":
        changes["train_config"] = train.model_copy(update={"truncation": "drop"})
    return config.model_copy(update=changes)


def _parts(
    config: RunConfig,
    loader: Loader,
    eval_loader: Loader | None,
    splits: Splits,
    tokenizer: Tokenizer,
) -> tuple[list[Part], dict[str, Source]]:
    """The parts, and where the rows of each come from; nothing for ready-made ids."""
    parts: list[Part] = []
    sources: dict[str, Source] = {}
    read: dict[str, Wording] = {}
    for name, own in (("training", loader), ("validation", eval_loader)):
        if own is None:
            continue
        form = splits.format
        if form != "tokens":
            split = "train" if name == "training" else "validation"
            source = open_source(config.dataset, split, tokenizer=tokenizer)  # type: ignore[arg-type]
            if source is None:  # a share of the training part's rows
                sources[name], read[name] = sources["training"], read["training"]
            else:
                sources[name], read[name] = source, read_wording(source, tokenizer)
            form = sources[name].format
        store = as_trained(own)
        marks = mark(store, tokenizer, form)
        parts.append(
            Part(name, store, form, marks, copies(marks, marks.prompts > 1), read.get(name))
        )
    return parts, sources


def _overlap(parts: list[Part]) -> Overlap | None:
    if len(parts) < 2:
        return None
    training, validation = parts
    alike = None
    if training.wording is not None and validation.wording is not None:
        alike = (
            training.wording.hashes(training.store.rows),
            validation.wording.hashes(validation.store.rows),
        )
    return overlap(
        training.marks,
        validation.marks,
        alike=alike,
        has_prompt=(training.has_prompt, validation.has_prompt),
    )


def _findings(shown: Inspection) -> list[Finding]:
    train = shown.config.train_config
    how = Preparation(train.context_length, train.truncation, train.train_on_prompt)
    training = shown.parts[0]
    found = [findings_run.refused(shown.refused)] if shown.refused else []
    found += findings_run.about_template(
        shown.template, is_used=any(part.form == "chat" for part in shown.parts)
    )
    for part in shown.parts:
        overlapping = shown.overlap if part is not training else None
        found += findings_of(part, how, overlapping, training)
    return found + findings_run.about_steps(
        shown.filling,
        total_steps=shown.total_steps,
        few=FEW_STEPS,
        is_limited=bool(train.max_train_step),
        padded=train.batching_strategy == "padding",
    )


def _places(shown: Inspection, sources: dict[str, Source]) -> dict[str, dict[int, str]]:
    """Where the rows stand that examples and samples name."""
    wanted: dict[str, set[int]] = defaultdict(set)
    for finding in shown.findings:
        wanted[finding.part].update(finding.rows)
        wanted["training"].update(finding.matches)
    wanted["training"].update(sample.data_row for sample in shown.samples)
    return {
        part: read_places(sources[part], rows)
        if part in sources
        else {row: f"sample {row}" for row in rows}
        for part, rows in wanted.items()
    }
