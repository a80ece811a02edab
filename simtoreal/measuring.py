"""How benchmarks are measured.

Each figure is a ratio against a named peer in the same run, interleaved, the median of several rounds. Times are CPU
seconds of this process unless said, so that other work on the machine disturbs them little.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

Work = Callable[[], None]
Clock = Callable[[], float]


@dataclass(frozen=True)
class Row:
    """`ours` and `peer` in `unit`; `ratio` is how many times better ours is (above 1) than the peer."""

    name: str
    what: str
    ours: float
    peer_name: str
    peer: float
    unit: str
    ratio: float


def _seconds(work: Work, repeat: int, clock: Clock) -> float:
    began = clock()
    for _ in range(repeat):
        work()
    return (clock() - began) / repeat


def interleaved(
    ours: Work,
    peer: Work,
    *,
    repeat: int,
    rounds: int,
    before: Work = lambda: None,
    clock: Clock = time.process_time,
) -> tuple[float, float, float]:
    """Median seconds a call of both by the `clock`, and the median over rounds of peer / ours. `before` goes before
    each round, and its time counts for nobody."""

    def one_round(repeat: int) -> tuple[float, float]:
        before()
        return _seconds(ours, repeat, clock), _seconds(peer, repeat, clock)

    one_round(max(1, repeat // 10))
    pairs = [one_round(repeat) for _ in range(rounds)]
    return (
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
        statistics.median(b / a for a, b in pairs),
    )
