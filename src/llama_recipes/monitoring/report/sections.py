"""The parts of a report below its head: each takes a run, and is empty where it has nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llama_recipes.configs.settings import SECTIONS, SETTINGS, Setting
from llama_recipes.monitoring.report.commands import go_on, recipes
from llama_recipes.monitoring.report.counted import counted
from llama_recipes.monitoring.report.files import SAMPLES_FILE, RunFiles
from llama_recipes.monitoring.report.markup import (
    block,
    card,
    excerpt,
    folded,
    paragraph,
    section,
    table,
    text,
)
from llama_recipes.monitoring.report.scale import number_text
from llama_recipes.monitoring.report.summary import leftover_results
from llama_recipes.monitoring.results import LAST, RESULTS_FILE
from llama_recipes.monitoring.run_log import METRICS_FILE

_MOST_SAMPLES = 20
_MOST_CHARACTERS = 2500
"""Of a prompt or an answer; all of them are in samples.json."""
_LEFT_OUT = {
    "bad_rows": "Bad rows, skipped",
    "too_long": "Dropped as too long",
    "no_supervised_token": "Dropped without a trained token",
    "truncated": "Cut to context_length",
    "without_stop_token": "Without a stop token",
}
"""What preparing the data counts (`data.prepare`)."""


def warnings(run: RunFiles) -> str:
    said = [str(warning) for warning in run.facts.get("warnings", [])]
    if run.cut_lines:
        said.append(f"A kill left the last line of {METRICS_FILE} unfinished: it is not shown.")
    if not said:
        return ""
    lines = "".join(f"<li>{text(line)}</li>" for line in said)
    return section("Warnings", card(f'<ul class="warnings">{lines}</ul>'))


def samples(run: RunFiles) -> str:
    """The same documents answered before the first step and after the last."""
    title = "Answers before and after"
    left_out = str(run.samples.get("left_out") or "")
    examples = run.samples.get("examples", [])
    if not examples:
        if not left_out and not run.setting("train_config.report_samples"):
            left_out = "report_samples is 0."
        return section(title, card(paragraph(f"Left out: {left_out}"))) if left_out else ""
    shown = examples[:_MOST_SAMPLES]
    more = len(examples) - len(shown)
    rest = f" {more} more are in {SAMPLES_FILE}." if more else ""
    return section(
        title,
        paragraph(_how_asked(run) + rest, "soft"),
        *(_sample(number, example) for number, example in enumerate(shown, 1)),
    )


def _how_asked(run: RunFiles) -> str:
    samples = run.samples
    step, note = samples.get("after_step"), str(samples.get("note") or "")
    where = f", which are in {LAST}/" if LAST in run.saved else ""
    last = f" After: with the weights of the last step, {number_text(step)}{where}."
    after = "" if step is None else last
    return (
        f"Documents of the {samples.get('part', 'validation')} part, asked by what stands before"
        f" their answer; the likeliest tokens, at most {samples.get('max_new_tokens')}."
        f"{after}{' ' if note else ''}{note}"
    )


def _sample(number: int, example: Mapping[str, Any]) -> str:
    answers = [
        f'<div class="{name}"><h4>{title}</h4>'
        f"{block(excerpt(example[name], _MOST_CHARACTERS) or '&nbsp;')}</div>"
        for name, title in (("reference", "Reference"), ("before", "Before"), ("after", "After"))
        if example.get(name) is not None
    ]
    prompt = excerpt(example.get("prompt", ""), _MOST_CHARACTERS)
    return (
        f'<article class="card sample"><h3>Document {number}</h3>'
        f'<div style="margin-top:8px">{block(prompt, "prompt")}</div>'
        f'<div class="answers">{"".join(answers)}</div></article>'
    )


def data(run: RunFiles) -> str:
    parts: Mapping[str, Mapping[str, Any]] = run.facts.get("data", {})
    if not parts:
        return ""
    rows: list[list[object]] = [
        ["Documents", *(number_text(part.get("documents")) for part in parts.values())],
        ["Tokens", *(number_text(part.get("tokens")) for part in parts.values())],
        ["Trained tokens", *map(_trained, parts.values())],
    ]
    rows += [
        [f"{name.capitalize()} document", *(_length(part, name) for part in parts.values())]
        for name in ("shortest", "median", "longest")
    ]
    rows += [
        [words, *counts]
        for name, words in _LEFT_OUT.items()
        if any(counts := [_count(part, name) for part in parts.values()])
    ]
    heads = ["", *(f"{name.capitalize()} part" for name in parts)]
    columns = range(1, len(heads))
    return section("Data", card(table(rows, heads=heads, numbers=columns), _rows_of_a_step(run)))


def _trained(part: Mapping[str, Any]) -> str:
    tokens, trained = part.get("tokens"), part.get("supervised_tokens")
    share = f" ({100 * trained / tokens:.0f}%)" if tokens and trained is not None else ""
    return f"{number_text(trained)}{share}"


def _length(part: Mapping[str, Any], name: str) -> str:
    lengths = part.get("lengths")
    return f"{number_text(lengths.get(name))} tokens" if isinstance(lengths, dict) else "–"


def _count(part: Mapping[str, Any], name: str) -> int:
    counts = part.get("counts")
    return int(counts.get(name) or 0) if isinstance(counts, dict) else 0


def _rows_of_a_step(run: RunFiles) -> str:
    rows = run.setting("train_config.batch_size_training")
    times = run.setting("train_config.gradient_accumulation_steps")
    processes = run.facts.get("processes", 1)
    packed = run.setting("train_config.batching_strategy") == "packing"
    how = "packed side by side, none seeing another" if packed else "padded to the longest"
    factors = f"{rows} row{'s' if rows > 1 else ''}"
    factors += f" × {times} micro-batches" if times > 1 else ""
    factors += f" × {processes} processes" if processes > 1 else ""
    return paragraph(f"A step is {factors}; documents are {how}.", "note below")


def settings(run: RunFiles) -> str:
    """Those that differ from the default, with what they mean; the rest folded away."""
    changed = [
        [setting.flag, _value(run.changed[key]), setting.default_text, setting.meaning]
        for key, setting in SETTINGS.items()
        if key in run.changed and _value(run.changed[key]) != setting.default_text
    ]
    heads = ["Flag", "Value", "Default", "Meaning"]
    table_of_changed = table(changed, heads=heads, stacked=True) if changed else paragraph("None.")
    rest = [_section_of(name, run) for name in SECTIONS]
    return section(
        "Settings that differ from the default",
        card(table_of_changed, folded("All settings", *rest)),
    )


def _section_of(name: str, run: RunFiles) -> str:
    mine = [setting for setting in SETTINGS.values() if setting.section == name]
    rows = [[setting.name, _as_resolved(setting, run)] for setting in mine]
    return f"<h3>{text(name)}</h3>{table(rows)}" if rows else ""


def _as_resolved(setting: Setting, run: RunFiles) -> str:
    if setting.key in run.changed:
        return _value(run.changed[setting.key])
    return setting.open_default_text if setting.has_open_default else setting.default_text


def _value(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def machine(run: RunFiles) -> str:
    """Where it ran, and all figures of results.json."""
    facts = run.facts
    total, trained = facts.get("parameters"), facts.get("trained_parameters")
    versions = facts.get("versions")
    said = versions.items() if isinstance(versions, dict) else ()
    rows = [
        ("Device", facts.get("device")),
        ("Processes", facts.get("processes")),
        ("Computed in", facts.get("computed_in")),
        ("Parameters", None if total is None else number_text(total)),
        ("Trained parameters", _share(trained, total)),
        *counted(run),
        ("Versions", ", ".join(f"{name} {version}" for name, version in said) or None),
    ]
    known = [[name, value] for name, value in rows if value is not None]
    results = leftover_results(run)
    every = folded(f"All figures of {RESULTS_FILE}", table(results)) if results else ""
    return section("Machine and cost", card(table(known), every)) if known or results else ""


def _share(trained: object, total: object) -> str | None:
    if not isinstance(trained, int) or not isinstance(total, int) or not total:
        return None
    return f"{number_text(trained)} ({100 * trained / total:.3g}%)"


def next_steps(run: RunFiles) -> str:
    """What to do with the run now, as commands."""
    cards = [
        f'<div class="card"><h3>{text(recipe.title)}</h3>'
        f"{block(text(chr(10).join(recipe.lines)))}{paragraph(recipe.note, 'note')}</div>"
        for recipe in [*go_on(run), *recipes(run)]
    ]
    if not cards:
        return ""
    return section("Use the result", f'<div class="recipes">{"".join(cards)}</div>')
