"""Several environments stepped as one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from simtoreal.errors import blamed

EnvFactory = Callable[[], gym.Env[Any, Any]]


def as_actions(actions: Any, space: spaces.Space[Any]) -> NDArray[Any]:
    """Actions [E, m] in the type of the environments' space, which is what a worker's memory holds.

    Raises:
        ValueError: there is not one for each environment.
    """
    array = np.array(actions, space.dtype)  # a copy: they are recorded, and the caller may reuse its own
    if array.shape != space.shape:
        raise ValueError(f"actions must have shape {space.shape}, got {array.shape}")
    return array


@dataclass(frozen=True, eq=False)
class OpenEpisode:
    """An episode that is under way: its number and the actions [t, m] since its reset, enough to have it again; where
    ranges move, with how far their boundaries were out [S] at its reset."""

    number: int
    actions: NDArray[np.float32]
    extents: NDArray[np.float64] | None = None


def reopen_episode(env: gym.Env[Any, Any], episode: OpenEpisode) -> tuple[Any, float]:
    """Bring an environment whose episodes are numbered to where `episode` stands; its observation and its return.

    Raises ValueError when the episode ends on the way: then it does not follow from its number and actions alone.
    """
    if episode.extents is not None:
        env.get_wrapper_attr("set_extents")(episode.extents)
    env.get_wrapper_attr("set_next_episode")(None, episode.number)
    obs, _ = env.reset()
    total = 0.0
    for t, action in enumerate(episode.actions, start=1):
        obs, reward, terminated, truncated, _ = env.step(action)
        total += float(reward)
        if terminated or truncated:
            raise ValueError(
                f"episode {episode.number} ended after {t} of its {len(episode.actions)} recorded actions: this task's "
                "episodes do not follow from their seed and actions alone, so none can be had again"
            )
    return obs, total


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

    Raises:
        EnvError: from `reset` and `step`, when an environment raised.
    """

    restarts, cpu_seconds = 0, 0.0  # of workers: there are none

    def __init__(self, factories: Sequence[EnvFactory]) -> None:
        if not factories:
            raise ValueError("at least one environment is needed, got 0")
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.envs = [make() for make in factories]
        self.num_envs = len(self.envs)
        self.busy = np.zeros(2, np.int64)  # for whoever watches: which environment, is it in the reset inside a step
        self.single_observation_space = self.envs[0].observation_space
        self.single_action_space = self.envs[0].action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._returns = np.zeros(self.num_envs)
        self._lengths = np.zeros(self.num_envs, np.int64)
        self._actions: list[list[NDArray[np.float32]]] = [[] for _ in self.envs]  # since each one's reset

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
            with blamed(self._busy_one):
                results.append(env.reset(seed=s, options=options))
        self._returns[:] = 0.0
        self._lengths[:] = 0
        self._actions = [[] for _ in self.envs]
        return self._stack([obs for obs, _ in results]), {"reset_info": [info for _, info in results]}

    def step(self, actions: NDArray[Any]) -> tuple[Any, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        n = self.num_envs
        observations: list[Any] = []
        signals: list[Any] = []
        rewards, terminated, truncated, valid = np.zeros(n), np.zeros(n, bool), np.zeros(n, bool), np.ones(n, bool)
        final_obs, final_info = np.empty(n, object), np.empty(n, object)
        actions = as_actions(actions, self.action_space)
        with blamed(self._busy_one):
            for i, env in enumerate(self.envs):
                self.busy[0] = i
                obs, reward, terminated[i], truncated[i], info = env.step(actions[i])
                rewards[i] = reward
                valid[i] = not info.get("physics_fault", False)
                signals.append(info.get("reward_signals"))
                self._returns[i] += rewards[i]
                self._lengths[i] += 1
                self._actions[i].append(actions[i])
                if terminated[i] or truncated[i]:
                    episode = {"r": float(self._returns[i]), "l": int(self._lengths[i])}
                    final_obs[i], final_info[i] = copy.deepcopy(obs), info | {"episode": episode}
                    self._returns[i], self._lengths[i], self._actions[i] = 0.0, 0, []
                    self.busy[1] = True
                    obs, _ = env.reset()
                    self.busy[1] = False
                observations.append(obs)
        infos: dict[str, Any] = {"valid": valid, "reward_signals": signals}
        if terminated.any() or truncated.any():
            infos |= {"final_obs": final_obs, "final_info": final_info}
        return self._stack(observations), rewards, terminated, truncated, infos

    def _busy_one(self) -> str:
        return f"environment {self.busy[0]}"

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

    def keep(self, name: str, *arguments: Any) -> None:
        """Call the method `name` of every environment."""
        for env in self.envs:
            env.get_wrapper_attr(name)(*arguments)

    def open_episodes(self) -> list[OpenEpisode]:
        """Each environment's episode so far. Environments must number theirs, as a run's own do."""
        empty = np.empty((0, *(self.single_action_space.shape or ())), np.float32)
        return [
            OpenEpisode(
                env.get_wrapper_attr("episode"),
                np.stack(actions) if actions else empty,
                env.get_wrapper_attr("extents") if env.has_wrapper_attr("extents") else None,
            )
            for env, actions in zip(self.envs, self._actions, strict=True)
        ]

    def reopen(self, episodes: Sequence[OpenEpisode]) -> Any:
        """Bring each environment to where its episode stands; the observations `step` had last returned.

        Raises ValueError for another number of environments, or when an episode does not come back.
        """
        if len(episodes) != self.num_envs:
            raise ValueError(f"{len(episodes)} open episodes for {self.num_envs} environments")
        observations = []
        for i, (env, episode) in enumerate(zip(self.envs, episodes, strict=True)):
            obs, self._returns[i] = reopen_episode(env, episode)
            self._lengths[i], self._actions[i] = len(episode.actions), list(episode.actions)
            observations.append(obs)
        return self._stack(observations)

    def _stack(self, observations: list[Any]) -> Any:
        if isinstance(self.single_observation_space, spaces.Dict):
            return {key: np.stack([obs[key] for obs in observations]) for key in self.single_observation_space}
        return np.stack(observations)

    def close_extras(self, **kwargs: Any) -> None:
        for env in self.envs:
            env.close()
