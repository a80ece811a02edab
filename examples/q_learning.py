"""Tabular Q-learning by its recipes, held against the optimum of tasks whose dynamics are known:
docs/results/qlearning.csv.

    python examples/q_learning.py [--tasks FrozenLake-v1 Taxi-v4] [--seeds 0 1 2] [--folder runs/q-learning]

Nothing is sampled: `value` is what the exported choices are worth from the start, discounted as in training, by the
task's own table of transitions, and `optimum` what the best choices are worth, by value iteration; `return` and
`optimal_return` are of the same two policies without discount, within the task's time limit. What is trained already
is not trained again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from trained import RESULTS, trained, write_rows

from simtoreal.runs import Run

STEPS = {"FrozenLake-v1": 200_000, "Taxi-v4": 300_000}
FOREVER = 5_000  # steps, after which nothing counts any more
OUT = RESULTS / "qlearning.csv"
Array = NDArray[np.floating]


class Dynamics:
    """What a task of S states and K choices does: `next_state` [S, K, S], the chance of each that goes on, `reward`
    [S, K], its expectation, and `start` [S], the chance to begin there."""

    def __init__(self, env: Any) -> None:
        states, choices = len(env.P), len(env.P[0])
        self.next_state, self.reward = np.zeros((states, choices, states)), np.zeros((states, choices))
        self.start: Array = np.asarray(env.initial_state_distrib)
        for s, of_state in env.P.items():
            for a, outcomes in of_state.items():
                for chance, following, reward, terminated in outcomes:
                    self.reward[s, a] += chance * reward
                    self.next_state[s, a, following] += chance * (not terminated)

    def best(self, gamma: float) -> NDArray[np.integer]:
        """The best choices [S], by value iteration."""
        value, before = np.zeros(len(self.start)), np.full(len(self.start), np.inf)
        while np.abs(value - before).max() > 1e-12:
            before, value = value, (self.reward + gamma * self.next_state @ value).max(axis=1)
        return (self.reward + gamma * self.next_state @ value).round(10).argmax(axis=1)

    def worth(self, policy: NDArray[np.integer], gamma: float, steps: int) -> float:
        """The expected sum of rewards of choices [S] from the start, of so many steps."""
        each = np.arange(len(self.start))
        next_state, reward = self.next_state[each, policy], self.reward[each, policy]
        value: Array = np.zeros(len(self.start))
        for _ in range(steps):
            value = reward + gamma * next_state @ value
        return float(self.start @ value)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=[*STEPS], choices=[*STEPS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs/q-learning"))
    options = parser.parse_args()
    rows = []
    for task in options.tasks:
        env = gym.make(task)
        dynamics, limit = Dynamics(env.unwrapped), env.spec.max_episode_steps if env.spec else None
        assert limit is not None
        for seed in options.seeds:
            run = trained(
                task, options.folder / f"{task}-{seed}", algorithm="qlearning", steps=STEPS[task], seed=seed,
                randomization="none",
            )  # fmt: skip
            actor, meta = Run.load(run).actor("last")
            states = len(dynamics.start)
            action = actor(torch.eye(states))[:, 0].numpy()
            chosen = ((action + 1.0) / 2.0 * (actor.choices - 1)).round().astype(int)
            gamma = Run.load(run).config.agent["gamma"]
            best = dynamics.best(gamma)
            rows.append(
                {
                    "task": task,
                    "seed": seed,
                    "steps": meta["step"],
                    "value": round(dynamics.worth(chosen, gamma, FOREVER), 6),
                    "optimum": round(dynamics.worth(best, gamma, FOREVER), 6),
                    "return": round(dynamics.worth(chosen, 1.0, limit), 4),
                    "optimal_return": round(dynamics.worth(best, 1.0, limit), 4),
                }
            )
            print(*rows[-1].values(), flush=True)
    write_rows(OUT, rows)


if __name__ == "__main__":
    main()
