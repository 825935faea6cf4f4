"""What the section `few_bits` says."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.few_bits import EIGHT, FOUR, PEFT, PLAIN, QERA
from benchmarks.measure import spread
from benchmarks.row import Row, Section


def rows(section: Section) -> Iterator[Row]:
    losses = section["losses"]
    for name, what, aim in (
        (EIGHT, "on 8 bits", None),
        (FOUR, "on nf4", None),
        (QERA, "on nf4 from a qera start", 2.0),
        (PEFT, "by peft on nf4", None),
    ):
        above = 100 * (losses[name] / losses[PLAIN] - 1)
        yield Row(
            f"Evaluation loss after {section['steps']} steps of LoRA on all linear layers {what},"
            " above that on 16 bits",
            spread([above]),
            unit="%",
            at_most=aim,
        )


def absolute(section: Section) -> Iterator[tuple[str, str]]:
    for name, loss in section["losses"].items():
        yield f"Few bits: evaluation loss, {name}", f"{loss:.4f} nats"
