"""Our learner beside Stable-Baselines3's with the same settings: docs/results/against-sb3-TASK-ALGORITHM.csv.

    python examples/against_sb3.py TASK ALGORITHM STEPS [--seeds 0 1 2] [--folder runs/against-sb3]

TASK is a gymnasium id, such as pybullet_envs_gymnasium:HalfCheetahBulletEnv-v0 (pip install pybullet_envs_gymnasium),
ALGORITHM is sac, td3 or ppo; the settings of both are in simtoreal/recipes. The last policies' bundles are judged on
100 fresh episodes. What is trained already is not trained again, what was stopped goes on, and what was judged stays in
the table, so that seeds can be done one at a time. The difference of the interquartile means is ours less theirs, its
interval a bootstrap over seeds, and over episodes within a seed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from trained import RESULTS, rows_of, trained, write_rows

import simtoreal
from simtoreal.statistics import iqm

EPISODES, DRAWS = 100, 10_000
FIELDS = ("learner", "seed", "episode", "return")
Table = dict[tuple[str, int], list[float]]  # learner and seed -> returns


def load(path: Path) -> Table:
    """What was judged before."""
    table: Table = {}
    for row in rows_of(path):
        table.setdefault((row["learner"], int(row["seed"])), []).append(float(row["return"]))
    return table


def save(path: Path, table: Table) -> None:
    """A row an episode."""
    rows = [
        dict(zip(FIELDS, (learner, seed, i, round(value, 2)), strict=True))
        for (learner, seed), returns in sorted(table.items())
        for i, value in enumerate(returns)
    ]
    write_rows(path, rows)


def returns_of(task: str, learner: str, steps: int, seed: int, folder: Path) -> list[float]:
    """Train, unless that was done, or go on with it where it was stopped, and judge the last policy."""
    run = folder / f"{task.rpartition(':')[2]}-{learner}-{seed}"
    trained(task, run, algorithm=learner, steps=steps, seed=seed, randomization="none")
    bundle = simtoreal.export(run, run.with_name(run.name + "-bundle"), checkpoint="last", force=True)
    out = run.with_name(run.name + "-verdict")
    verdict = simtoreal.evaluate(bundle, task=task, out=out, suites="nominal", episodes=EPISODES, force=True)
    return [episode.return_ for episode in verdict.episodes]


def difference(ours: list[list[float]], theirs: list[list[float]]) -> tuple[float, float, float]:
    """Of the interquartile means of all episodes, with its 95 % interval; one list a seed."""
    rng = np.random.default_rng(0)

    def drawn(sides: list[list[float]]) -> float:
        seeds = [np.asarray(sides[i]) for i in rng.integers(len(sides), size=len(sides))]
        return iqm(np.concatenate([rng.choice(seed, len(seed)) for seed in seeds]))

    spread = [drawn(ours) - drawn(theirs) for _ in range(DRAWS)]
    low, high = np.quantile(spread, [0.025, 0.975])
    return iqm(np.concatenate(ours)) - iqm(np.concatenate(theirs)), float(low), float(high)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task")
    parser.add_argument("algorithm", choices=["sac", "td3", "ppo"])
    parser.add_argument("steps", type=int)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs/against-sb3"))
    options = parser.parse_args()
    path = RESULTS / f"against-sb3-{options.task.rpartition(':')[2]}-{options.algorithm}.csv"
    learners = (options.algorithm, f"sb3-{options.algorithm}")
    for seed in options.seeds:
        for learner in learners:
            if (learner, seed) not in load(path):
                found = returns_of(options.task, learner, options.steps, seed, options.folder)
                save(path, load(path) | {(learner, seed): found})
            print(f"{learner} seed {seed}: {np.mean(load(path)[learner, seed]):.0f}", flush=True)
    ours, theirs = ([found for (name, _), found in load(path).items() if name == learner] for learner in learners)
    value, low, high = difference(ours, theirs)
    print(f"interquartile mean, ours less Stable-Baselines3's: {value:+.0f} [{low:+.0f}, {high:+.0f}]")


if __name__ == "__main__":
    main()
