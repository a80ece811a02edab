"""What each part of Rainbow is worth: docs/results/ablation-TASK.csv.

    python examples/ablation.py TASK [--parts whole double ... dqn] [--seeds 0 1 2] [--steps N] [--folder runs/ablation]

Rainbow whole, without one of its parts at a time, and DQN without any of them, all with the same other settings, those
of `COMMON`: as in Hessel et al. 2018 (arXiv 1710.02298), figure 3. A training is worth the area under its curve, which
is the mean return of its evaluations over its steps, and its last return, the mean of the last `LAST` evaluations. The
table has the difference of each to the whole, of the means over seeds, with its bootstrap interval (seeds are no pairs:
other networks draw other numbers). What is trained already stays in the table, so that parts and seeds can be done one
at a time.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from trained import RESULTS, has_row, rows_of, trained, write_rows

from simtoreal.intervals import bootstrap_interval
from simtoreal.runs import Run

TASK = "MinAtar/Breakout-v1"
FIELDS = ("task", "part", "seed", "steps", "last_return", "area", "cpu_seconds")
WITHOUT: Mapping[str, tuple[str, ...]] = {
    "whole": (),
    "double": ("agent.double=false",),
    "dueling": ("agent.dueling=false",),
    "noisy": ("agent.noisy=false",),
    "prioritized": ("agent.prioritized=false",),
    "n_step": ("agent.n_step=1",),
    "categorical": ("agent.categorical=false",),
}
"""Part -> what takes it out of Rainbow."""
PARTS = (*WITHOUT, "dqn")
COMMON = (
    "agent.learning_rate=2.5e-4", "agent.batch_size=32", "agent.buffer_size=100000", "agent.learning_starts=5000",
    "agent.target_every=250", "agent.updates_per_step=0.25", "agent.adam_eps=1.5e-4", "agent.epsilon_steps=20000",
    "agent.epsilon_end=0.01", "agent.value_low=0", "agent.value_high=20", "evaluate_every=5000",
    "evaluate_episodes=10",
)  # fmt: skip
STEPS = 150_000
LAST = 5


def measured(task: str, part: str, seed: int, steps: int, folder: Path) -> dict[str, Any]:
    """The row of one training, which is done if it is not yet."""
    run = trained(
        task,
        folder / task.replace("/", "-") / f"{part}-{seed}-{steps}",
        algorithm="dqn" if part == "dqn" else "rainbow",
        steps=steps,
        seed=seed,
        randomization="none",
        assignments=[*COMMON, *WITHOUT.get(part, ())],
    )
    summary = Run.load(run).summary
    at, returns = np.array([(row["step"], row["return"]) for row in summary["evaluations"]], float).T
    area = np.trapezoid(returns, at) / (at[-1] - at[0]) if len(at) > 1 else returns[0]
    numbers = (round(float(returns[-LAST:].mean()), 3), round(float(area), 3), round(summary["cpu_seconds"], 1))
    return dict(zip(FIELDS, (task, part, seed, steps, *numbers), strict=True))


def difference(part: Sequence[float], whole: Sequence[float]) -> tuple[float, float, float]:
    """Of the means, with its interval: both sides' seeds are drawn again, each by itself."""
    n = len(part)

    def less(values: Any, axis: int = -1) -> Any:
        return values[..., :n].mean(axis) - values[..., n:].mean(axis)

    both = [*part, *whole]
    sides = ["part"] * n + ["whole"] * len(whole)
    return float(less(np.array(both))), *bootstrap_interval(both, less, 0, strata=sides)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", nargs="?", default=TASK)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--folder", type=Path, default=Path("runs/ablation"))
    options = parser.parse_args()
    path = RESULTS / f"ablation-{options.task.replace('/', '-')}.csv"
    rows = rows_of(path)
    for seed in options.seeds:
        for part in options.parts:
            if has_row(rows, part=part, seed=seed, steps=options.steps):
                continue
            row = measured(options.task, part, seed, options.steps, options.folder)
            rows.append(row)
            write_rows(path, rows)
            print(json.dumps(row), flush=True)
    mine = [row for row in rows if int(row["steps"]) == options.steps]
    for number in ("area", "last_return"):
        of = {part: [float(row[number]) for row in mine if row["part"] == part] for part in PARTS}
        print(f"{number}, and its difference to the whole")
        for part in (part for part in PARTS if of[part]):
            told = f"{part:12} {np.mean(of[part]):8.3f}"
            if part != "whole" and min(len(of[part]), len(of["whole"])) > 1:
                told += "  {:+.3f} [{:+.3f}, {:+.3f}]".format(*difference(of[part], of["whole"]))
            print(f"{told} of seeds {of[part]}")


if __name__ == "__main__":
    main()
