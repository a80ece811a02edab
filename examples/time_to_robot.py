"""CPU time on one core until a policy works: docs/results/time-CASE.csv, three seeds.

    python examples/time_to_robot.py CASE [--algorithm sac] [--seeds 0 1 2] [--folder runs/time]

CASE is PandaReach or CartPoleSwingUp (nominal robot), A1Straight (nominal robot, 0.5 m/s straight ahead) or A1Walk (its
preset, all commands; what counts is the share of them that was followed). The clock is the training process's own; the
time it takes to judge is not in it: no episode is judged while it trains, and of every checkpoint the exported bundle
is judged afterwards, on 100 fresh episodes.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from results import commands_followed

import simtoreal
from simtoreal.build import make_env
from simtoreal.contract import Contract
from simtoreal.episodes import PolicySource, run_episode
from simtoreal.policies.checkpoint import checkpoints
from simtoreal.runs import is_finished

EPISODES, ENOUGH = 100, 0.95
OUT = Path(__file__).parent.parent / "docs" / "results"


@dataclass(frozen=True)
class Case:
    """What is trained, for how many steps at the most, and how it is judged: on the training conditions, or with a goal
    on the nominal robot."""

    task: str
    steps: int
    every: int  # steps from checkpoint to checkpoint
    randomization: str = "none"
    goal: tuple[tuple[str, tuple[float, ...]], ...] = ()


CASES = {
    "PandaReach": Case("PandaReach", 10_000, 500),
    "CartPoleSwingUp": Case("CartPoleSwingUp", 30_000, 1_000),
    "A1Straight": Case("A1Walk", 30_000, 2_000, goal=(("velocity_command", (0.5,)), ("yaw_rate_command", (0.0,)))),
    "A1Walk": Case("A1Walk", 120_000, 10_000, "A1Walk"),
}


def train(case: Case, algorithm: str, seed: int, run: Path) -> None:
    """Train in a process of its own, on one thread, without judging on the way."""
    if is_finished(run):
        return
    command = [
        "train", case.task, "--algorithm", algorithm, "--steps", case.steps, "--seed", seed, "--out", run, "--force",
        "--randomization", case.randomization, "--checkpoint-every", case.every, "--json",
        "--set", f"evaluate_every={case.steps}", "--set", "evaluate_episodes=1", "--set", "resumable=false",
    ]  # fmt: skip
    subprocess.run(
        [sys.executable, "-m", "simtoreal", *map(str, command)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        check=True,
    )


def success(case: Case, bundle: Path) -> float:
    """The share of `EPISODES` fresh episodes that succeed; of walks under changing commands that of the commands."""
    if not case.goal:
        suite = "nominal" if case.randomization == "none" else "train"
        folder = bundle.with_name(bundle.name + "-verdict")
        found = simtoreal.evaluate(bundle, out=folder, suites=suite, episodes=EPISODES, force=True)
        if case.task == "A1Walk":
            return commands_followed(found.episodes)
        return statistics.mean(bool(episode.success) for episode in found.episodes)
    env = make_env(f"simtoreal/{case.task}-v0")
    contract, policy = (
        Contract.of(f"simtoreal/{case.task}-v0", env),
        PolicySource(str(bundle), bundle.name, True).open(),
    )
    outcomes = [
        run_episode(env, contract, policy, seed=seed, parameters={}, goal=dict(case.goal)) for seed in range(EPISODES)
    ]
    env.close()
    return statistics.mean(bool(outcome.success) for outcome in outcomes)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--algorithm", default="sac")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs/time"))
    options = parser.parse_args()
    case, rows, reached = CASES[options.case], [], []
    for seed in options.seeds:
        run = options.folder / f"{options.case}-{options.algorithm}-{seed}"
        train(case, options.algorithm, seed, run)
        kept = sorted(int(path.name) for path in checkpoints(run / "checkpoints"))
        for step in (step for step in kept if step % case.every == 0):
            meta = json.loads((run / "checkpoints" / str(step) / "checkpoint.json").read_text())["meta"]
            bundle = run.with_name(run.name + "-bundle")
            simtoreal.export(run, bundle, checkpoint=str(step), force=True)
            share, seconds = success(case, bundle), meta["standing"]["cpu_seconds"]
            rows.append({"seed": seed, "step": step, "cpu_seconds": round(seconds, 1), "success": round(share, 3)})
            print(*rows[-1].values(), flush=True)
            if share >= ENOUGH:
                reached.append(seconds)
                break
    if len(reached) == len(options.seeds):
        print(f"median {statistics.median(reached):.1f} CPU s to {ENOUGH:.0%}")
    OUT.mkdir(parents=True, exist_ok=True)
    with (OUT / f"time-{options.case}-{options.algorithm}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
