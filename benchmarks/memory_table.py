"""The table of peak memory, and what ours consists of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.measure import Spread, ratios, spread
from benchmarks.memory import is_bound
from benchmarks.row import Section, number

_NAMES = {"full": "Full", "lora": "LoRA", "qlora": "QLoRA"}
_AT_MOST = {"full": 0.7, "lora": 0.5, "qlora": 0.5}


@dataclass(frozen=True)
class Row:
    """Peak memory in GiB. at_least: whether a side wanted more than the machine has."""

    what: str
    ours: Spread
    theirs: Spread
    ratio: Spread
    at_most: float
    ours_at_least: bool = False
    theirs_at_least: bool = False

    @property
    def verdict(self) -> str:
        if self.ours_at_least and self.theirs_at_least:
            return "neither fits"
        if self.ours_at_least:
            return "missed"
        if self.ratio.median <= self.at_most:
            return "met"
        return "not known" if self.theirs_at_least else "missed"


def rows(section: Section) -> Iterator[Row]:
    for contest in section["contests"]:
        ours, theirs = ([found[who] for found in contest["rounds"]] for who in ("ours", "theirs"))
        how = ", checkpointing" if contest["checkpointing"] else ""
        yield Row(
            f"{_NAMES[contest['kind']]}, {contest['context']:,} tokens{how}",
            spread(_peaks(ours)),
            spread(_peaks(theirs)),
            ratios(_peaks(ours), _peaks(theirs)),
            _AT_MOST[contest["kind"]],
            any(map(is_bound, ours)),
            any(map(is_bound, theirs)),
        )


def lines(section: Section) -> Iterator[str]:
    yield "Peak memory in GiB of a step of one packed row, the very same tokens for both:"
    yield ""
    yield "| | ours | TRL's | ours ÷ TRL's | lowest to highest | aim | |"
    yield "|---|--:|--:|--:|--:|--:|---|"
    for row in rows(section):
        yield f"| {' | '.join(_cells(row))} |"
    yield ""
    yield _consists(section)


def _cells(row: Row) -> Iterator[str]:
    yield row.what
    yield f"{'> ' if row.ours_at_least else ''}{number(row.ours.median)}"
    yield f"{'> ' if row.theirs_at_least else ''}{number(row.theirs.median)}"
    if row.ours_at_least and row.theirs_at_least:
        yield from ("", "")
    else:
        sign = "> " if row.ours_at_least else "< " if row.theirs_at_least else ""
        yield f"{sign}{number(row.ratio.median)}×"
        low, high = number(row.ratio.low), number(row.ratio.high)
        yield "" if low == high else f"{low} to {high}"
    yield f"≤ {number(row.at_most)}×"
    yield row.verdict


def _peaks(runs: Sequence[Mapping[str, Any]]) -> list[float]:
    return [run["peak_gib"] for run in runs]


def _consists(section: Section) -> str:
    held = section["held"]
    each = ", ".join(_parts(section, kind, name) for kind, name in _NAMES.items() if kind in held)
    full, four_bit = held["full"], held["qlora"]
    return (
        f"A process that has imported its libraries and done nothing else holds"
        f" {number(full['ours']['libraries_gib'])} GiB of ours and"
        f" {number(full['theirs']['libraries_gib'])} GiB of TRL's, with bitsandbytes"
        f" {section['bitsandbytes']} {number(four_bit['ours']['libraries_gib'])} and"
        f" {number(four_bit['theirs']['libraries_gib'])}. Beside them ours holds, as weights +"
        f" gradients and AdamW's moments + all else in the smallest and the largest of the rows"
        f" above: {each}."
    )


def _parts(section: Section, kind: str, name: str) -> str:
    held = section["held"][kind]["ours"]
    contests = [contest for contest in section["contests"] if contest["kind"] == kind]
    peaks = [spread(_peaks([f["ours"] for f in contest["rounds"]])).median for contest in contests]
    rest = [peak - sum(held.values()) for peak in peaks]
    return (
        f"{name} {number(held['weights_gib'])} + {number(held['training_gib'])} +"
        f" {number(min(rest))} to {number(max(rest))} GiB"
    )
