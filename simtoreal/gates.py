"""A requirement on a verdict, in one line: `success >= 0.9`."""

from __future__ import annotations

import math
import operator
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simtoreal.statistics import Summary

OPERATORS = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
METRICS = ("success", "return_iqm", "return_mean", "cvar")


@dataclass(frozen=True)
class GateResult:
    """Whether a gate is met: the confidence bound it read, where that was weakest, and one line of words."""

    passed: bool
    measured: float
    text: str
    bundle: str
    suite: str
    condition: str

    def to_json(self) -> dict[str, Any]:
        """A plain dict, JSON-able."""
        return asdict(self) | {"measured": self.measured if math.isfinite(self.measured) else None}


@dataclass(frozen=True)
class Gate:
    """`[suite/condition:]metric op number`, e.g. `success >= 0.9` or `heldout/actuator.latency: return_iqm > 200`.

    Reads the lower confidence bound for > and >=, the upper for < and <=, in the named condition or else in the worst
    one of every suite, and asks it of every bundle.
    """

    metric: str
    op: str
    number: float
    suite: str | None = None
    condition: str | None = None

    def __str__(self) -> str:
        where = "" if self.suite is None else f"{self.suite}/{self.condition}: "
        return f"{where}{self.metric} {self.op} {self.number:g}"

    @staticmethod
    def parse(text: str) -> Gate:
        """Read a gate. Raises ValueError that says what was found and what is expected."""
        match = re.fullmatch(r"\s*(?:([^/:]+)/(.+):)?\s*(\w+)\s*(>=|<=|>|<)\s*(\S+)\s*", text)
        if match is None:
            raise ValueError(f"cannot read gate {text!r}; expected [suite/condition:]metric op number: success >= 0.9")
        suite, condition, metric, op, digits = match.groups()
        if metric not in METRICS:
            raise ValueError(f"gate {text!r}: no metric {metric!r}; metrics: {', '.join(METRICS)}")
        try:
            number = float(digits)
        except ValueError:
            raise ValueError(f"gate {text!r}: {digits!r} is not a number") from None
        if not math.isfinite(number) or (metric == "success" and not 0 <= number <= 1):
            raise ValueError(f"gate {text!r}: {digits} is out of range; success lies in [0, 1], all else is finite")
        return Gate(metric, op, number, suite and suite.strip(), condition and condition.strip())

    def check_metric(self, *, told: bool) -> None:
        """Raises ValueError for a gate on success where the task has not `told` of any."""
        if self.metric == "success" and not told:
            raise ValueError(f"gate {str(self)!r}: this task reports no success; metrics: {', '.join(METRICS[1:])}")

    def check(self, summary: Summary) -> GateResult:
        """Hold the gate against every bundle. Raises ValueError for a suite or condition that was not judged,
        and for a success that is not reported."""
        rising = self.op.startswith(">")
        found = [
            (getattr(figures, self.metric), suite, figures)
            for suite in summary.suites
            for figures in suite.judged
            if self.suite is None or (suite.suite, figures.condition) == (self.suite, self.condition)
        ]
        self.check_metric(told=all(estimate is not None for estimate, _, _ in found))
        bundles = {suite.bundle for _, suite, _ in found}
        if bundles != set(summary.bundles):
            known = dict.fromkeys(f"{s.suite}/{c.condition}" for s in summary.suites for c in s.judged)
            lacking = ", ".join(b for b in summary.bundles if b not in bundles)
            raise ValueError(f"gate {str(self)!r}: no such condition judged for {lacking}; judged: {', '.join(known)}")
        estimate, suite, figures = min(found, key=lambda f: f[0].low if rising else -f[0].high)
        bound = estimate.low if rising else estimate.high
        passed = OPERATORS[self.op](bound, self.number)
        side = "lower" if rising else "upper"
        text = (
            f"{self} {'met' if passed else 'not met'}: weakest is {suite.bundle} in {suite.suite}/{figures.condition} "
            f"with {estimate.value:.3g} [{estimate.low:.3g}, {estimate.high:.3g}]; the {side} bound counts"
        )
        return GateResult(passed, bound, text, suite.bundle, suite.suite, str(figures.condition))
