"""Stable-Baselines3 as a learner of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from simtoreal import build
from simtoreal.algorithms import baseline_name
from simtoreal.config import ConfigError, RunConfig
from simtoreal.open_episodes import check_reopened
from simtoreal.policies.agent import prefixed, under
from simtoreal.policies.chunks import Memory
from simtoreal.policies.deterministic import DeterministicActor
from simtoreal.policies.loop_state import Progress
from simtoreal.policies.observations import split_observation
from simtoreal.training_envs import REPORT_EVERY, TrainingEnvs


class BaselineLearner:
    """Stable-Baselines3 on a run's environments."""

    def __init__(self, config: RunConfig, envs: TrainingEnvs, device: str) -> None:
        from simtoreal.policies.baselines import learn_sb3

        for name in ("augment", "mirror", "teacher"):
            if getattr(config, name):
                raise ConfigError(f"{name}: {config.algorithm} learns without")
        self._envs = envs
        self._baseline = learn_sb3(
            baseline_name(config),
            envs,
            config.agent,
            steps=config.steps,
            seed=config.seed,
            choices=build.choices_of(envs.prototype),
            image=build.image_of(envs.prototype),
            device=device,
            report_every=REPORT_EVERY,
        )

    def run(self) -> Iterator[Progress]:
        return iter(self._baseline)

    def actor(self) -> DeterministicActor:
        return self._envs.acting(self._baseline.actor())

    def tensors(self) -> dict[str, Tensor]:
        return {
            **prefixed("agent", self._baseline.state_dict()),
            **prefixed("envs", self._envs.state_dict()),
        }

    def numbers(self) -> dict[str, Any]:
        return self._baseline.numbers()

    def memory(self) -> Memory:
        return self._baseline.memory()

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        agent = under("agent", tensors)
        self._baseline.load_state_dict(agent, numbers)
        if "observation" in agent:
            seen = self._envs.load_state_dict(under("envs", tensors))
            check_reopened(split_observation(seen)[0], agent["observation"].numpy())
