"""The figures of README.md: each task with its learner (SAC; PPO of choices and images), three seeds, with the task's
preset and without, judged on fresh robots.

    python examples/results.py TASK|ROBOT [--seeds 0 1 2] [--kinds randomized plain] [--folder runs/results]

Trains what is missing, exports, verifies and evaluates, then writes docs/results/TASK.csv (one row a policy and
suite) and prints it. A seed takes about a quarter of an hour on one core, of A1Walk an hour.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trained import RESULTS, trained, write_rows

import simtoreal
from simtoreal.differences import paired_difference
from simtoreal.statistics import Episode, Estimate, bootstrap_interval

STEPS = {  # without randomization, with
    "CartPoleSwingUp": (30_000, 40_000),
    "CartPoleBalance": (10_000, 10_000),
    "CartPoleBalanceDiscrete": (20_480, 40_960),
    "PixelCartPole": (40_960, 61_440),
    "PixelCartPoleRGB": (40_960, 61_440),
    "PandaReach": (10_000, 30_000),
    "KukaReach": (5_000, 15_000),
    "XArmReach": (5_000, 15_000),
    "PandaPush": (30_000, 60_000),
    "A1Walk": (50_000, 200_000),
    "AliengoWalk": (50_000, 200_000),
    "QuadrotorHover": (20_000, 40_000),
    "QuadrotorTrajectory": (30_000, 50_000),
    "RacecarPath": (4_000, 8_000),
}
ROBOTS = ("spirit40", "mini_cheetah", "laikago")  # walkers by robot files, of the family's preset
STEPS |= dict.fromkeys(ROBOTS, STEPS["A1Walk"])
WALKS = ("A1Walk", "AliengoWalk", *ROBOTS)  # whose figures count commands too
EQUAL = ("CartPoleSwingUp", "PandaReach")  # where plain policies are trained as long as randomized ones, to compare
BEST = ("CartPoleSwingUp",)  # a swing-up's return dips at times: the best of a run's checkpoints, not the last
KINDS = ("randomized", "plain")
EPISODES = {"nominal": 100, "train": 300, "heldout": 20}  # for each condition
SLOW = {walk: {"train": 100} for walk in WALKS}  # where it would take hours


def train(task: str, kind: str, seed: int, folder: Path) -> Path:
    """The finished run of one kind and seed."""
    first, steps = STEPS[task]
    name = "Walk" if task in ROBOTS else task
    return trained(
        name,
        folder / task / f"run-{kind}-{seed}",
        robot=task if task in ROBOTS else None,
        steps=first if kind == "plain" and task not in EQUAL else steps,
        seed=seed,
        randomization=name if kind == "randomized" else "none",
        checkpoint_every=first,
    )


def bundles(task: str, seeds: list[int], folder: Path, kinds: Sequence[str]) -> dict[str, Path]:
    """Bundle name -> folder: both kinds after equal steps, where they are, and the plain one after its own budget."""
    first, _ = STEPS[task]
    found = {}
    for seed in seeds:
        for kind in kinds:
            run = train(task, kind, seed, folder)
            chosen: dict[str, str] = {}
            if kind == "randomized" or task in EQUAL:
                chosen[f"{kind}-{seed}"] = "best" if task in BEST else "last"
            if kind == "plain":
                chosen[f"plain-{first // 1000}k-{seed}"] = str(first)
            for name, checkpoint in chosen.items():
                bundle = folder / task / name
                simtoreal.export(run, bundle, checkpoint=checkpoint, force=True)
                verification = simtoreal.verify(bundle)
                assert verification.passed, verification
                found[name] = bundle
    return found


def judge(task: str, found: dict[str, Path], folder: Path) -> tuple[list[dict[str, Any]], list[Episode]]:
    """One row a bundle and suite, and every episode."""
    rows: list[dict[str, Any]] = []
    episodes: list[Episode] = []
    for suite, count in (EPISODES | SLOW.get(task, {})).items():
        verdict = simtoreal.evaluate(
            list(found.values()), out=folder / task / f"verdict-{suite}", suites=[suite], episodes=count, force=True
        )
        episodes += verdict.episodes
        for figures in verdict.summary.suites:
            success: Estimate = figures.pooled.success
            rows.append(
                {
                    "task": task,
                    "policy": figures.bundle,
                    "suite": suite,
                    "episodes": figures.pooled.n,
                    "success": round(success.value, 4),
                    "low": round(success.low, 4),
                    "high": round(success.high, 4),
                    "return_iqm": round(figures.pooled.return_iqm.value, 3),
                    "action_rate": round(figures.pooled.action_rate, 3),
                    "worst_condition": figures.worst.condition,
                    "worst_success": round(figures.worst.success.value, 4),
                }
            )
            if task in WALKS:
                own = [e for e in verdict.episodes if e.bundle == figures.bundle and e.held_out >= figures.held_out]
                rows[-1]["commands_followed"] = round(commands_followed(own), 4)
    return rows, episodes


def commands_followed(walks: Sequence[Episode]) -> float:
    """Share of the two commands of each walk that were followed; one that ended in a fall followed none."""
    missed = [
        2 if "failed" in e.unmet.split("; ") else len({part.partition(":")[0] for part in e.unmet.split("; ") if part})
        for e in walks
    ]
    return 1.0 - sum(missed) / (2 * len(walks))


def differences(seeds: list[int], episodes: list[Episode]) -> Iterator[dict[str, Any]]:
    """Randomized minus plain on cases held out for both, each seed and over all seeds' means."""
    values = []
    for seed in seeds:
        sides = [
            [e for e in episodes if e.bundle == f"{kind}-{seed}" and e.suite == "heldout"]
            for kind in ("randomized", "plain")
        ]
        both = set.intersection(*({e.case for e in side if e.held_out} for side in sides))
        randomized, plain = ([e for e in side if e.case in both] for side in sides)
        found = paired_difference(randomized, plain, 0)
        values.append(found.difference.value)
        yield {"seed": str(seed), "n": found.n, "difference": found.difference}
    if len(values) > 1:
        import numpy as np

        low, high = bootstrap_interval(values, np.mean, 0)
        yield {"seed": "mean of seeds", "n": len(values), "difference": Estimate(float(np.mean(values)), low, high)}


def figure(task: str, seeds: list[int], episodes: list[Episode], path: Path) -> None:
    """Success in each held-out condition: one dot a seed, randomized beside plain, a bar at the mean."""
    from matplotlib.figure import Figure

    held = [e for e in episodes if e.suite == "heldout" and e.held_out]
    conditions = list(dict.fromkeys(e.condition for e in held))[::-1]
    drawing = Figure(figsize=(8.0, 0.34 * len(conditions) + 1.2), layout="constrained")
    axes = drawing.add_subplot()
    for kind, colour, shift in (("randomized", "#0072B2", 0.16), ("plain", "#D55E00", -0.16)):
        for row, condition in enumerate(conditions):
            rates = []
            for seed in seeds:
                outcomes = [e.success for e in held if e.bundle == f"{kind}-{seed}" and e.condition == condition]
                rates.append(100.0 * sum(outcomes) / len(outcomes))
            label = f"{kind} (one dot a seed)" if row == 0 else None
            axes.plot(rates, [row + shift] * len(rates), "o", color=colour, markersize=5, alpha=0.75, label=label)
            axes.plot(
                [sum(rates) / len(rates)] * 2, [row + shift - 0.14, row + shift + 0.14], color=colour, linewidth=2
            )
    axes.set_yticks(range(len(conditions)), conditions, fontsize=9)
    axes.set_xlim(-2, 102)
    axes.set_xlabel("success under conditions never seen in training [%]")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"{task}: each held-out condition, {len(seeds)} seeds", loc="left", fontsize=10)
    axes.legend(loc="upper left", fontsize=8, framealpha=0.9)
    drawing.savefig(path, metadata={"Date": None})


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=STEPS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--folder", type=Path, default=Path("runs/results"))
    options = parser.parse_args()
    found_bundles = bundles(options.task, options.seeds, options.folder, options.kinds)
    rows, episodes = judge(options.task, found_bundles, options.folder)
    compared = options.task in EQUAL and len(options.kinds) > 1
    for found in differences(options.seeds, episodes) if compared else ():
        d = found["difference"]
        rows.append(
            {
                "task": options.task,
                "policy": f"randomized minus plain, seed {found['seed']}" if found["seed"].isdigit() else found["seed"],
                "suite": "heldout",
                "episodes": found["n"],
                "success": round(d.value, 4),
                "low": round(d.low, 4),
                "high": round(d.high, 4),
            }
        )
    write_rows(RESULTS / f"{options.task}.csv", rows)
    if compared:
        figure(options.task, options.seeds, episodes, RESULTS / f"{options.task}.svg")
    for row in rows:
        print("  ".join(f"{value}" for value in row.values()))


if __name__ == "__main__":
    main()
