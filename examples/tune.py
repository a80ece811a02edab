"""The settings with which an algorithm makes a robot work soonest: docs/results/tuning-CASE-ALGORITHM.csv.

    python examples/tune.py CASE ALGORITHM [--steps N] [--folder runs/tune]

CASE is as in time_to_robot.py, ALGORITHM sac or sb3-sac. A greedy search with seed 0: it begins with the recipe and
tries one change after another upon the best so far; a change stays if 95 of 100 episodes succeed after less CPU time
or, where that is never reached, if more of the last checkpoint's do. Both algorithms get the same changes, and so the
same number of trainings. What is trained already is not trained again. What is found belongs into the recipe.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import replace
from pathlib import Path

from time_to_robot import CASES, ENOUGH, judged, train
from trained import RESULTS

Change = tuple[str, ...]  # as of --set
CHANGES: dict[str, dict[str, Change]] = {
    "sac": {
        "tau 0.02": ("agent.tau=0.02",),
        "64 units": ("agent.hidden=[64,64]",),
        "128 units": ("agent.hidden=[128,128]",),
        "batch 128": ("agent.batch_size=128",),
        "rates 5e-4": ("agent.actor_lr=5e-4", "agent.critic_lr=5e-4", "agent.alpha_lr=5e-4"),
        "gamma 0.95": ("agent.gamma=0.95",),
        "gSDE": ("agent.sde=true",),
    },
    "sb3-sac": {
        "tau 0.02": ("agent.tau=0.02",),
        "64 units": ("agent.policy_kwargs.net_arch=[64,64]",),
        "128 units": ("agent.policy_kwargs.net_arch=[128,128]",),
        "batch 128": ("agent.batch_size=128",),
        "rates 5e-4": ("agent.learning_rate=5e-4",),
        "gamma 0.95": ("agent.gamma=0.95",),
        "gSDE": ("agent.use_sde=true",),
    },
}
FIELDS = ("change", "kept", "settings", "step", "cpu_seconds", "success")


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("algorithm", choices=CHANGES)
    parser.add_argument("--steps", type=int, help="of a training; default: the case's own")
    parser.add_argument("--folder", type=Path, default=Path("runs/tune"))
    options = parser.parse_args()
    case = replace(CASES[options.case], steps=options.steps or CASES[options.case].steps)
    best: dict[str, Change] = {}
    best_rank: tuple[float, float] | None = None
    path = RESULTS / f"tuning-{options.case}-{options.algorithm}.csv"
    RESULTS.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(FIELDS)
        for name, change in {"recipe": (), **CHANGES[options.algorithm]}.items():
            tried = {**best, name: change}
            settings = [text for each in tried.values() for text in each]
            words = "+".join(tried).replace(" ", "-")
            run = options.folder / f"{options.case}-{options.algorithm}-{case.steps}-{words}"
            train(case, options.algorithm, 0, run, settings)
            *_, last = judged(case, run)
            reached = last["success"] >= ENOUGH
            rank = (0.0, last["cpu_seconds"]) if reached else (1.0, -last["success"])
            kept = best_rank is None or rank < best_rank
            if kept:
                best, best_rank = tried, rank
            row = (name, kept, " ".join(settings), last["step"], last["cpu_seconds"], last["success"])
            writer.writerow(row)
            file.flush()
            print(*row, flush=True)
    print(f"best: {', '.join(best)}")


if __name__ == "__main__":
    main()
