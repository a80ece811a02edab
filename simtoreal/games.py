"""Games that gymnasium does not know by itself: of the Arcade Learning Environment (`ALE/Breakout-v5`) and of MinAtar
(`MinAtar/Breakout-v1`; Young and Tian 2019, arXiv 1903.03176). Their emulators are the extras `atari` and `minatar`.

An Atari game is seen as in Mnih et al. 2015 (doi 10.1038/nature14236, Methods): each choice holds for four frames, of
the last two the brighter pixels, in grey, 84 x 84, are one picture, and the last four pictures are the observation,
uint8 [4, 84, 84]; a game begins with 1 to 30 frames of doing nothing and ends after half an hour (108,000 frames). What
is done is repeated with chance 0.25 a frame instead of what is chosen (Machado et al. 2018, arXiv 1709.06009).
Who learns gets the sign of the score, and the episode ends with a life; the next one is a new game, where Mnih et al.
go on with the lives that are left: so an episode follows from its seed and actions alone.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from simtoreal.config import ConfigError

ATARI, MINATAR = "ALE/", "MinAtar/"
FRAME_SKIP, STACK, SIDE, NO_OPS, REPEAT = 4, 4, 84, 30, 0.25
FRAMES_PER_SECOND, MOST_FRAMES = 60, 108_000


def know_games(task: str) -> None:
    """Let gymnasium know the games of the namespace of `task`, where it is one of these.

    Raises:
        ConfigError: their emulator is not installed.
    """
    try:
        if task.startswith(ATARI):
            import ale_py
            import cv2  # noqa: F401 (by which gymnasium scales the screen)

            ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
            gym.register_envs(ale_py)
        elif task.startswith(MINATAR):
            from minatar.gym import register_envs

            if not any(name.startswith(MINATAR) for name in gym.registry):
                register_envs()
    except ImportError as error:
        extra, packages = ("atari", "ale-py opencv-python-headless") if task.startswith(ATARI) else ("minatar",) * 2
        raise ConfigError(
            f"task {task} needs what simtoreal's extra {extra} brings: pip install {packages} ({error})"
        ) from None


def game_options(task: str) -> dict[str, Any]:
    """Of `gym.make`, for what `as_played` makes of it."""
    if not task.startswith(ATARI):
        return {}
    return {"frameskip": 1, "repeat_action_probability": 0.0, "obs_type": "grayscale"}


def as_played(task: str, env: gym.Env[Any, Any], learning: bool) -> gym.Env[Any, Any]:
    """An Atari game as this module's document says, for `learning` or to be scored; of MinAtar one whose episodes do
    not know of each other; any other environment as it is."""
    if task.startswith(MINATAR):
        return _Forgetful(env)
    if not task.startswith(ATARI):
        return env
    env = gym.wrappers.StickyAction(_Restored(env), REPEAT)
    env = gym.wrappers.AtariPreprocessing(env, NO_OPS, FRAME_SKIP, SIDE, terminal_on_life_loss=learning)
    env = gym.wrappers.FrameStackObservation(env, STACK)
    if learning:
        env = gym.wrappers.TransformReward(env, lambda score: float(np.sign(float(score))))
    env = gym.wrappers.TimeLimit(env, MOST_FRAMES // FRAME_SKIP)
    env.metadata = env.metadata | {"render_fps": FRAMES_PER_SECOND // FRAME_SKIP}
    return env


class _Restored(gym.Wrapper[Any, Any, Any, Any]):
    """An Atari game that begins from one state of the emulator, which takes it a second to reach; chance is numpy's, of
    the seed, and none the emulator's."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self._screen, self._info = env.reset(seed=0)
        self._state = self.get_wrapper_attr("ale").cloneState()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.get_wrapper_attr("ale").restoreState(self._state)
        if seed is not None:
            self.unwrapped.np_random = np.random.default_rng(seed)
        return self._screen.copy(), dict(self._info)


class _Forgetful(gym.Wrapper[Any, Any, Any, Any]):
    """MinAtar repeats an action by chance, at an episode's start the last one of the episode before; here its first."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        found = self.env.reset(seed=seed, options=options)
        self.env.get_wrapper_attr("game").last_action = 0
        return found
