"""What is known of one measured run, ours or theirs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Run:
    """tokens, seconds: of every optimizer step, from the first on; no padding is counted.

    A step's seconds are those from the end of the step before it, so getting its data counts.
    peak_gib: resident memory at its highest, of the whole process.
    first_step_seconds: from the command to the end of the first step, where that was watched.
    """

    tokens: list[int]
    seconds: list[float]
    peak_gib: float
    first_step_seconds: float | None = None

    def rate(self, warmup: int) -> float:
        """Tokens per second without the first `warmup` steps."""
        return sum(self.tokens[warmup:]) / sum(self.seconds[warmup:])

    def as_json(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if value is not None}
