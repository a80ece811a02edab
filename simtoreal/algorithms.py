"""The algorithms there are, and what their settings come to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch

from simtoreal import build
from simtoreal.config import ConfigError, RunConfig, check_names, settings_of
from simtoreal.policies.dqn import DQN, DQNConfig, RainbowConfig
from simtoreal.policies.images import is_small
from simtoreal.policies.libraries import why_not
from simtoreal.policies.neural import NeuralConfig
from simtoreal.policies.off_policy import ReplayConfig
from simtoreal.policies.ppo import PPO, PPOConfig
from simtoreal.policies.q_learning import QLearning, QLearningConfig
from simtoreal.policies.recurrent_sac import RecurrentSAC
from simtoreal.policies.reinforce import Reinforce, ReinforceConfig
from simtoreal.policies.sac import SAC, SACConfig
from simtoreal.policies.td3 import TD3, TD3Config

OURS: Mapping[str, tuple[type[Any], type[Any]]] = {
    "sac": (SAC, SACConfig),
    "td3": (TD3, TD3Config),
    "ppo": (PPO, PPOConfig),
    "reinforce": (Reinforce, ReinforceConfig),
    "dqn": (DQN, DQNConfig),
    "rainbow": (DQN, RainbowConfig),
    "qlearning": (QLearning, QLearningConfig),
}  # algorithm -> its agent and that one's settings
FOR_IMAGES = ("ppo", "dqn", "rainbow", "sb3-ppo", "sb3-dqn")
IMAGE_SETTINGS = {"activation": "relu", "shared": True, "normalize_observations": False, "compile": False}
"""Those of the networks of `convolutions`, where actor and value share all but their heads."""
HIDDEN, SMALL_HIDDEN = [512], [128]  # of these networks
SB3_IMAGES = 100_000  # in a replay of Stable-Baselines3's, which keeps each frame of a stack eight times
FOR_CHOICES = ("ppo", "dqn", "rainbow", "reinforce", "qlearning", "sb3-ppo", "sb3-dqn")
ONLY_CHOICES = ("dqn", "rainbow", "qlearning", "sb3-dqn")


def pick_device(wanted: str) -> str:
    """ "cpu" or "cuda". Raises ConfigError when CUDA is asked for and absent."""
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda was asked for, but torch finds no CUDA GPU; use --device cpu or auto")
    return wanted


def agent_settings(config: RunConfig) -> NeuralConfig | QLearningConfig:
    """The settings of an agent of ours, complete. Raises ConfigError naming the one that it has not or cannot be."""
    found: NeuralConfig | QLearningConfig = settings_of(OURS[config.algorithm][1], config.agent, "agent.")
    return found


def recurrent_units(settings: Any) -> int:
    """Of an agent of such settings; 0 where it is not recurrent, or cannot be."""
    return getattr(settings, "recurrent", 0)


def agent_class(algorithm: str, settings: NeuralConfig | QLearningConfig) -> type[Any]:
    """Who learns with these settings."""
    kind, _ = OURS[algorithm]
    return RecurrentSAC if kind is SAC and recurrent_units(settings) else kind


def complete_config(config: RunConfig) -> RunConfig:
    """With every setting of our learner written out, and decided what it leaves to us. Raises as `agent_settings` does,
    for a baseline's settings too."""
    if config.curriculum is not None:  # ranges begin at nominal anyway
        config = config.model_copy(update={"randomization_ramp": (0, 0)})
    if config.algorithm not in OURS:
        from simtoreal.policies.baselines import setting_names

        check_names(config.agent, setting_names(baseline_name(config)), "agent.")
        return config
    settings = agent_settings(config)
    if isinstance(settings, ReplayConfig | PPOConfig) and settings.compile is None:
        settings = replace(settings, compile=_compiling_pays(config, settings) and why_not() is None)
    return config.model_copy(update={"agent": asdict(settings)})


def complete_stored_config(config: RunConfig) -> RunConfig:
    """That of a run which may have been begun before gradient steps could be compiled, and so without, or when a
    baseline could be told to augment, which it did not."""
    if config.algorithm not in OURS:
        config = config.model_copy(update={"augment": 0})
    elif "compile" in OURS[config.algorithm][1].__dataclass_fields__:
        config = config.model_copy(update={"agent": {"compile": False} | config.agent})
    return complete_config(config)


def _compiling_pays(config: RunConfig, settings: ReplayConfig | PPOConfig) -> bool:
    """Has a training of so many environment steps gradient steps enough that machine code of them, which has to be made
    once for each size of networks, saves more time than it takes? PPO's minibatches are small."""
    if recurrent_units(settings):
        return False
    if isinstance(settings, ReplayConfig):
        return (config.steps - settings.learning_starts) * settings.updates_per_step >= 50_000
    rows = config.steps * (1 + config.mirror)
    return rows * settings.epochs / settings.batch_size >= 200_000


def check_compiling(settings: Any, device: str) -> None:
    """Raises ValueError where gradient steps are to be compiled and cannot be."""
    if getattr(settings, "compile", None) and device == "cpu" and (why := why_not()):
        raise ValueError(why)


def image_defaults(task: str, algorithm: str) -> dict[str, Any]:
    """Of `RunConfig`, where someone's task of this gymnasium id shows images; else nothing. Raises as `make_env`."""
    if algorithm not in FOR_IMAGES or task.startswith(build.NAMESPACE):
        return {}
    env = build.make_env(task)
    try:
        image = build.image_of(env)
        if image is None:
            return {}
        if algorithm not in OURS:
            return {"agent": {"buffer_size": SB3_IMAGES}} if algorithm == "sb3-dqn" else {}
        settings = IMAGE_SETTINGS | {"hidden": SMALL_HIDDEN if is_small(image) else HIDDEN}
        known = OURS[algorithm][1].__dataclass_fields__
        return {"agent": {name: value for name, value in settings.items() if name in known}}
    finally:
        env.close()


def baseline_name(config: RunConfig) -> str:
    """SB3's name of an algorithm."""
    return config.algorithm.removeprefix("sb3-")
