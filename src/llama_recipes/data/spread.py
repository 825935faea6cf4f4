"""How a quantity is distributed over documents or steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BINS = 12
_SHARES = {"p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True, slots=True)
class Spread:
    """Quantiles are values that occur: the smallest one that the share of all does not exceed.

    borders, counts: a histogram; counts[i] values lie from borders[i] up to below borders[i + 1].
    """

    count: int
    total: int
    smallest: int
    p25: int
    median: int
    p75: int
    p95: int
    p99: int
    largest: int
    borders: tuple[int, ...]
    counts: tuple[int, ...]

    @property
    def mean(self) -> float:
        return self.total / self.count


def spread(values: NDArray[np.int64]) -> Spread:
    """Of at least one whole number."""
    low, high = int(values.min()), int(values.max())
    width = -(-(high + 1 - low) // _BINS)
    borders = np.arange(low, high + width + 1, width)
    counts, _ = np.histogram(values, bins=borders)
    quantiles: dict[str, Any] = {
        name: int(np.quantile(values, share, method="inverted_cdf"))
        for name, share in _SHARES.items()
    }
    return Spread(
        count=len(values),
        total=int(values.sum()),
        smallest=low,
        largest=high,
        borders=tuple(borders.tolist()),
        counts=tuple(counts.tolist()),
        **quantiles,
    )
