"""What a memory is worth where the newest observation does not tell all: docs/results/memory.csv.

    python examples/memory.py [--algorithms sac ppo] [--seeds 0 1 2] [--folder runs/memory]

Pendulum-v1 without its angular velocity, learned without any memory, with the last three observations and with a
recurrent layer. Each row is the mean return of 20 fresh episodes of the deterministic policy. What is trained is
not trained again, what was measured stays in the table.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from trained import RESULTS, rows_of, trained, write_rows

from simtoreal.runs import METRICS

TASK = "PendulumWithoutVelocity-v0"
OUT = RESULTS / "memory.csv"
EVALUATIONS = 5
STEPS = {"sac": 20_000, "ppo": 262_144}
COMMON = {
    "sac": ["agent.actor_lr=1e-3", "agent.critic_lr=1e-3", "agent.alpha_lr=1e-3", "agent.learning_starts=500",
            "agent.hidden=[64,64]"],
    "ppo": ["envs=4", "agent.rollout=1024", "agent.batch_size=256", "agent.gamma=0.95", "agent.learning_rate=1e-3",
            "agent.log_std=-0.7", "agent.max_gradient=20", "agent.normalize_observations=false"],
}  # fmt: skip
MEMORIES = {"none": [], "history": ["agent.history=3"], "recurrent": ["agent.recurrent=32"]}


class PendulumWithoutVelocity(gym.Wrapper[np.ndarray, np.ndarray, np.ndarray, np.ndarray]):
    """Shows where the pendulum is, not how fast it moves."""

    def __init__(self) -> None:
        super().__init__(gym.make("Pendulum-v1").unwrapped)
        self.observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, **options: Any) -> tuple[np.ndarray, dict[str, Any]]:
        obs, info = self.env.reset(**options)
        return obs[:2], info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        obs, *rest = self.env.step(action)
        return (obs[:2], *rest)


if TASK not in gym.registry:
    gym.register(TASK, PendulumWithoutVelocity, max_episode_steps=200)


def measured(run: Path, algorithm: str, memory: str, seed: int) -> list[dict[str, Any]]:
    """Train, unless that was done; a row for each time it was judged."""
    steps = STEPS[algorithm]
    judged = [f"evaluate_every={steps // EVALUATIONS}", "evaluate_episodes=20"]
    settings = [*COMMON[algorithm], *MEMORIES[memory], *judged]
    trained(TASK, run, algorithm=algorithm, steps=steps, seed=seed, assignments=settings)
    lines = [line for line in map(json.loads, (run / METRICS).read_text().splitlines()) if "eval/mean_reward" in line]
    about = {"algorithm": algorithm, "memory": memory, "seed": seed}
    return [about | {"step": line["step"], "return": round(line["eval/mean_reward"], 1)} for line in lines]


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithms", choices=STEPS, nargs="+", default=list(STEPS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs/memory"))
    options = parser.parse_args()
    rows = rows_of(OUT)
    for algorithm, memory, seed in (
        (algorithm, memory, seed) for algorithm in options.algorithms for memory in MEMORIES for seed in options.seeds
    ):
        mine = {"algorithm": algorithm, "memory": memory, "seed": str(seed)}
        found = [row for row in rows if mine.items() <= row.items()]
        if not found:
            found = measured(options.folder / f"{algorithm}-{memory}-{seed}", algorithm, memory, seed)
            rows += found
            write_rows(OUT, rows)
        print(f"{algorithm}, {memory}, seed {seed}: {found[-1]['return']}", flush=True)


if __name__ == "__main__":
    main()
