"""A gymnasium wrapper that gives every episode its draw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium.utils import RecordConstructorArgs

from simtoreal.randomization.curriculum import Extents, MovingRanges
from simtoreal.randomization.messages import shown
from simtoreal.randomization.philox import episode_seed
from simtoreal.randomization.randomizer import Randomizer
from simtoreal.randomization.schedules import RunningSchedule


class RandomizedEnv(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Resets `env` with the parameters that `randomizer` draws for (seed, env_index, episode).

    Episodes count from 0 and go up by one at each reset; `reset(seed=s)` starts again at (s, episode 0). The
    environment is seeded by the same key, so an episode is the same in any process and after any other episodes. What
    the caller puts into `options["parameters"]` wins over the draw; other options pass through. With a `ramp` (a, b)
    the episodes up to a are nominal, from there the draws widen evenly until b, from which on they are whole. What has
    a pace changes within an episode, too, by the environment's `set_parameters`, at its `control_dt` [s].

    With a `curriculum` the randomizer's ranges begin at nominal, `set_extents` moves them from the next reset on, and a
    share `probes` of the episodes stands at a boundary; the last step's `info["boundary"]` says at which, -1 at none.

    A reset's `info["parameters"]` is the environment's own report and `info["draw"]` the arguments of
    `Randomizer.draw` with the randomizer's version: `{"seed", "env", "episode", "width", "version"}`.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        randomizer: Randomizer,
        seed: int = 0,
        env_index: int = 0,
        ramp: tuple[int, int] = (0, 0),
        curriculum: MovingRanges | None = None,
        probes: float = 0.0,
    ) -> None:
        RecordConstructorArgs.__init__(
            self,
            randomizer=randomizer,
            seed=seed,
            env_index=env_index,
            ramp=ramp,
            curriculum=curriculum,
            probes=probes,
        )
        super().__init__(env)
        if not 0 <= ramp[0] <= ramp[1]:
            raise ValueError(f"ramp must be two episodes, from nominal until whole, got {ramp}")
        if not 0 <= env_index < 1 << 31:
            raise ValueError(f"env_index must lie in [0, 2^31), got {env_index}")
        self.randomizer = randomizer
        if env.has_wrapper_attr("scale_parameters"):
            env.get_wrapper_attr("scale_parameters")(randomizer.ranges)
        self.ranges, self._probes = curriculum, probes
        self.extents: Extents | None = None  # the running episode's
        self._boundary: int | None = None
        if curriculum is not None:
            self.set_extents(np.zeros(len(curriculum.boundaries)))
        self.env_index = env_index
        self._seed = seed
        self._ramp = ramp
        self._next_episode = 0
        self._changes: RunningSchedule | None = None
        self._step = 0

    @property
    def episode(self) -> int:
        """The number of the running episode, -1 before the first reset."""
        return self._next_episode - 1

    def set_next_episode(self, seed: int | None, episode: int) -> None:
        """Let the next `reset()` start episode `episode` of `seed` (None: of its own): to have one again, to resume."""
        self._seed, self._next_episode = self._seed if seed is None else seed, episode

    def set_extents(self, extents: Extents) -> None:
        """How far the boundaries are out [S] from the next reset on. Raises ValueError without a curriculum, and for
        another number of them."""
        if self.ranges is None:
            raise ValueError("these ranges do not move: there is no curriculum")
        self.randomizer = self.ranges.at(extents)
        self._next_extents = np.array(extents, float)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start the next episode.

        Raises ValueError when `options["parameters"]` is no mapping, RuntimeError when the environment does not report
        the parameters it was given.
        """
        if seed is not None:
            self.set_next_episode(seed, 0)
        key = {"seed": self._seed, "env": self.env_index, "episode": self._next_episode}
        width = self._width(self._next_episode)
        standing = self._stand(**key)
        draw = self.randomizer.draw(**key, width=width) | standing
        own = dict(options or {})
        given = own.pop("parameters", None) or {}
        if not isinstance(given, Mapping):
            raise ValueError(f"parameters must be a mapping name -> number, got {shown(given)}")
        parameters = draw | dict(given)
        observation, info = self.env.reset(seed=episode_seed(**key), options={**own, "parameters": parameters})
        self._check(parameters, info.get("parameters"))
        schedule = self.randomizer.schedule(**key, width=width)
        self._changes = None if schedule is None else schedule.without([*given, *standing]).begin()
        self._step = 0
        self._next_episode += 1
        return observation, {**info, "draw": {**key, "width": width, "version": self.randomizer.version}}

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """As of the environment, whose parameters change first where they are due to."""
        if self._changes is not None:
            if change := self._changes.due(self._step, self.env.get_wrapper_attr("control_dt")):
                self.env.get_wrapper_attr("set_parameters")(change)
            self._step += 1
        observation, reward, terminated, truncated, info = self.env.step(action)
        if self.ranges is not None and (terminated or truncated):
            info = {**info, "boundary": -1 if self._boundary is None else self._boundary}
        return observation, reward, terminated, truncated, info

    def _stand(self, seed: int, env: int, episode: int) -> dict[str, float]:
        """Take the extents of now for an episode; where it stands at a boundary, the values there."""
        if self.ranges is None:
            return {}
        self.extents = self._next_extents
        self._boundary = self.ranges.probed(self._probes, seed, env, episode)
        return {} if self._boundary is None else self.ranges.standing_at(self._boundary, self.extents)

    def _width(self, episode: int) -> float:
        begin, end = self._ramp
        return 1.0 if episode >= end else max(0.0, (episode - begin) / (end - begin))

    def _check(self, asked: Mapping[str, float], reported: Any) -> None:
        missing = list(asked) if not isinstance(reported, Mapping) else [name for name in asked if name not in reported]
        if missing:
            raise RuntimeError(
                f'{self.unwrapped} was reset with {len(asked)} parameters but its info["parameters"] '
                f"does not report {', '.join(missing[:5])}{', …' if len(missing) > 5 else ''}"
            )
