"""The environments that a run learns from, and the curriculum that sets their ranges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorWrapper
from torch import Tensor

from simtoreal.build import levels_of, make_training_env
from simtoreal.config import ConfigError, RunConfig
from simtoreal.open_episodes import episode_tensors, open_episodes
from simtoreal.policies.agent import prefixed, under
from simtoreal.policies.deterministic import DeterministicActor
from simtoreal.randomization.curriculum import Curriculum, CurriculumSettings, Outcome
from simtoreal.worker_vector import WorkerVectorEnv
from simtoreal.workers import LocalVectorEnv, OpenEpisode

CURRICULUM = "curriculum"
REPORT_EVERY = 100  # environment steps between a learner's looks at a stop request


class TrainingEnvs(VectorWrapper):
    """A run's vector of environments, here or in worker processes; `reset(seed)` is that of the run, each environment
    differing by its index.

    `curriculum` is None where the ranges stay as the preset has them. Else it learns from every episode that ends, and
    what it decides holds from the next resets on.

    Raises:
        ConfigError: a curriculum where nothing can widen; from `step`, one by success on a task that reports none.
    """

    env: LocalVectorEnv | WorkerVectorEnv

    def __init__(self, config: RunConfig) -> None:
        make = [partial(make_training_env, config, i, config.seed, learning=True) for i in range(config.envs)]
        local = not config.workers
        super().__init__(
            LocalVectorEnv(make) if local else WorkerVectorEnv(make, config.workers, timeout=config.step_timeout)
        )
        self.steps = 0  # of all environments together
        self.curriculum: Curriculum | None = None
        if config.curriculum is not None:
            try:
                self.curriculum = Curriculum(config.curriculum, self.prototype.get_wrapper_attr("ranges"))
            except ValueError as error:
                self.close()
                raise ConfigError(f"curriculum: {error}") from None

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return self.env.reset(seed=None if seed is None else [seed] * self.num_envs, options=options)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        observation, reward, terminated, truncated, infos = self.env.step(actions)
        self.steps += self.num_envs
        if self.curriculum is not None and "final_info" in infos:
            outcomes = _outcomes(infos["final_info"], self.curriculum.settings)
            if self.curriculum.take(self.steps, outcomes):
                self._set_extents()
        return observation, reward, terminated, truncated, infos

    @property
    def prototype(self) -> gym.Env[Any, Any]:
        """An environment to ask what they declare; not to be stepped."""
        return self.env.prototype

    @property
    def restarts(self) -> int:
        """How many workers died and were replaced."""
        return self.env.restarts

    @property
    def cpu_seconds(self) -> float:
        """CPU time of the workers, which is none of this process's."""
        return self.env.cpu_seconds

    def acting(self, actor: DeterministicActor) -> DeterministicActor:
        """An actor as it acts where nobody learns: choices that are the learner's alone by what they stand for."""
        levels = levels_of(self.prototype)
        if not levels:
            return actor
        about = {"action_size": len(levels), "levels": list(levels)}
        found = DeterministicActor.from_description(actor.describe() | about)
        found.load_state_dict(actor.state_dict())
        return found.eval().requires_grad_(False)

    def open_episodes(self) -> list[OpenEpisode]:
        """As `LocalVectorEnv.open_episodes`."""
        return [episode for part in self.env.call("open_episodes") for episode in part]

    def reopen(self, episodes: Sequence[OpenEpisode]) -> Any:
        """As `LocalVectorEnv.reopen`."""
        if len(episodes) != self.num_envs:
            raise ValueError(f"{len(episodes)} open episodes for {self.num_envs} environments")
        parts = self.env.call("reopen", each=episodes)
        if isinstance(parts[0], Mapping):
            return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        return np.concatenate(parts)

    def state_dict(self) -> dict[str, Tensor]:
        """Enough for `load_state_dict` to bring environments made alike to where these are."""
        tensors = episode_tensors(self.open_episodes())
        if self.curriculum is None:
            return tensors
        state = {name: torch.from_numpy(array) for name, array in self.curriculum.state_dict().items()}
        return tensors | prefixed(CURRICULUM, {**state, "steps": torch.tensor(self.steps)})

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> Any:
        """The observations that `step` had last returned there. Raises ValueError for others' state."""
        known = dict(under(CURRICULUM, tensors))
        if self.curriculum is not None:
            steps = known.pop("steps", None)
            if steps is None:
                raise ValueError("the curriculum's state is missing")
            self.steps = int(steps)
            self.curriculum.load_state_dict({name: tensor.numpy() for name, tensor in known.items()})
        found = self.reopen(open_episodes({k: t for k, t in tensors.items() if not k.startswith(f"{CURRICULUM}.")}))
        if self.curriculum is not None:
            self._set_extents()
        return found

    def _set_extents(self) -> None:
        assert self.curriculum is not None
        self.env.keep("set_extents", self.curriculum.extents)


def _outcomes(final_infos: Sequence[Mapping[str, Any] | None], settings: CurriculumSettings) -> Iterator[Outcome]:
    """Of the episodes that ended, but for those that a dead worker broke off. One that physics broke off speaks for
    narrower ranges."""
    for info in final_infos:
        if info is None or "boundary" not in info:
            continue
        if info.get("physics_fault"):
            performance = settings.thresholds[0]
        elif settings.metric == "return":
            performance = float(info["episode"]["r"])
        elif info.get("is_success") is None:
            raise ConfigError("curriculum.metric: the task reports no success; use the return, with high and low of it")
        else:
            performance = float(info["is_success"])
        boundary = int(info["boundary"])
        yield Outcome(None if boundary < 0 else boundary, performance)
