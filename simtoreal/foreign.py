"""Environments of others, made to act, fail and be seeded like ours; and choices in place of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from simtoreal.policies.images import Shape, check_image
from simtoreal.policies.levels import grid
from simtoreal.policies.observations import split_observation
from simtoreal.robots.layout import CommandLayout, Layout, nearest_choice

MOST_STEPS = 10_000  # of an episode without a time limit of its own
MOST_STATES = 65_536  # that an observation can be one of, all its one-hots together


def image_shape(space: spaces.Space[Any]) -> Shape | None:
    """Of the images that observations are, as `check_image` has it: on three axes uint8 from 0 to 255, or bool. None
    where they are other numbers. Raises ValueError for images that no policy here takes."""
    if not isinstance(space, spaces.Box) or len(space.shape) < 3 or space.dtype not in (np.uint8, np.bool_):
        return None
    whole = space.dtype == np.bool_ or ((space.low == 0).all() and (space.high == 255).all())
    return check_image(space.shape) if whole else None


def one_hot_sizes(space: spaces.Space[Any]) -> tuple[int, ...]:
    """Of observations that are one of several states, or several such: of how many each. Empty where they are other."""
    if isinstance(space, spaces.Discrete):
        return (int(space.n),)
    if isinstance(space, spaces.MultiDiscrete):
        return tuple(map(int, space.nvec.ravel()))
    parts = [one_hot_sizes(part) for part in space.spaces] if isinstance(space, spaces.Tuple) else []
    return sum(parts, ()) if all(parts) else ()


class ChoiceEnv(gym.Wrapper[Any, Any, Any, Any]):
    """An environment that takes one of `choices`, for who acts in [-1, 1]^1: -1 is the first, 1 the last, what lies
    between is rounded to the nearest. A number that is not finite goes on as it is."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        assert isinstance(env.action_space, spaces.Discrete)
        self.choices, self._first = int(env.action_space.n), int(env.action_space.start)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def step(self, action: NDArray[np.float32]) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        (number,) = map(float, action)
        return self.env.step(self._first + nearest_choice(number, self.choices) if math.isfinite(number) else number)


class LevelsEnv(gym.Wrapper[Any, Any, Any, Any]):
    """An environment of actions in [-1, 1]^m, for who gives one of the `choices` rows of their `grid` by a number in
    [-1, 1], as `ChoiceEnv` takes it. A number that is not finite goes on as m of them."""

    def __init__(self, env: gym.Env[Any, Any], levels: Sequence[int]) -> None:
        super().__init__(env)
        self.command_levels, self._commands = tuple(levels), grid(levels).astype(np.float32)
        self.choices = len(self._commands)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def step(self, action: NDArray[np.float32]) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        (number,) = map(float, action)
        if not math.isfinite(number):
            return self.env.step(np.full(len(self.command_levels), number, np.float32))
        return self.env.step(self._commands[nearest_choice(number, self.choices)].copy())


class ChangesEnv(gym.Wrapper[Any, Any, Any, Any]):
    """An environment of ours, for who says how the last command changes: 1 adds `most` [m] of what 1 means to it.

    Raises ValueError where its observation does not show the last command (`CommandLayout.changing`).
    """

    def __init__(self, env: gym.Env[Any, Any], most: Sequence[float]) -> None:
        super().__init__(env)
        self._absolute: CommandLayout = env.get_wrapper_attr("command_layout")
        self._layout: Layout = env.get_wrapper_attr("observation_layout")
        self.command_layout = self._absolute.changing(most, self._layout)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        self._seen = split_observation(obs)[0]
        return obs, info

    def step(self, action: NDArray[np.float32]) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        command = self.command_layout.command(action, self._seen, self._layout)
        given = self._absolute.action(command, self._seen, self._layout).astype(np.float32)
        obs, reward, terminated, truncated, info = self.env.step(given)
        self._seen = split_observation(obs)[0]
        return obs, reward, terminated, truncated, info


class ForeignEnv(gym.Wrapper[NDArray[Any], NDArray[np.float32], Any, Any]):
    """Others' environments with actions in [-1, 1]^m, images as they are or else flat float32 observations, and our way
    to fail. Of an image of bools False is seen as 0, True as 255.

    One of several choices is an action as `ChoiceEnv` takes it. Observations that are one of several states are seen as
    `one_hots` of so many places in a row.

    A number that is not finite ends the episode: in an action as a failure with `invalid_action`, in an observation or
    a reward as a `physics_fault`. The observation is then the last sound one. Whatever an action that is not finite
    would have got, the failure pays what action 0 (of choices the first) gets from there to the episode's end: never
    more than holding still.

    The first reset is made twice: an environment that builds its world there may treat its first episode unlike all
    others (pybullet_envs_gymnasium's walkers pay another reward), and an episode must come again after any other.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        action, seen = env.action_space, env.observation_space
        assert isinstance(action, spaces.Box | spaces.Discrete)
        self.one_hots = one_hot_sizes(seen)
        if self.one_hots:
            env = gym.wrappers.FlattenObservation(env)
            seen = env.observation_space
        assert isinstance(seen, spaces.Box)
        if isinstance(action, spaces.Discrete):
            env = ChoiceEnv(env)
        elif (action.low != -1).any() or (action.high != 1).any():
            env = gym.wrappers.RescaleAction(env, np.float32(-1.0), np.float32(1.0))
        super().__init__(env)
        self._built = False
        self._shape = env.action_space.shape or ()
        self._still = np.full(self._shape, -1.0 if isinstance(action, spaces.Discrete) else 0.0, np.float32)
        self.still = self._still.ravel()  # as an action of this environment's
        self.action_space = spaces.Box(-1.0, 1.0, (int(np.prod(self._shape)),), np.float32)
        self._image, self._white = image_shape(seen), np.uint8(255 if seen.dtype == np.bool_ else 1)
        low, high = seen.low.astype(np.float32).ravel(), seen.high.astype(np.float32).ravel()
        self.observation_space = spaces.Box(low, high, dtype=np.float32)
        if self._image:
            self.observation_space = spaces.Box(0, 255, self._image, np.uint8)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        if not self._built:
            self.env.reset(seed=seed, options=options)
            self._built = True
        obs, info = self.env.reset(seed=seed, options=options)
        self._sound = self._seen(obs)
        return self._sound, info

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[Any], Any, bool, bool, dict[str, Any]]:
        if not np.isfinite(action).all():
            return self._sound, self._held_still(), True, False, {"invalid_action": True}
        obs, reward, terminated, truncated, info = self.env.step(np.reshape(action, self._shape))
        seen, score = self._seen(obs), float(reward)
        if not (np.isfinite(seen).all() and math.isfinite(score)):
            return self._sound, 0.0, False, True, info | {"physics_fault": True}
        self._sound = seen
        return seen, score, terminated, truncated, info

    def _seen(self, obs: Any) -> NDArray[Any]:
        return np.asarray(obs, np.uint8) * self._white if self._image else np.asarray(obs, np.float32).ravel()

    def _held_still(self) -> float:
        """The sum of the rewards from here on, if nothing more is done."""
        total, ended = 0.0, False
        while not ended:
            _, reward, terminated, truncated, _ = self.env.step(self._still)
            ended = terminated or truncated or not math.isfinite(reward)
            total += float(reward) if math.isfinite(reward) else 0.0
        return total
