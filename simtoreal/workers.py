"""Several environments stepped as one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

EnvFactory = Callable[[], gym.Env[Any, Any]]


def as_actions(actions: Any, space: spaces.Space[Any]) -> NDArray[Any]:
    """Actions [E, m] in the type of the environments' space, which is what a worker's memory holds.

    Raises:
        ValueError: there is not one for each environment.
    """
    array = np.asarray(actions, space.dtype)
    if array.shape != space.shape:
        raise ValueError(f"actions must have shape {space.shape}, got {array.shape}")
    return array


class LocalVectorEnv(VectorEnv[Any, NDArray[Any], NDArray[Any]]):
    """Environments in this process, each reset in the same step in which it ends.

    `step` returns observations ([E, n], or {"policy": [E, n], "privileged": [E, p]}), rewards [E], terminated [E],
    truncated [E] and infos. Where environment i ended, the observation is the first of its next episode,
    `infos["final_obs"][i]` the last of the ended one and `infos["final_info"][i]` its info, with `episode` =
    {"r": return, "l": length}. `infos["valid"][i]` False marks a transition that physics broke, and
    `infos["reward_signals"][i]` is what the reward was computed from, where the environment says so.

    `WorkerVectorEnv` is the same in processes of their own.

    Args:
        factories: make one environment each; environment i's episodes are its own, whoever steps beside it.
    """

    restarts, cpu_seconds = 0, 0.0  # of workers: there are none

    def __init__(self, factories: Sequence[EnvFactory]) -> None:
        if not factories:
            raise ValueError("at least one environment is needed, got 0")
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.envs = [make() for make in factories]
        self.num_envs = len(self.envs)
        self.busy = np.zeros(1, np.int64)  # which environment is being reset or stepped, for whoever watches
        self.single_observation_space = self.envs[0].observation_space
        self.single_action_space = self.envs[0].action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._returns = np.zeros(self.num_envs)
        self._lengths = np.zeros(self.num_envs, np.int64)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset all; an integer `seed` gives environment i the seed `seed + i`, as gymnasium's own vector envs do."""
        seeds = (
            [None if seed is None else seed + i for i in range(self.num_envs)]
            if not isinstance(seed, Sequence)
            else seed
        )
        results = []
        for i, (env, s) in enumerate(zip(self.envs, seeds, strict=True)):
            self.busy[0] = i
            results.append(env.reset(seed=s, options=options))
        self._returns[:] = 0.0
        self._lengths[:] = 0
        return self._stack([obs for obs, _ in results]), {"reset_info": [info for _, info in results]}

    def step(self, actions: NDArray[Any]) -> tuple[Any, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        n = self.num_envs
        observations: list[Any] = []
        signals: list[Any] = []
        rewards, terminated, truncated, valid = np.zeros(n), np.zeros(n, bool), np.zeros(n, bool), np.ones(n, bool)
        final_obs, final_info = np.empty(n, object), np.empty(n, object)
        actions = as_actions(actions, self.action_space)
        for i, env in enumerate(self.envs):
            self.busy[0] = i
            obs, reward, terminated[i], truncated[i], info = env.step(actions[i])
            rewards[i] = reward
            valid[i] = not info.get("physics_fault", False)
            signals.append(info.get("reward_signals"))
            self._returns[i] += rewards[i]
            self._lengths[i] += 1
            if terminated[i] or truncated[i]:
                episode = {"r": float(self._returns[i]), "l": int(self._lengths[i])}
                final_obs[i], final_info[i] = copy.deepcopy(obs), info | {"episode": episode}
                self._returns[i], self._lengths[i] = 0.0, 0
                obs, _ = env.reset()
            observations.append(obs)
        infos: dict[str, Any] = {"valid": valid, "reward_signals": signals}
        if terminated.any() or truncated.any():
            infos |= {"final_obs": final_obs, "final_info": final_info}
        return self._stack(observations), rewards, terminated, truncated, infos

    @property
    def prototype(self) -> gym.Env[Any, Any]:
        """One of the environments, to ask what they declare; not to be stepped."""
        return self.envs[0]

    @property
    def episode_return(self) -> NDArray[np.float64]:
        """[E] reward so far of the running episodes."""
        return self._returns

    @property
    def episode_length(self) -> NDArray[np.int64]:
        """[E] steps so far of the running episodes."""
        return self._lengths

    def call(self, name: str, *arguments: Any, each: Sequence[Any] | None = None) -> list[Any]:
        """The result of the method `name`, in a list because `WorkerVectorEnv` has one for each worker.

        `each` [E], if given, is a last argument, of which every worker gets the part of its environments.
        """
        return [getattr(self, name)(*arguments, *([] if each is None else [each]))]

    def _stack(self, observations: list[Any]) -> Any:
        if isinstance(self.single_observation_space, spaces.Dict):
            return {key: np.stack([obs[key] for obs in observations]) for key in self.single_observation_space}
        return np.stack(observations)

    def close_extras(self, **kwargs: Any) -> None:
        for env in self.envs:
            env.close()
