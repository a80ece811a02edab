"""A summary of episodes in words, and its numbers as people read them."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence

from simtoreal.differences import PairedDifference
from simtoreal.intervals import Estimate
from simtoreal.statistics import Figures, SuiteFigures, Summary, strength, suite_in


def verdict(
    summary: Summary,
    comparisons: Sequence[PairedDifference] = (),
    engine_comparisons: Sequence[PairedDifference] = (),
) -> list[str]:
    """The verdict as sentences, the most important first.

    Of several held-out suites the most severe one speaks; of more than three bundles the best and the worst.
    """
    unseen = [s for s in summary.suites if s.held_out]
    name = max(unseen, key=lambda s: s.pooled.severity).suite if unseen else summary.suite_names[0]
    judged = [s for s in summary.suites if s.suite == name]
    opening = ""
    if len(judged) > 3:
        opening = f"Best and worst of {len(judged)} bundles: "
        ranked = sorted(judged, key=lambda s: strength(s.pooled))
        judged = [ranked[-1], ranked[0]]
    spoken = {s.bundle for s in judged}
    told = judged[0].pooled.success is not None
    where = "under conditions it never saw" if unseen else f"in suite {name}"
    first, *others = [f"in {rate(s.pooled)}" if told else rate(s.pooled) for s in judged]
    lead = f"succeeds {first} of its episodes {where}" if told else f"has {first} {where}"
    rest = "".join(f"; {s.bundle} {other}" for s, other in zip(judged[1:], others, strict=True))
    said = [f"{opening}{judged[0].bundle} {lead}{rest}."]
    if not told:
        said.append("This task reports no success, so there is no rate of it.")
    said += _weakest(judged)
    compared = {(suite_in(_engine(c), c.suite)) for c in engine_comparisons}
    for other in summary.suite_names:
        if other in compared:
            continue
        found = [(s.bundle, s.pooled) for s in summary.suites if s.suite == other != name and s.bundle in spoken]
        if found:
            said.append(f"In suite {other}: {_rates(found)}.")
    metric = "success" if told else "return_mean"
    said += [_difference(c) for c in comparisons if (c.suite, c.metric) == (name, metric) and {c.a, c.b} <= spoken]
    said += _elsewhere(summary, [c for c in engine_comparisons if c.metric == metric], spoken)
    if not unseen:
        said.append("No suite lay outside every bundle's training ranges: nothing here tells how they do beyond them.")
    faults = sum(s.pooled.faults for s in summary.suites)
    if faults:
        times = "once" if faults == 1 else f"{faults} times"
        said.append(f"Physics broke {times}; see the faults below before trusting a figure.")
    return said


def _weakest(judged: Sequence[SuiteFigures]) -> list[str]:
    together = [(s.bundle, c) for s in judged for c in s.judged if c.condition == "all" and len(s.judged) > 1]
    single = [(s.bundle, worst) for s in judged if (worst := s.weakest_single) is not None]
    whole = [(bundle, c) for bundle, c in single if c.success is not None and c.success.value == 1]
    weak = [found for found in single if found not in whole]
    said = [f"No condition by itself cost {bundle} an episode." for bundle, _ in whole]
    if len({c.condition for _, c in weak}) == 1:
        said.append(f"Weakest condition: {weak[0][1].condition} ({_rates(weak)}).")
    elif weak:
        each = [f"for {bundle} {c.condition}, {rate(c)}" for bundle, c in weak]
        said.append(f"Weakest condition: {'; '.join(each)}.")
    if together:
        said.append(f"With everything changed at once: {_rates(together)}.")
    return said


def _rates(found: Sequence[tuple[str, Figures]]) -> str:
    return ", ".join(f"{bundle} {rate(c)}" for bundle, c in found)


def rate(figures: Figures) -> str:
    """The success rate as people read it, or the return where the task reports no success."""
    return f"a return of {quantity(figures.return_iqm)}" if figures.success is None else percent(figures.success)


def _elsewhere(summary: Summary, differences: Sequence[PairedDifference], spoken: Collection[str]) -> list[str]:
    """A sentence for each further engine: how each bundle does there, and by how much better than in the first."""
    said: dict[str, list[str]] = {}
    for c in differences:
        engine = _engine(c)
        bundle = c.a.removesuffix(f" in {engine}")
        there = summary.find(bundle, suite_in(engine, c.suite))
        if there is not None and bundle in spoken:
            more = _size(c.metric, c.difference, "+")
            said.setdefault(engine, []).append(f"{bundle} {rate(there.pooled)} in {c.suite}, {more}")
    return [f"The same cases in {engine}: {'; '.join(each)}." for engine, each in said.items()]


def _engine(c: PairedDifference) -> str:
    """The further engine of a bundle's comparison with itself."""
    return c.a.rpartition(" in ")[2]


def _difference(c: PairedDifference) -> str:
    if c.difference.low > 0 or c.difference.high < 0:
        ahead, behind = (c.a, c.b) if c.difference.value > 0 else (c.b, c.a)
        low, high = sorted((abs(c.difference.low), abs(c.difference.high)))
        size = _size(c.metric, Estimate(abs(c.difference.value), low, high), sign="")
        return f"Over the same {c.n} cases {ahead} is ahead of {behind} by {size}."
    size = _size(c.metric, c.difference, "+")
    return f"Over the same {c.n} cases {c.a} and {c.b} cannot be told apart: {size}."


def _size(metric: str, difference: Estimate, sign: str) -> str:
    return points(difference, sign=bool(sign)) if metric == "success" else f"a return of {quantity(difference, sign)}"


def percent(estimate: Estimate) -> str:
    """A rate as `93 % [90, 95]`; one more digit where rounding would say none or all."""

    def digits(rate: float) -> str:
        return f"{100 * rate:.{1 if 0.0005 <= rate < 0.005 or 0.995 <= rate < 0.9995 else 0}f}"

    return f"{digits(estimate.value)} % [{digits(estimate.low)}, {digits(estimate.high)}]"


def points(estimate: Estimate, sign: bool = True) -> str:
    """A difference of rates as `+33 points [+30, +36]`."""
    form = "+.0f" if sign else ".0f"
    low, value, high = (
        _minus(f"{100 * v:{form}}") if math.isfinite(v) else "–" for v in (estimate.low, estimate.value, estimate.high)
    )
    return f"{value} point{'' if value.strip('+−') == '1' else 's'} [{low}, {high}]"


def quantity(estimate: Estimate, sign: str = "") -> str:
    """A return as `412 [398, 421]`, with the decimals that its interval deserves; an unknown bound is a dash."""
    half = (estimate.high - estimate.low) / 2
    scale = half if 0 < half < math.inf else abs(estimate.value) / 1000 or 1.0
    decimals = max(0, min(6, -math.floor(math.log10(scale))))
    value, low, high = (
        _minus(f"{v:{sign},.{decimals}f}".replace(",", "\u202f")) if math.isfinite(v) else "–"
        for v in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value} [{low}, {high}]"


def tight(text: str) -> str:
    """The same text with the spaces that no line may break at: before a percent sign and within an interval."""
    text = re.sub(r"(?<=\d) %", "\u202f%", text)
    return re.sub(r" \[([^\[\]]*), ([^\[\]]*)\]", "\u00a0[\\1,\u00a0\\2]", text)


def number(value: float) -> str:
    """A number in four digits, with a true minus sign."""
    return _minus(f"{value:.4g}")


def _minus(text: str) -> str:
    return "0" if text in {"-0", "+0"} else text.replace("-", "−")
