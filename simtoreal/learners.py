"""Algorithms on a run's environments, ready to run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, Protocol

import numpy as np
import torch
from gymnasium import spaces
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from simtoreal import build
from simtoreal.config import ConfigError, RunConfig
from simtoreal.policies.loops import Augment, Progress, Transition
from simtoreal.policies.sac import SACConfig
from simtoreal.randomization.messages import nearest

REPORT_EVERY = 100  # environment steps between looks at a stop request


class Learner(Protocol):
    """An algorithm on its environments, ready to run."""

    def run(self) -> Iterator[Progress]: ...

    def actor(self) -> nn.Module: ...

    def tensors(self) -> dict[str, Tensor]: ...


def pick_device(wanted: str) -> str:
    """ "cpu" or "cuda". Raises ConfigError when CUDA is asked for and absent."""
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda was asked for, but torch finds no CUDA GPU; use --device cpu or auto")
    return wanted


def sac_settings(config: RunConfig) -> SACConfig:
    """The settings of our SAC, complete. Raises ConfigError naming the one that it has not or cannot be."""
    for name in config.agent:
        if name not in (known := [f.name for f in fields(SACConfig)]):
            raise ConfigError(f"no setting agent.{name}; {nearest(name, known)}")
    try:
        return TypeAdapter(SACConfig).validate_python(config.agent)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(["agent", *map(str, first["loc"])])
        found = f", got {first['input']!r}" if first["loc"] else ""  # without a place, the words hold the value
        raise ConfigError(f"{where}: {first['msg'].removeprefix('Value error, ')}{found}") from None


def make_learner(config: RunConfig, envs: build.TrainingEnvs, device: str) -> Learner:
    """The algorithm a configuration names. Raises ConfigError for settings it does not take or memory does not hold."""
    kind = OffPolicyLearner if config.algorithm == "sac" else BaselineLearner
    try:
        return kind(config, envs, device)
    except (TypeError, ValueError, AssertionError, AttributeError, RuntimeError, MemoryError) as error:
        raise ConfigError(f"agent: {str(error).splitlines()[0] or type(error).__name__}") from error


class OffPolicyLearner:
    """Our SAC with its replay on a run's environments."""

    def __init__(self, config: RunConfig, envs: build.TrainingEnvs, device: str) -> None:
        from simtoreal.policies.replay import Replay
        from simtoreal.policies.sac import SAC

        self._settings = sac_settings(config)
        space = envs.single_observation_space
        privileged = int(np.prod(space["privileged"].shape or ())) if isinstance(space, spaces.Dict) else 0
        observation = int(np.prod(build.policy_space(envs.prototype).shape or ()))
        action = int(np.prod(envs.single_action_space.shape or ()))
        self._agent = SAC(observation, action, privileged, self._settings, seed=config.seed, device=device)
        capacity = min(self._settings.buffer_size, (config.steps + config.envs) * (1 + config.augment))
        self._replay = Replay(capacity, observation, action, privileged, device=device)
        self._envs, self._seed, self._steps = envs, config.seed, config.steps
        self._augment = augmentation(envs, config) if config.augment else None

    def run(self) -> Iterator[Progress]:
        from simtoreal.policies.loops import off_policy

        s = self._settings
        return off_policy(
            self._agent,
            self._envs,
            self._replay,
            steps=self._steps,
            seed=self._seed,
            batch_size=s.batch_size,
            learning_starts=s.learning_starts,
            updates_per_step=s.updates_per_step,
            report_every=REPORT_EVERY,
            augment=self._augment,
        )

    def actor(self) -> nn.Module:
        return self._agent.actor()

    def tensors(self) -> dict[str, Tensor]:
        return self._agent.state_dict()


def augmentation(envs: build.TrainingEnvs, config: RunConfig) -> Augment:
    """`config.augment` further transitions for each, as the task derives them: other goals, a mirror image.

    Raises:
        ConfigError: the task derives none.
    """
    env = envs.prototype
    if not env.has_wrapper_attr("augment"):
        raise ConfigError(f"augment: task {config.task} derives no further transitions; set augment to 0")
    derive = env.get_wrapper_attr("augment")
    rng = np.random.default_rng(config.seed)

    def augment(rows: Transition, infos: Mapping[str, Any]) -> Transition:
        copies = [derive(rows, infos["reward_signals"], rng) for _ in range(config.augment)]
        return {name: np.concatenate([copy[name] for copy in copies]) for name in copies[0]}

    return augment


class BaselineLearner:
    """Stable-Baselines3 on a run's environments."""

    def __init__(self, config: RunConfig, envs: build.TrainingEnvs, device: str) -> None:
        from simtoreal.policies.baselines import learn_sb3

        name = config.algorithm.removeprefix("sb3-")
        self._baseline = learn_sb3(
            name, envs, config.agent, steps=config.steps, seed=config.seed, device=device, report_every=REPORT_EVERY
        )

    def run(self) -> Iterator[Progress]:
        return iter(self._baseline)

    def actor(self) -> nn.Module:
        return self._baseline.actor()

    def tensors(self) -> dict[str, Tensor]:
        return dict(self._baseline.model.policy.state_dict())
