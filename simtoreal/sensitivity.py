"""Which parameters cost a policy most: screening by Morris or Sobol over the preset's ranges, and one at a time."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from simtoreal import build
from simtoreal.config import ConfigError
from simtoreal.contract import Contract
from simtoreal.episodes import Outcome, find_policies
from simtoreal.evaluate import MAX_FAULT_SHARE, PhysicsFailure, judged_task
from simtoreal.intervals import Estimate, bootstrap_interval
from simtoreal.jobs import Job, run_jobs
from simtoreal.randomization.distributions import Distribution
from simtoreal.randomization.philox import episode_seed, name_key
from simtoreal.randomization.randomizer import Randomizer, assign
from simtoreal.randomization.suites import Case
from simtoreal.robots.engines import DEFAULT_ENGINE, ENGINES
from simtoreal.runs import claimed_output, output_path, versions, write_json

METHODS = ("morris", "sobol")
METRICS = ("return", "success")
LEVELS = 4  # of a Morris design
RESAMPLES = 1000
CHUNK = 10  # cases a job
TABLE, PLOT, SUMMARY = "sensitivity.csv", "tornado.svg", "summary.json"
PLOTTED = 20  # factors, at most

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Factor:
    """An entry of a preset, whose parameters are moved together.

    Attributes:
        entry: as the preset has it, a name or a pattern.
        parameters: how many it names.
        effect: how much the metric changes with it: of a Morris screening the mean absolute elementary effect, mu*
            (Campolongo et al. 2007), of Sobol's the total index, a share of the variance.
        low, high: the metric with all of its parameters at the low, or high, end of their ranges, the rest nominal,
            less the metric on the nominal robot, in the mean over the same episodes.
    """

    entry: str
    parameters: int
    effect: Estimate
    low: Estimate
    high: Estimate


@dataclass(frozen=True)
class Sensitivity:
    """The factors, the costliest first, and where they are written; `nominal` is the metric on the nominal robot."""

    out: Path
    task: str
    method: str
    metric: str
    episodes: int
    nominal: float
    factors: tuple[Factor, ...]

    def to_json(self) -> dict[str, Any]:
        factors = [
            asdict(f) | {"effect": f.effect.to_json(), "low": f.low.to_json(), "high": f.high.to_json()}
            for f in self.factors
        ]
        return asdict(self) | {"out": str(self.out), "factors": factors, "plot": str(self.out / PLOT)}


class _Space:
    """The ranges of a randomizer as a unit cube: a column for each of its random numbers."""

    def __init__(self, randomizer: Randomizer, table: Mapping[str, Any]) -> None:
        entries = assign(randomizer.preset.entries, table)
        columns = {name: entries[name].shared or name for name in randomizer.names}
        self.columns = list(dict.fromkeys(columns.values()))
        self._column = {name: self.columns.index(column) for name, column in columns.items()}
        self._distributions: dict[str, Distribution] = randomizer.distributions
        self._ranges = randomizer.ranges
        patterns: dict[str, dict[str, None]] = {}  # of a column; several where entries share their random number
        for name in randomizer.names:
            patterns.setdefault(columns[name], {})[entries[name].pattern] = None
        entry = {column: " + ".join(found) for column, found in patterns.items()}
        self.entries = list(dict.fromkeys(entry.values()))
        self.names = {each: [n for n in randomizer.names if entry[columns[n]] == each] for each in self.entries}
        self.problem = {
            "num_vars": len(self.columns),
            "names": self.columns,
            "bounds": [[0.0, 1.0]] * len(self.columns),
            "groups": [entry[column] for column in self.columns],
        }

    def values(self, u: FloatArray) -> dict[str, float]:
        """The parameters at a point of the cube."""
        out = {}
        for name, column in self._column.items():
            low, high = self._ranges[name]
            out[name] = min(max(self._distributions[name].ppf(float(u[column])), low), high)
        return out

    def end(self, entry: str, side: Literal[0, 1]) -> dict[str, float]:
        """All parameters of an entry at the low or high end of their ranges."""
        return {name: self._ranges[name][side] for name in self.names[entry]}


def sensitivity(
    policy: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    randomization: str | None = None,
    method: str = METHODS[0],
    metric: str | None = None,
    trajectories: int = 80,
    episodes: int = 20,
    seed: int = 0,
    engine: str = DEFAULT_ENGINE,
    workers: int = 1,
    task: str | None = None,
    robot: str | None = None,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Sensitivity:
    """Rank the entries of a preset by what they cost a bundle or `module:function`, and write `sensitivity.csv`,
    `tornado.svg` and `summary.json`.

    Args:
        randomization: preset or file whose ranges are looked through; None is the task's own.
        method: "morris" (Morris 1991, groups and mu* of Campolongo et al. 2007) or "sobol" (total indices, Saltelli et
            al. 2010), by SALib.
        metric: "return" or "success"; None is return, which tells more from fewer episodes.
        trajectories: of Morris, each an episode more than there are entries; of Sobol the base sample, a power of two,
            each two episodes more. All episodes of one share goals, noise and start.
        episodes: for each end of each entry's range, one entry at a time.

    Raises:
        ValueError: unknown policy, preset, method, metric or engine; a preset that varies nothing.
        PhysicsFailure: more than 1 % of the episodes ended because physics broke.
    """
    folder = output_path(out)
    for what, given, known in (("method", method, METHODS), ("metric", metric, METRICS), ("engine", engine, ENGINES)):
        if given is not None and given not in known:
            raise ConfigError(f"no {what} {given!r}; choices: {', '.join(known)}")
    if method == "sobol" and trajectories & (trajectories - 1):
        raise ConfigError(f"--trajectories of sobol must be a power of two, got {trajectories}")
    if trajectories < 2 or episodes < 2:
        raise ConfigError(f"--trajectories and --episodes must be 2 or more, got {trajectories} and {episodes}")
    (source,) = find_policies([os.fspath(policy)])
    full = judged_task([source], [source.spec()], task, robot)
    env = build.make_env(full, engine=engine)
    try:
        table = build.parameters_of(env)
        if (spec := source.spec()) is not None:
            Contract.of(full, env).check(spec, source.text)
        randomizer = build.make_randomizer(build.find_randomization(randomization, full), env, build.short_name(full))
    finally:
        env.close()
    if randomizer is None or all(low == high for low, high in randomizer.ranges.values()):
        raise ConfigError(f"there is nothing to vary: no preset of {build.display_name(full)}, or one without a range")
    space = _Space(randomizer, table)
    design = _design(space, method, trajectories, seed)
    cases = [*_screened(space, design, method, seed), *_one_at_a_time(space, episodes, seed)]
    with claimed_output(folder, force=force, marker=TABLE):
        outcomes: list[Outcome] = []
        jobs = [Job(0, "", engine, tuple(cases[i : i + CHUNK])) for i in range(0, len(cases), CHUNK)]
        for _, found in run_jobs(jobs, full, [source], workers):
            outcomes += found
            if progress is not None:
                progress(len(outcomes), len(cases))
        if (broken := sum(outcome.faults for outcome in outcomes)) > MAX_FAULT_SHARE * len(outcomes):
            raise PhysicsFailure(f"physics broke in {broken} of {len(outcomes)} episodes: no answer")
        told = all(outcome.success is not None for outcome in outcomes)
        if metric == "success" and not told:
            raise ConfigError(f"{build.display_name(full)} reports no success; use --metric return")
        chosen = metric or METRICS[0]
        figures = np.array([o.return_ if chosen == "return" else float(bool(o.success)) for o in outcomes])
        effects = _effects(space, design, figures[: len(design)], method, seed)
        nominal, *ends = figures[len(design) :].reshape(-1, episodes)
        factors = tuple(
            Factor(
                entry,
                len(space.names[entry]),
                effects[entry],
                _cost(ends[2 * i] - nominal, seed),
                _cost(ends[2 * i + 1] - nominal, seed),
            )
            for i, entry in enumerate(space.entries)
        )
        ranked = tuple(sorted(factors, key=lambda factor: -factor.effect.value))
        result = Sensitivity(folder, full, method, chosen, len(cases), float(nominal.mean()), ranked)
        _write(result, seed=seed, trajectories=trajectories, episodes=episodes, engine=engine, policy=source.text)
    return result


def _design(space: _Space, method: str, size: int, seed: int) -> FloatArray:
    """Points of the cube [n, columns]."""
    if method == "morris":
        from SALib.sample import morris

        design: FloatArray = morris.sample(space.problem, size, num_levels=LEVELS, seed=seed % 2**32)
        return design
    from SALib.sample import sobol

    points: FloatArray = sobol.sample(space.problem, size, calc_second_order=False, seed=seed % 2**32)
    return points


def _effects(space: _Space, design: FloatArray, figures: FloatArray, method: str, seed: int) -> dict[str, Estimate]:
    """Entry -> its effect, with the bootstrap's interval of 95 %."""
    options: dict[str, Any] = {"num_resamples": RESAMPLES, "seed": seed % 2**32}
    if np.ptp(figures) == 0.0:  # nothing costs anything: indices are shares of no variance
        return dict.fromkeys(space.entries, Estimate(0.0, 0.0, 0.0))
    if method == "morris":
        from SALib.analyze import morris

        found = morris.analyze(space.problem, design, figures, num_levels=LEVELS, **options)
        names, values, half = found["names"], found["mu_star"], found["mu_star_conf"]
    else:
        from SALib.analyze import sobol

        found = sobol.analyze(space.problem, figures, calc_second_order=False, **options)
        names, values, half = space.entries, found["ST"], found["ST_conf"]
    rows = zip(names, np.asarray(values, float), np.asarray(half, float), strict=True)
    return {str(name): Estimate(float(v), max(float(v - c), min(float(v), 0.0)), float(v + c)) for name, v, c in rows}


def _screened(space: _Space, design: FloatArray, method: str, seed: int) -> Iterator[Case]:
    """An episode a point; those of a trajectory, or of a base sample's block, share their seed."""
    size = len(space.entries) + (1 if method == "morris" else 2)
    for row, point in enumerate(design):
        yield Case("screening", row, _seed("screening", seed, row // size), space.values(point))


def _one_at_a_time(space: _Space, episodes: int, seed: int) -> Iterator[Case]:
    """The nominal robot, then each entry at both ends of its range, over the same seeds."""
    ends = [{}, *(space.end(entry, side) for entry in space.entries for side in (0, 1))]
    for number, parameters in enumerate(ends):
        for k in range(episodes):
            yield Case(f"end{number}", k, _seed("ends", seed, k), dict(parameters))


def _seed(what: str, seed: int, k: int) -> int:
    return episode_seed(seed, name_key(f"sensitivity {what}") & 0xFFFFFFFF | 0x80000000, k)


def _cost(differences: FloatArray, seed: int) -> Estimate:
    low, high = bootstrap_interval(differences.tolist(), np.mean, seed)
    return Estimate(float(differences.mean()), low, high)


def _write(result: Sensitivity, **provenance: Any) -> None:
    with (result.out / TABLE).open("w", newline="") as file:
        writer = csv.writer(file)
        ends = [f"{what}{end}" for what in ("effect", "low", "high") for end in ("", "_from", "_to")]
        writer.writerow(["rank", "entry", "parameters", *ends])
        for rank, factor in enumerate(result.factors, start=1):
            numbers = [n for e in (factor.effect, factor.low, factor.high) for n in (e.value, e.low, e.high)]
            writer.writerow([rank, factor.entry, factor.parameters, *(f"{n:.6g}" for n in numbers)])
    draw_tornado(result, result.out / PLOT)
    write_json(result.out / SUMMARY, result.to_json() | {"provenance": provenance | {"versions": versions()}})


def draw_tornado(result: Sensitivity, path: Path) -> None:
    """A bar to each side for each factor, from the metric on the nominal robot to that at an end of its range, with
    its interval; the costliest on top."""
    from matplotlib.figure import Figure

    shown: Sequence[Factor] = result.factors[:PLOTTED][::-1]
    drawing = Figure(figsize=(8.0, 0.32 * len(shown) + 1.3), layout="constrained")
    axes = drawing.add_subplot()
    for row, factor in enumerate(shown):
        for cost, colour, shift in ((factor.low, "#0072B2", 0.2), (factor.high, "#D55E00", -0.2)):
            label = None if row else f"all at the {'low' if shift > 0 else 'high'} end"
            error = [[max(cost.value - cost.low, 0.0)], [max(cost.high - cost.value, 0.0)]]
            axes.barh(row + shift, cost.value, height=0.38, color=colour, label=label)
            axes.errorbar(cost.value, row + shift, xerr=error, color="black", linewidth=0.8, capsize=2)
    axes.axvline(0.0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(shown)), [factor.entry for factor in shown], fontsize=8)
    axes.set_xlabel(f"{result.metric} less that on the nominal robot, {result.nominal:.4g}")
    axes.set_title(
        f"{build.display_name(result.task)}: one entry at a time, in the order of {result.method}", fontsize=10
    )
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, loc="best")
    drawing.savefig(path, metadata={"Date": None})


def print_sensitivity(result: Sensitivity) -> None:
    """The ranking on stdout."""
    from rich.table import Table

    from simtoreal.progress import console

    what = "mu*" if result.method == "morris" else "total index"
    table = Table(title=f"{result.metric}, {result.nominal:.4g} on the nominal robot", title_justify="left")
    for column in ("entry", "parameters", f"{what} [95 %]", "low end", "high end"):
        table.add_column(column)
    for factor in result.factors:
        cells = (f"{e.value:.4g} [{e.low:.3g}, {e.high:.3g}]" for e in (factor.effect, factor.low, factor.high))
        table.add_row(factor.entry, str(factor.parameters), *cells)
    console().print(table)
    console().print(f"{result.out / TABLE}, {result.out / PLOT}", markup=False)
