"""The figures of docs/results/finetune-TASK.csv: fine-tuning on a robot that differs from its model, three seeds.

    python examples/finetune.py TASK [--seeds 0 1 2] [--folder runs/finetune]

Trains the base on the nominal robot and, to show what could be gained, a policy on the target itself; fine-tunes the
base on the target with each seed; judges all of them on the same 500 episodes of the target; writes the table. What is
there already is not made again. CartPoleSwingUp's policy on the target begins with the base's agent: from scratch none
gets the pole up there.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import torch
from trained import RESULTS, trained, write_rows

import simtoreal
from simtoreal import build
from simtoreal.algorithms import pick_device
from simtoreal.differences import paired_difference
from simtoreal.judge import Judge
from simtoreal.learners import make_learner
from simtoreal.policies.checkpoint import load_latest
from simtoreal.randomization.yaml_files import write_yaml
from simtoreal.recorder import Recorder
from simtoreal.robot import Target
from simtoreal.runs import CHECKPOINTS, Run, is_finished
from simtoreal.statistics import Episode, wilson
from simtoreal.training_envs import TrainingEnvs

STEPS = {
    "PandaReach": (10_000, 10_000),
    "CartPoleSwingUp": (30_000, 20_000),
    "A1Walk": (50_000, 50_000),
}  # of the base, of the trained one
FROM_BASE = ("CartPoleSwingUp",)  # from scratch no policy learns to swing the pole up with the weak motor
ROBOT_SECONDS = {"PandaReach": 300.0, "CartPoleSwingUp": 600.0, "A1Walk": 600.0}
SETTINGS = {
    "A1Walk": ["noise=0.05"],  # a walk does not bear the default of 0.1 in twelve joints
    "CartPoleSwingUp": ["slack=0.2"],  # its returns are so alike that noise alone would look like a step back
}
BASE = {
    "CartPoleSwingUp": ["agent.hidden=[128,128]", "agent.tau=0.01"],  # a base of today's recipe stands its target
    "A1Walk": [  # as its figures were made
        "agent.hidden=[256,256]",
        "agent.n_critics=2",
        "agent.gamma=0.98",
        "agent.updates_per_step=0.5",
        "episode_steps=500",
    ],
}
EPISODES = 500
TARGETS = Path(__file__).parent / "targets"


def policies(task: str, seeds: list[int], folder: Path) -> dict[str, Path]:
    """Policy name -> run: the base, the one trained on the target, and the fine-tuned ones."""
    target = TARGETS / f"{task}.yaml"
    preset = Target.load(target).preset.to_data()
    folder.mkdir(parents=True, exist_ok=True)
    write_yaml(folder / "preset.yaml", preset)
    suite = {"task": task, "name": "target", "version": 1, "conditions": {"target": preset["entries"]}}
    write_yaml(folder / "suite.yaml", suite)
    runs = {name: folder / f"run-{name}" for name in ("base", "trained", *(f"tuned-{seed}" for seed in seeds))}
    first, second = STEPS[task]
    settings = BASE.get(task, ())
    base = trained(task, runs["base"], steps=first, seed=0, randomization="none", assignments=settings)
    if task not in FROM_BASE:
        trained(
            task,
            runs["trained"],
            steps=second,
            seed=0,
            randomization=str(folder / "preset.yaml"),
            assignments=[*settings, "randomization_ramp=[0,0]"],  # it is one robot from the first episode
        )
    elif not is_finished(runs["trained"]):
        train_on(base, folder / "preset.yaml", second, runs["trained"])
    for seed in seeds:
        run = runs[f"tuned-{seed}"]
        if not is_finished(run):
            result = simtoreal.finetune(
                base,
                target=target,
                robot_seconds=ROBOT_SECONDS[task],
                out=run,
                checkpoint="last",
                seed=seed,
                assignments=SETTINGS.get(task, ()),
                force=True,
            )
            print(f"{task} seed {seed}: {result.reason}", flush=True)
    return runs


def train_on(base: Path, preset: Path, steps: int, out: Path) -> None:
    """A run of its own under `preset`, whose agent is at first the base's; its replay is empty."""
    origin = Run.load(base)
    config = origin.config.model_copy(update={"randomization": str(preset), "steps": steps})
    device = pick_device(config.device)
    torch.set_num_threads(config.threads)
    _, tensors, _ = load_latest(base / CHECKPOINTS)
    environments, evaluator = TrainingEnvs(config), Judge(config)
    try:
        learner = make_learner(config, environments, device)
        learnt = {name: t for name, t in tensors.items() if name.startswith("agent.") and name != "agent.rng"}
        learner.restore(learner.tensors() | learnt, learner.numbers())
        randomizer = build.make_randomizer(config.randomization, evaluator.env, config.task)
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        recorder = Recorder(out, config, learner, evaluator, environments, randomizer=randomizer, device=device)
        recorder.begin()
        recorder.follow(None)
    finally:
        evaluator.close()
        environments.close()


def judge(runs: dict[str, Path], folder: Path) -> dict[str, list[Episode]]:
    """The episodes of each policy's bundle on the target."""
    bundles = {}
    for name, run in runs.items():
        bundles[name] = folder / name
        checkpoint = "best" if name.startswith("tuned") else "last"
        simtoreal.export(run, bundles[name], checkpoint=checkpoint, force=True)
        verification = simtoreal.verify(bundles[name])
        assert verification.passed, verification
    verdict = simtoreal.evaluate(
        list(bundles.values()),
        suites=[str(folder / "suite.yaml")],
        episodes=EPISODES,
        out=folder / "verdict",
        seed=1,
        force=True,
    )
    for figures in verdict.summary.suites:
        success = figures.pooled.success
        print(f"{figures.bundle}: {success.value:.3f} [{success.low:.3f}, {success.high:.3f}]")
    return {name: [e for e in verdict.episodes if e.bundle == name] for name in runs}


def rows(task: str, runs: dict[str, Path], episodes: dict[str, list[Episode]]) -> list[dict[str, Any]]:
    """One row a policy, and one for each paired difference to the base."""
    rates = {name: sum(e.success for e in found) / len(found) for name, found in episodes.items()}
    table: list[dict[str, Any]] = []
    for name, found in episodes.items():
        about = Run.load(runs[name]).summary.get("finetune", {})
        low, high = wilson(sum(e.success for e in found), len(found))
        table.append(
            {
                "task": task,
                "policy": name,
                "episodes": len(found),
                "success": round(rates[name], 4),
                "low": round(low, 4),
                "high": round(high, 4),
                "robot_seconds": about.get("robot_seconds", ""),
                "accepted": about.get("accepted", ""),
                "falls": about.get("falls", ""),
                "violations": about.get("violations", ""),
                "rollbacks": about.get("rollbacks", ""),
            }
        )
    for name in episodes:
        if name == "base":
            continue
        difference = paired_difference(episodes[name], episodes["base"], 0)
        d = difference.difference
        head = {"task": task, "policy": f"{name} minus base", "episodes": difference.n}
        closed = round((rates[name] - rates["base"]) / (rates["trained"] - rates["base"]), 4)
        numbers = {"success": round(d.value, 4), "low": round(d.low, 4), "high": round(d.high, 4)}
        table.append(head | numbers | {"headroom_closed": closed})
    return table


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=STEPS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs/finetune"))
    options = parser.parse_args()
    folder = options.folder / options.task
    runs = policies(options.task, options.seeds, folder)
    table = rows(options.task, runs, judge(runs, folder))
    write_rows(RESULTS / f"finetune-{options.task}.csv", table)
    for row in table:
        print("  ".join(f"{name}={value}" for name, value in row.items() if value != ""))


if __name__ == "__main__":
    main()
