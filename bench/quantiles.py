"""Order statistics of a sample, by nearest rank: each figure is a value that was measured."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Where a sample of durations lies, in milliseconds."""

    count: int
    p50: float
    p99: float
    max: float

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Self:
        """Take a sample in seconds."""
        ordered = sorted(seconds)
        if not ordered:
            return cls(count=0, p50=0.0, p99=0.0, max=0.0)
        return cls(
            count=len(ordered),
            p50=1000 * _rank(ordered, 0.50),
            p99=1000 * _rank(ordered, 0.99),
            max=1000 * ordered[-1],
        )

    @classmethod
    def over(cls, rounds: Sequence["Spread"]) -> Self:
        """Sum up rounds: medians of the percentiles, but the worst of all for the maximum."""
        return cls(
            count=sum(one.count for one in rounds),
            p50=median(one.p50 for one in rounds),
            p99=median(one.p99 for one in rounds),
            max=max(one.max for one in rounds),
        )


def _rank(ordered: Sequence[float], share: float) -> float:
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
