"""What it is worth to know the robot, and how: docs/results/knowing-TASK.csv.

    python examples/knowing.py TASK [--kinds KIND ...] [--seeds 0 1 2] [--folder runs/knowing]

Five policies of SAC on the task's preset, each after as many environment steps, judged on the same cases of `heldout`:

- plain: actor and critics see one observation;
- history: both see the last ones;
- state: the actor sees one observation, the critics what ideal sensors would show too;
- asymmetric: the critics see every drawn parameter as well;
- distilled: a teacher that sees the parameters for three quarters of the steps, and a student of it, which sees the
  last observations, for the rest.

What is judged already stays in the table, so that kinds and seeds can be done one at a time.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from results import SLOW, STEPS
from trained import RESULTS, has_row, judged, print_success, rows_of, trained, write_rows

import simtoreal
from simtoreal.runs import is_finished

HISTORY = {"CartPoleSwingUp": 8, "A1Walk": 16}
KINDS = ("plain", "history", "state", "asymmetric", "distilled")
EPISODES = {"nominal": 100, "train": 100, "heldout": 20}  # for each condition


def finished(task: str, kind: str, seed: int, folder: Path) -> Path:
    """The run of a kind and seed, trained if it is not yet."""
    steps, run = STEPS[task][1], folder / task / f"run-{kind}-{seed}"
    common: dict[str, Any] = {"algorithm": "sac", "seed": seed, "randomization": task}
    no_critics = ["privileged=false", "agent.critic_inputs=both"]
    settings = {
        "plain": no_critics,
        "history": [*no_critics, f"agent.history={HISTORY[task]}"],
        "state": ["privileged=state"],
        "asymmetric": ["privileged=true"],
    }
    if kind != "distilled":
        return trained(task, run, steps=steps, assignments=settings[kind], **common)
    teacher = trained(
        task,
        run.with_name(f"run-teacher-{seed}"),
        steps=steps * 3 // 4,
        assignments=["teacher=true", "privileged=true"],
        **common,
    )
    if not is_finished(run):
        history = [f"history={HISTORY[task]}"]
        simtoreal.distill(
            teacher, out=run, steps=steps // 4, checkpoint="last", seed=seed, assignments=history, force=True
        )
    return run


def rows_for(task: str, kind: str, seed: int, folder: Path) -> list[dict[str, Any]]:
    """A row a suite."""
    run = finished(task, kind, seed, folder)
    bundle = simtoreal.export(run, folder / task / f"{kind}-{seed}", checkpoint="last", force=True)
    rows = judged(bundle, folder / task / f"verdict-{kind}-{seed}", EPISODES | SLOW.get(task, {}))
    return [{"task": task, "kind": kind, "seed": seed} | row for row in rows]


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=HISTORY)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs/knowing"))
    options = parser.parse_args()
    path = RESULTS / f"knowing-{options.task}.csv"
    rows = rows_of(path)
    for seed in options.seeds:
        for kind in options.kinds:
            if not has_row(rows, kind=kind, seed=seed):
                rows += rows_for(options.task, kind, seed, options.folder)
                write_rows(path, rows)
    print_success([row for row in rows if row["kind"] in options.kinds], "kind")


if __name__ == "__main__":
    main()
