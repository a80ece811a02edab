"""A training with a curriculum as one page of HTML: how it learned, and how far its ranges came."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from simtoreal.pages import drawing, replace_page, svg, template
from simtoreal.runs import METRICS, REPORT, SUMMARY, read_json
from simtoreal.verdict import number

LOW, HIGH, TRAINING, JUDGED = "#0072B2", "#D55E00", "#888888", "#16181b"  # Okabe & Ito 2008
COLUMNS = 4
Line = tuple[Sequence[float], Sequence[float]]
"""Environment steps and the figure there."""


def write_training_report(run: Path, *, title: str, settings: Mapping[str, Any]) -> Path:
    """Write `report.html` into a run folder from its metrics and summary; its path.

    Raises RunError for a folder without a summary, OSError.
    """
    summary = read_json(run / SUMMARY)
    lines = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    found = summary["curriculum"]
    path = run / REPORT
    with drawing():
        page = template("training.html.j2", number).render(
            title=title,
            summary=summary,
            settings=settings,
            reached=sum(extent >= 1.0 for extent in found["boundaries"].values()),
            mean=float(np.mean(list(found["boundaries"].values()))),
            learning=svg(_learning(lines)),
            boundaries=svg(_boundaries(found, summary["steps"])),
        )
    replace_page(path, page)
    return path


def _tag(lines: Sequence[Mapping[str, float]], tag: str) -> Line:
    rows = [(line["step"], line[tag]) for line in lines if tag in line]
    return [step for step, _ in rows], [value for _, value in rows]


def _learning(lines: Sequence[Mapping[str, float]]) -> Figure:
    """Return, success and the entropy of the ranges over environment steps."""
    figure = Figure(figsize=(8.4, 2.5), layout="constrained")
    rows = (
        ("return", "rollout/ep_rew_mean", "eval/mean_reward"),
        ("success", "rollout/success_rate", "eval/success_rate"),
        ("entropy of the ranges [nat per entry]", "curriculum/entropy", None),
    )
    for axes, (label, training, judged) in zip(figure.subplots(1, 3), rows, strict=True):
        axes.plot(*_tag(lines, training), color=JUDGED if judged is None else TRAINING, linewidth=1.3)
        if judged is not None:
            axes.plot(*_tag(lines, judged), color=JUDGED, linewidth=1.3, marker="o", markersize=2.5)
        axes.set_title(label, fontsize=9, loc="left")
        if label == "success":
            axes.set_ylim(-0.03, 1.03)
        _bare(axes)
    return figure


def _boundaries(found: Mapping[str, Any], steps: int) -> Figure:
    """Every entry's boundaries over environment steps, low ones downwards."""
    names, moves = list(found["boundaries"]), found["moves"]
    entries = list(dict.fromkeys(name.rpartition("/")[0] for name in names))
    rows = math.ceil(len(entries) / COLUMNS)
    figure = Figure(figsize=(8.4, 0.4 + 1.15 * rows), layout="constrained")
    grid = np.atleast_1d(figure.subplots(rows, COLUMNS, sharex=True, sharey=True)).ravel()
    for axes, entry in zip(grid, entries, strict=False):
        for end, sign, colour in (("low", -1.0, LOW), ("high", 1.0, HIGH)):
            if f"{entry}/{end}" not in names:
                continue
            which = names.index(f"{entry}/{end}")
            mine = [(step, sign * extent) for step, boundary, extent in moves if boundary == which]
            at = [0, *(step for step, _ in mine), steps]
            to = [0.0, *(extent for _, extent in mine)]
            axes.step(at, [*to, to[-1]], where="post", color=colour, linewidth=1.3)
            axes.fill_between(at, 0.0, [*to, to[-1]], step="post", color=colour, alpha=0.15, linewidth=0)
            axes.axhline(sign, color="#bbb", linewidth=0.6, linestyle=":")
        axes.set_title(entry, fontsize=7.5, loc="left")
        _bare(axes)
    for axes in grid[len(entries) :]:
        axes.set_visible(False)
    return figure


def _bare(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=0, labelsize=7)
    axes.xaxis.set_major_formatter(lambda step, _: f"{step / 1000:g}k")
