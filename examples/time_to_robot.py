"""CPU time on one core until a policy works: docs/results/time-CASE.csv, three seeds.

    python examples/time_to_robot.py CASE [--algorithm sac] [--seeds 0 1 2] [--folder runs/time]

CASE is PandaReach or CartPoleSwingUp (nominal robot), A1Straight (nominal robot, 0.5 m/s straight ahead) or A1Walk (its
preset, all commands; what counts is the share of them that was followed). The clock is the training process's own; the
time it takes to judge is not in it: no episode is judged while it trains, and of every checkpoint the exported bundle
is judged afterwards, on 100 fresh episodes, or on 20 alone where fewer than 15 of these succeed. Our gradient steps are
machine code, which is made before the clock starts, as it is once on a machine for networks of a size.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from results import commands_followed
from trained import RESULTS, write_rows

import simtoreal
from simtoreal.build import make_env
from simtoreal.contract import Contract
from simtoreal.episodes import PolicySource, run_episode
from simtoreal.policies.checkpoint import checkpoints
from simtoreal.runs import is_finished

OURS = ("sac", "td3")  # whose gradient steps can be compiled
EPISODES, FIRST, HOPEFUL, ENOUGH = 100, 20, 0.75, 0.95


@dataclass(frozen=True)
class Case:
    """What is trained, for how many steps at the most, and how it is judged: on the training conditions, or with a goal
    on the nominal robot; and our settings where they are not the recipe's, which is made for randomized robots."""

    task: str
    steps: int
    every: int  # steps from checkpoint to checkpoint
    randomization: str = "none"
    goal: tuple[tuple[str, tuple[float, ...]], ...] = ()
    settings: tuple[str, ...] = ()


CASES = {
    "PandaReach": Case("PandaReach", 10_000, 500, settings=("agent.hidden=[64,64]",)),
    "CartPoleSwingUp": Case("CartPoleSwingUp", 30_000, 1_000),
    "A1Straight": Case("A1Walk", 30_000, 2_000, goal=(("velocity_command", (0.5,)), ("yaw_rate_command", (0.0,)))),
    "A1Walk": Case("A1Walk", 120_000, 10_000, "A1Walk"),
}


def train(case: Case, algorithm: str, seed: int, run: Path, assignments: Sequence[str] = ()) -> None:
    """Train, unless that was done, in a process of its own, on one thread, without judging on the way; `assignments` as
    of `--set`."""
    if is_finished(run):
        return
    if algorithm in OURS:
        assignments = ("agent.compile=true", *case.settings, *assignments)
        brief = replace(case, steps=200)  # and so it is compiled
        _train(brief, algorithm, seed, run, [*assignments, "agent.learning_starts=100"])
    _train(case, algorithm, seed, run, assignments)


def _train(case: Case, algorithm: str, seed: int, run: Path, assignments: Sequence[str]) -> None:
    command = [
        "train", case.task, "--algorithm", algorithm, "--steps", case.steps, "--seed", seed, "--out", run, "--force",
        "--randomization", case.randomization, "--checkpoint-every", case.every, "--json",
        "--set", f"evaluate_every={case.steps}", "--set", "evaluate_episodes=1", "--set", "resumable=false",
        *(word for text in assignments for word in ("--set", text)),
    ]  # fmt: skip
    subprocess.run(
        [sys.executable, "-m", "simtoreal", *map(str, command)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        check=True,
    )


def success(case: Case, bundle: Path, episodes: int) -> float:
    """The share of so many fresh episodes that succeed; of walks under changing commands that of the commands."""
    if not case.goal:
        suite = "nominal" if case.randomization == "none" else "train"
        folder = bundle.with_name(bundle.name + "-verdict")
        found = simtoreal.evaluate(bundle, out=folder, suites=suite, episodes=episodes, force=True)
        if case.task == "A1Walk":
            return commands_followed(found.episodes)
        return statistics.mean(bool(episode.success) for episode in found.episodes)
    env = make_env(f"simtoreal/{case.task}-v0")
    contract, policy = (
        Contract.of(f"simtoreal/{case.task}-v0", env),
        PolicySource(str(bundle), bundle.name, True).open(),
    )
    outcomes = [
        run_episode(env, contract, policy, seed=seed, parameters={}, goal=dict(case.goal)) for seed in range(episodes)
    ]
    env.close()
    return statistics.mean(bool(outcome.success) for outcome in outcomes)


def judged(case: Case, run: Path) -> Iterator[dict[str, float]]:
    """Step, CPU seconds and success of a run's checkpoints, oldest first, until one has succeeded often enough."""
    for step in sorted(int(path.name) for path in checkpoints(run / "checkpoints")):
        if step % case.every:
            continue
        meta = json.loads((run / "checkpoints" / str(step) / "checkpoint.json").read_text())["meta"]
        bundle = run.with_name(run.name + "-bundle")
        simtoreal.export(run, bundle, checkpoint=str(step), force=True)
        share = success(case, bundle, FIRST)
        if share >= HOPEFUL:
            share = success(case, bundle, EPISODES)
        yield {"step": step, "cpu_seconds": round(meta["standing"]["cpu_seconds"], 1), "success": round(share, 3)}
        if share >= ENOUGH:
            return


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--algorithm", default="sac")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs/time"))
    options = parser.parse_args()
    case = CASES[options.case]
    rows: list[dict[str, float]] = []
    reached: list[float] = []
    for seed in options.seeds:
        run = options.folder / f"{options.case}-{options.algorithm}-{seed}"
        train(case, options.algorithm, seed, run)
        for row in judged(case, run):
            rows.append({"seed": seed} | row)
            print(*rows[-1].values(), flush=True)
        reached.append(rows[-1]["cpu_seconds"] if rows[-1]["success"] >= ENOUGH else math.inf)
    print(f"median {statistics.median(reached):.1f} CPU s to {ENOUGH:.0%} (inf: not by {case.steps} steps)")
    write_rows(RESULTS / f"time-{options.case}-{options.algorithm}.csv", rows)


if __name__ == "__main__":
    main()
