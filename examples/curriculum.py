"""Ranges that find themselves beside a preset written by hand: docs/results/curriculum-TASK.csv.

    python examples/curriculum.py TASK [--seeds 0 1 2] [--folder runs/results]

Automatic domain randomization that begins with the nominal robot, and the preset from the start, each trained for as
many environment steps; the last policies are judged on the same cases of `heldout`, all of them, whether a training
happened to reach them or not. The difference of their success is the curriculum's less the preset's; its interval is a
bootstrap over seeds, and within a seed over the cases of each condition. The preset's trainings are those of
examples/results.py, if they lie in the same folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from results import SLOW, STEPS, train
from trained import RESULTS, trained, write_rows

import simtoreal
from simtoreal.statistics import Episode

CURRICULA = {
    "PandaReach": {"step": 0.5},
    "A1Walk": {"step": 0.25, "queue": 2, "metric": "return", "high": 780.0, "low": 500.0},
}
"""What differs from the defaults. A walk's success, with exploration, comes long after it walks."""
EPISODES = {"nominal": 100, "train": 100, "heldout": 20}  # for each condition
DRAWS = 10_000


def bundles(task: str, seed: int, folder: Path) -> dict[str, Path]:
    """Name -> bundle of the two trainings of a seed."""
    adr = trained(
        task,
        folder / task / f"run-adr-{seed}",
        steps=STEPS[task][1],
        seed=seed,
        randomization=task,
        assignments=[f"curriculum={{kind: adr, {', '.join(f'{k}: {v}' for k, v in CURRICULA[task].items())}}}"],
    )
    found = {}
    for kind, run in (("adr", adr), ("preset", train(task, "randomized", seed, folder))):
        bundle = folder / task / f"{kind}-{seed}"
        simtoreal.export(run, bundle, checkpoint="last", force=True)
        assert simtoreal.verify(bundle).passed, bundle
        found[bundle.name] = bundle
    return found


def difference(adr: Sequence[Sequence[Episode]], preset: Sequence[Sequence[Episode]]) -> tuple[float, float, float]:
    """Of the shares of successes, paired by case, with its 95 % interval; one list of episodes a seed."""
    rng = np.random.default_rng(0)
    seeds: list[list[np.ndarray]] = []  # of each the differences in each condition
    for mine, theirs in zip(adr, preset, strict=True):
        other = {e.case: bool(e.success) for e in theirs}
        conditions: dict[str, list[float]] = {}
        for e in mine:
            conditions.setdefault(str(e.condition), []).append(float(bool(e.success)) - other[e.case])
        seeds.append([np.array(values) for values in conditions.values()])
    drawn = [
        np.mean(
            [
                np.concatenate([rng.choice(v, len(v)) for v in seeds[i]]).mean()
                for i in rng.integers(len(seeds), size=len(seeds))
            ]
        )
        for _ in range(DRAWS)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(np.mean([np.concatenate(seed).mean() for seed in seeds])), float(low), float(high)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=CURRICULA)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs/results"))
    options = parser.parse_args()
    task, folder = options.task, options.folder
    found: dict[str, Path] = {}
    for seed in options.seeds:
        found |= bundles(task, seed, folder)
    rows: list[dict[str, Any]] = []
    episodes: list[Episode] = []
    for suite, count in (EPISODES | SLOW.get(task, {})).items():
        verdict = simtoreal.evaluate(
            list(found.values()), out=folder / task / f"curriculum-{suite}", suites=[suite], episodes=count, force=True
        )
        episodes += verdict.episodes
        for name in found:
            mine = [e for e in verdict.episodes if e.bundle == name]
            success = sum(bool(e.success) for e in mine) / len(mine)
            rows.append(
                {"task": task, "policy": name, "suite": suite, "episodes": len(mine), "success": round(success, 4)}
            )
    sides = [
        [[e for e in episodes if e.suite == "heldout" and e.bundle == f"{kind}-{seed}"] for seed in options.seeds]
        for kind in ("adr", "preset")
    ]
    value, low, high = difference(*sides)
    rows.append(
        {
            "task": task,
            "policy": "adr less preset",
            "suite": "heldout",
            "episodes": sum(map(len, sides[0])),
            "success": round(value, 4),
            "low": round(low, 4),
            "high": round(high, 4),
        }
    )
    write_rows(RESULTS / f"curriculum-{task}.csv", rows)
    for row in rows:
        print("  ".join(f"{value}" for value in row.values()))


if __name__ == "__main__":
    main()
