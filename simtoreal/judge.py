"""How good a policy is while it trains."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from simtoreal import build
from simtoreal.config import RunConfig
from simtoreal.errors import blamed
from simtoreal.policies.agent import NonFiniteError
from simtoreal.policies.deterministic import DeterministicActor
from simtoreal.policies.history import Driver


@dataclass(frozen=True)
class Judgement:
    """A deterministic evaluation in mid-training. `success` is None where the task does not report `is_success`."""

    success: float | None
    mean_return: float

    def better_than(self, other: Judgement | None) -> bool:
        return other is None or (self.success or 0.0, self.mean_return) >= (other.success or 0.0, other.mean_return)


class BrokenOffError(Exception):
    """An evaluation was not played to its end, because it was asked to stop."""


class Judge:
    """Plays the same episodes, of the training distribution but none that is trained on, each time it is asked."""

    def __init__(self, config: RunConfig) -> None:
        self._env = build.make_training_env(config, 0, config.seed + build.EVALUATION_SEED)
        self._seed = config.seed + build.EVALUATION_SEED
        self._episodes = config.evaluate_episodes
        self._known = len(build.parameters_of(self._env)) if config.teacher else 0

    def __call__(self, actor: DeterministicActor, stops: Collection[int] = ()) -> Judgement:
        """Raises BrokenOffError as soon as there is something in `stops`, and NonFiniteError."""
        driver = Driver(actor)
        returns, successes = [], []
        for episode in range(self._episodes):
            with blamed(_who):
                obs, _ = self._env.reset(seed=self._seed if episode == 0 else None)
            driver.reset()
            total, ended = 0.0, False
            info: dict[str, Any] = {}
            while not ended:
                if stops:
                    raise BrokenOffError
                action = driver.act(build.policy_part(obs, self._known))
                with blamed(_who):
                    obs, reward, terminated, truncated, info = self._env.step(action)
                total += float(reward)
                ended = terminated or truncated
            returns.append(total)
            successes.append(info.get("is_success"))
        if not np.isfinite(returns).all():
            raise NonFiniteError(f"an evaluation returned {next(r for r in returns if not math.isfinite(r))}")
        told = any(s is not None for s in successes)  # then an episode that broke off before it could tell has failed
        return Judgement(float(np.mean(list(map(bool, successes)))) if told else None, float(np.mean(returns)))

    @property
    def env(self) -> gym.Env[Any, Any]:
        """Its environment, to read the task's contract from."""
        return self._env

    def close(self) -> None:
        self._env.close()


def _who() -> str:
    return "the environment of the periodic evaluation"
