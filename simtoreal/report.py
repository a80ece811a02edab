"""The verdict as one page of HTML that can be mailed, printed and kept: no script, no font, no request to anywhere.

The page says the verdict in words, then shows what it rests on: figures per suite, success against severity, every
condition, paired differences, the worst episodes with the command that replays each, method and provenance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from simtoreal.differences import PairedDifference
from simtoreal.intervals import CVAR_LEVEL, RESAMPLES, wilson
from simtoreal.pages import drawing, replace_page, svg, template
from simtoreal.statistics import Episode, Figures, GateResult, Summary, base_suite, reports_success, suite_in
from simtoreal.verdict import number, percent, points, quantity, tight, verdict

WORST = 5  # episodes shown per bundle
BINS = 5  # of severity above 0
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#444444")  # Okabe & Ito 2008
MARKERS = ("o", "s", "^", "D")
RAMP = ((0.0, (127, 59, 8)), (0.5, (224, 130, 20)), (0.8, (253, 208, 150)), (1.0, (250, 247, 242)))  # rate -> RGB


def write_report(
    path: Path | str,
    summary: Summary,
    episodes: Sequence[Episode],
    *,
    title: str,
    replay_command: Callable[[Episode], str],
    provenance: Mapping[str, Any],
    comparisons: Sequence[PairedDifference] = (),
    engine_comparisons: Sequence[PairedDifference] = (),
    gates: Sequence[GateResult] = (),
    units: Mapping[str, str] | None = None,
) -> Path:
    """Write the page to `path` in one step (what was there stays until the new page is complete) and return it.

    `episodes` are those that `summary` was made from; `replay_command` gives the shell command that runs one again;
    `units` names the unit of a parameter; `provenance` may nest. All text is escaped. Raises ValueError where summary
    and episodes do not belong together, FileNotFoundError for a missing folder.
    """
    path = Path(path)
    if {(e.bundle, e.suite) for e in episodes} != {(s.bundle, s.suite) for s in summary.suites}:
        raise ValueError("the summary and the episodes of a report must hold the same bundles and suites")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} to write the report into")
    keys = {name: _Key(COLOURS[i % 7], MARKERS[i % 4]) for i, name in enumerate(summary.bundles)}
    lead, *rest = verdict(summary, comparisons, engine_comparisons)
    differences, columns = [*comparisons, *engine_comparisons], _columns(summary)
    page = template("report.html.j2", percent, points, quantity, number, shade, tight).render(
        title=title,
        lead=lead,
        rest=rest,
        gates=gates,
        summary=summary,
        keys=keys,
        curve=_severity_figure(episodes, keys, summary.confidence),
        columns=columns,
        conditions=list(_condition_rows(summary, columns)),
        comparisons=[(c, _whisker(c, differences)) for c in differences],
        worst={name: worst_episodes(episodes, name) for name in summary.bundles},
        stands_out=lambda e: stands_out(e, episodes, units or {}),
        replay_command=replay_command,
        provenance=[*_flat(provenance), ("engine", _engines(summary))],
        resamples=RESAMPLES,
        told=reports_success(episodes),
        fewest=min(c.n for s in summary.suites for c in s.conditions),
        cvar_level=CVAR_LEVEL,
    )
    replace_page(path, page)
    return path


def shade(rate: float) -> str:
    """CSS of a heat-map cell: lightness falls evenly with the rate, and the text keeps its contrast."""
    colour = [np.interp(rate, [at for at, _ in RAMP], [rgb[i] for _, rgb in RAMP]) for i in range(3)]
    background = "#" + "".join(f"{round(c):02x}" for c in colour)
    linear = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return f"background:{background};color:{'#fff' if luminance < 0.179 else '#000'}"


@dataclass(frozen=True)
class _Key:
    """How one bundle looks in figures and tables."""

    colour: str
    marker: str

    @property
    def swatch(self) -> Markup:
        shape = {
            "o": '<circle cx="11" cy="6" r="3.6"/>',
            "s": '<rect x="7.6" y="2.6" width="6.8" height="6.8"/>',
            "^": '<path d="M11 1.8 15.2 9.4H6.8z"/>',
            "D": '<path d="M11 1.4 15.6 6 11 10.6 6.4 6z"/>',
        }[self.marker]
        line = f'<path d="M0 6H22" stroke="{self.colour}" stroke-width="1.6"/>'
        box = f'class="key" viewBox="0 0 22 12" fill="{self.colour}" aria-hidden="true"'
        return Markup(f"<svg {box}>{line}{shape}</svg>")


@dataclass(frozen=True)
class SeverityPoint:
    """Success of the `n` episodes of one severity bin; `severity` is their mean."""

    severity: float
    n: int
    rate: float
    low: float
    high: float


def severity_curve(episodes: Sequence[Episode], top: float, confidence: float, bins: int = BINS) -> list[SeverityPoint]:
    """Success with Wilson's interval: the episodes at severity 0, then `bins` equal steps up to `top`; no empty bin."""
    groups: dict[int, list[Episode]] = {}
    for e in episodes:
        if math.isfinite(e.severity):
            groups.setdefault(min(bins, math.ceil(e.severity / top * bins)) if top > 0 else 0, []).append(e)
    curve = []
    for _, group in sorted(groups.items()):
        n, successes = len(group), sum(bool(e.success) for e in group)
        mean = math.fsum(e.severity for e in group) / n
        curve.append(SeverityPoint(mean, n, successes / n, *wilson(successes, n, confidence)))
    return curve


def _severity_figure(episodes: Sequence[Episode], keys: Mapping[str, _Key], confidence: float) -> dict[str, Any] | None:
    """Of the first engine's episodes, where there are several."""
    engines = list(dict.fromkeys(e.engine for e in episodes))
    episodes = [e for e in episodes if e.engine == engines[0]]
    finite = [e.severity for e in episodes if math.isfinite(e.severity)]
    top = max(finite, default=0.0)
    if top == 0 or not reports_success(episodes):
        return None
    with drawing():
        figure = Figure(figsize=(8.4, 3.0), layout="constrained")
        axes = figure.add_subplot()
        counts = []
        for name, key in keys.items():
            curve = severity_curve([e for e in episodes if e.bundle == name], top, confidence)
            x = [p.severity for p in curve]
            counts += [p.n for p in curve]
            low, high = [100 * p.low for p in curve], [100 * p.high for p in curve]
            axes.fill_between(x, low, high, color=key.colour, alpha=0.16 if len(keys) <= 4 else 0.06, linewidth=0)
            axes.vlines(x, low, high, color=key.colour, linewidth=0.7)
            rates = [100 * p.rate for p in curve]
            axes.plot(x, rates, color=key.colour, marker=key.marker, markersize=4.5, linewidth=1.5)
        axes.set(xlim=(-0.02 * top, 1.02 * top), ylim=(0, 102), yticks=range(0, 101, 25), ylabel="success [%]")
        axes.set_xlabel("severity: how far outside the ranges, in widths of the range (0 = inside)")
        axes.grid(axis="y", color="#ddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(length=0)
        drawn = svg(figure)
    left_out = len(episodes) - len(finite)
    return {
        "svg": drawn,
        "least": min(counts),
        "most": max(counts),
        "left_out": left_out,
        "engine": engines[0] if len(engines) > 1 else "",
    }


class _Column(NamedTuple):
    """A bundle in an engine, and what it is called."""

    bundle: str
    engine: str
    label: str


def _columns(summary: Summary) -> list[_Column]:
    """Engines of a bundle side by side; unnamed where there is one."""
    several = len({s.engine for s in summary.suites}) > 1
    found = dict.fromkeys((s.bundle, s.engine) for s in summary.suites)
    ordered = sorted(found, key=lambda side: summary.bundles.index(side[0]))
    return [_Column(name, engine, f"{name} in {engine}" if several else name) for name, engine in ordered]


def _condition_rows(
    summary: Summary, columns: Sequence[_Column]
) -> Iterator[tuple[str, str, bool, dict[_Column, Figures | None]]]:
    """Suite, condition, whether it opens its suite, and the figures of each column (None where it did not run)."""
    for suite in dict.fromkeys(map(base_suite, summary.suite_names)):
        found = {column: summary.find(column.bundle, suite_in(column.engine, suite)) for column in columns}
        names = dict.fromkeys(str(c.condition) for s in found.values() if s for c in s.conditions)
        for i, name in enumerate(names):
            cells = {
                column: next((c for c in s.conditions if c.condition == name), None) if s else None
                for column, s in found.items()
            }
            yield suite, name, i == 0, cells


def _whisker(c: PairedDifference, comparisons: Sequence[PairedDifference]) -> tuple[float, ...]:
    """Zero, low, value and high of a difference on a common scale of 0 to 100 for its metric."""
    same = [d.difference for d in comparisons if d.metric == c.metric]
    ends = [v for d in same for v in (d.low, d.value, d.high, 0.0) if math.isfinite(v)]
    start, span = min(ends), (max(ends) - min(ends)) or 1.0
    values = (0.0, c.difference.low, c.difference.value, c.difference.high)
    return tuple(round(4 + 92 * min(1.0, max(0.0, (v - start) / span)), 2) for v in values)


def worst_episodes(episodes: Sequence[Episode], bundle: str, count: int = WORST) -> list[Episode]:
    """The failed episodes of a bundle before the others, the lowest return first."""
    mine = [e for e in episodes if e.bundle == bundle]
    return sorted(mine, key=lambda e: (bool(e.success), e.return_, e.length))[:count]


def stands_out(episode: Episode, episodes: Sequence[Episode], units: Mapping[str, str], count: int = 3) -> str:
    """The parameters in which an episode lies farthest from the bundle's others, in their standard deviations."""
    others = [e.parameters for e in episodes if e.bundle == episode.bundle]
    distance = {}
    for name, value in episode.parameters.items():
        values = np.array([p[name] for p in others if name in p])
        spread = float(values.std())
        distance[name] = abs(value - float(values.mean())) / spread if spread > 0 else 0.0
    names = [name for name in sorted(distance, key=lambda n: -distance[n]) if distance[name] > 1][:count]
    return ", ".join(f"{n} {number(episode.parameters[n])} {units.get(n, '')}".strip() for n in names)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _engines(summary: Summary) -> str:
    if len({s.engine for s in summary.suites}) == 1:
        return summary.suites[0].engine
    return "; ".join(f"{s.bundle} in {s.suite}: {s.engine}" for s in summary.suites)
