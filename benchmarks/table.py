"""From what was measured to the tables of README.md: every figure there is derived, none typed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks import memory_table, ranks_table
from benchmarks.row import Row, Section, number
from benchmarks.rows import ABSOLUTE, ROWS

README = Path(__file__).with_name("README.md")
RESULTS = Path(__file__).with_name("results.json")
BEGIN, END = "<!-- table -->", "<!-- /table -->"


def render(results: Mapping[str, Any]) -> str:
    """What stands between the markers."""
    sections: Mapping[str, Section] = results["sections"]
    rows = [row for name, make in ROWS.items() if name in sections for row in make(sections[name])]
    absolute = [
        line for name, make in ABSOLUTE.items() if name in sections for line in make(sections[name])
    ]
    return "\n".join(
        [
            *_head(results["machine"], sections),
            *(
                ["", "| | median | lowest to highest | aim | |", "|---|--:|--:|--:|---|"]
                if rows
                else []
            ),
            *(f"| {' | '.join(_cells(row))} |" for row in rows),
            *(["", *memory_table.lines(sections["memory"])] if "memory" in sections else []),
            *(["", *ranks_table.lines(sections["ranks"])] if "ranks" in sections else []),
            *(["", "For orientation, medians:", "", "| | |", "|---|--:|"] if absolute else []),
            *(f"| {what} | {figure} |" for what, figure in absolute),
        ]
    )


def put_into(text: str, table: str) -> str:
    """A README with `table` between its markers."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the markers {BEGIN} and {END} are missing")
    return f"{before}{begin}\n\n{table}\n\n{end}{after}"


def _head(machine: Mapping[str, Any], sections: Mapping[str, Section]) -> Iterator[str]:
    days = sorted({section["date"] for section in sections.values() if "date" in section})
    when = " to ".join(dict.fromkeys([days[0], days[-1]])) if days else ""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    threads = "1 thread" if machine["threads"] == 1 else f"{machine['threads']} threads"
    yield f"{when}, {machine['processor']}, {threads}; {versions}."
    for name, title in ("lora", "LoRA"), ("full", "full fine-tuning"):
        if name in sections:
            section = sections[name]
            yield (
                f"For {title} the fastest of TRL's configurations is"
                f" “{section['fastest']}”; both sides compute in {section['precision']}."
            )
    if "bf16_default" in sections.get("lora", {}):
        yield (
            "This processor has no bf16 instructions: we choose fp32 by ourselves, and the fair"
            " figures are those against TRL told to compute in fp32. TRL left at its default"
            " emulates bf16; that row flatters us, and is measured once, on a few documents."
        )


def _cells(row: Row) -> Iterator[str]:
    figure = row.figure
    yield row.what
    yield _figure(figure.median, row.unit)
    yield "" if figure.low == figure.high else f"{number(figure.low)} to {number(figure.high)}"
    bounds = [
        f"{sign} {_figure(bound, row.unit)}"
        for sign, bound in (("≥", row.at_least), ("≤", row.at_most))
        if bound is not None
    ]
    yield ", ".join(bounds)
    yield {True: "met", False: "missed", None: ""}[row.met]


def _figure(value: float, unit: str) -> str:
    return f"{number(value)}{unit}"
