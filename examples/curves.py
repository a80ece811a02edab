"""Learning curves of a task and an algorithm by its recipe, a seed at a time: docs/results/curve-TASK-ALGORITHM.csv.

    python examples/curves.py TASK ALGORITHM STEPS [--seeds 0 1 2] [--folder runs/curves]

Each row is the mean return, and success where the task tells, of 20 fresh episodes of the deterministic policy. What
is trained already is not trained again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from trained import RESULTS, trained, write_rows

from simtoreal.runs import METRICS

EVALUATIONS = 10


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task")
    parser.add_argument("algorithm")
    parser.add_argument("steps", type=int)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs/curves"))
    options = parser.parse_args()
    rows = []
    for seed in options.seeds:
        run = trained(
            options.task,
            options.folder / f"{options.task}-{options.algorithm}-{seed}",
            algorithm=options.algorithm,
            steps=options.steps,
            seed=seed,
            randomization="none",
            assignments=[f"evaluate_every={options.steps // EVALUATIONS}", "evaluate_episodes=20"],
        )
        for line in map(json.loads, (run / METRICS).read_text().splitlines()):
            if "eval/mean_reward" in line:
                rows.append({"seed": seed, "step": line["step"], "return": round(line["eval/mean_reward"], 2)})
                if "eval/success_rate" in line:
                    rows[-1]["success"] = line["eval/success_rate"]
                print(*rows[-1].values())
    write_rows(RESULTS / f"curve-{options.task}-{options.algorithm}.csv", rows)


if __name__ == "__main__":
    main()
