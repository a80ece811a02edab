"""Further transitions that a task derives from what happened: under other goals, or mirrored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from simtoreal.config import ConfigError, RunConfig
from simtoreal.policies.transitions import Augment, Mirror, Transition
from simtoreal.training_envs import TrainingEnvs


def augmentation(envs: TrainingEnvs, config: RunConfig, rng: np.random.Generator) -> Augment:
    """`config.augment` further transitions for each, as the task derives them: other goals, a mirror image.

    Raises:
        ConfigError: the task derives none.
    """
    env = envs.prototype
    if not env.has_wrapper_attr("augment"):
        raise ConfigError(f"augment: task {config.task} derives no further transitions; set augment to 0")
    derive = env.get_wrapper_attr("augment")
    return derived(derive, config.augment, rng)


def mirroring(envs: TrainingEnvs, config: RunConfig) -> Mirror:
    """The mirror image of a task's motions. Raises ConfigError where it has none."""
    if not envs.prototype.has_wrapper_attr("mirror_image"):
        raise ConfigError(f"mirror: task {config.task} has no left and right; set mirror to false")
    image: Mirror = envs.prototype.get_wrapper_attr("mirror_image")
    return image


def derived(derive: Callable[..., Transition], count: int, rng: np.random.Generator) -> Augment:
    """`count` further transitions for each, as a task's `derive(rows, signals, rng)` makes one."""

    def augment(rows: Transition, infos: Mapping[str, Any]) -> Transition:
        copies = [derive(rows, infos["reward_signals"], rng) for _ in range(count)]
        return {name: np.concatenate([copy[name] for copy in copies]) for name in copies[0]}

    return augment
