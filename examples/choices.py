"""Robots by discrete commands: docs/results/choices.csv.

    python examples/choices.py TASK [--algorithm dqn] [--seeds 0 1 2] [--folder runs/choices]

DQN by the task's recipe on its preset, PixelCartPole's on the nominal robot; each seed is exported, verified and judged
as any other policy. What is judged already stays in the table, so that tasks and seeds can be done one at a time.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from trained import RESULTS, has_row, judged, print_success, rows_of, trained, write_rows

import simtoreal
from simtoreal.config import recipe

TASKS = ("CartPoleSwingUp", "PixelCartPole", "RacecarPath")
EPISODES = {"nominal": 100, "train": 100, "heldout": 20}  # for each condition
PLAIN = ("PixelCartPole",)  # trained and judged without randomization
TABLE = RESULTS / "choices.csv"


def rows_for(task: str, algorithm: str, seed: int, folder: Path) -> list[dict[str, Any]]:
    """A row a suite."""
    name = f"{task}-{algorithm}-{seed}"
    run = trained(
        task, folder / f"run-{name}", algorithm=algorithm, steps=recipe(task, "dqn")["steps"], seed=seed,
        randomization="none" if task in PLAIN else task,
    )  # fmt: skip
    bundle = simtoreal.export(run, folder / name, checkpoint="best", force=True)
    suites = {"nominal": EPISODES["nominal"]} if task in PLAIN else EPISODES
    rows = judged(bundle, folder / f"verdict-{name}", suites)
    return [{"task": task, "algorithm": algorithm, "seed": seed} | row for row in rows]


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--algorithm", choices=("dqn", "rainbow"), default="dqn")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs/choices"))
    options = parser.parse_args()
    rows = rows_of(TABLE)
    for seed in options.seeds:
        if not has_row(rows, task=options.task, algorithm=options.algorithm, seed=seed):
            rows += rows_for(options.task, options.algorithm, seed, options.folder)
            write_rows(TABLE, rows)
    print_success([row for row in rows if (row["task"], row["algorithm"]) == (options.task, options.algorithm)], "task")


if __name__ == "__main__":
    main()
