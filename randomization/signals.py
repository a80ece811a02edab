"""Sensor and actuator parameters for anyone's environment, at the resolution of its control steps.

`SignalsEnv` offers what our own robots offer: a table of named parameters, a reset that takes values for them, and
values that change within an episode. So presets, suites, curricula and replays hold for it as for ours. Physics stays
the environment's own: reward and end of an episode are those of what it really did.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from simtoreal.randomization.messages import nearest, shown
from simtoreal.randomization.philox import name_key
from simtoreal.randomization.randomizer import Parameter, Table, is_number

MOST_LATENCY = 25  # control steps
MOST_REPEATS = 10
MOST_DROPOUT = 0.9
WIDEST = 1e6  # of a channel without bounds, in its own unit
LEAST_DT = 1e-6  # [s]
ROWS = 16  # of random numbers drawn at a time


@dataclass(frozen=True)
class Signal:
    """A parameter: one float in `unit`, in [low, high], of which the nearest multiple of `step` applies (0: itself)."""

    unit: str
    nominal: float
    low: float
    high: float
    description: str
    fixed: bool = False  # within an episode
    step: float = 0.0


class SignalsEnv(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """What an environment shows and takes, with a robot's faults between it and the policy.

    - `sensor.CHANNEL.noise`, `.bias`: of each channel of the observation, in its own unit: a standard deviation, new
      in each control step, and a constant offset.
    - `sensor.latency` [s]: the age of an observation, to the nearest control step.
    - `sensor.dropout`: the chance that an observation is lost; the one before is seen again, never at a reset.
    - `actuator.latency` [s]: of an action, to the nearest control step; before the first arrives `still` acts.
    - `actuator.noise`: a standard deviation in shares of half an action's range, clipped to it.
    - `actuator.repeat`: for so many control steps an action is held, to the nearest whole one.

    An environment with parameters of its own keeps them: they are in the table too, and are handed on to it. Where it
    shows images there is neither noise nor bias. Chance follows from the seed of the reset alone.

    Args:
        env: of a Box of observations and a Box of actions with bounds.
        channels: what the numbers of an observation are called, in order; their indices where nobody says.
        control_dt: [s] of a control step. None: the environment's own `dt`, else by its `render_fps`, else 20 ms.
        still: an action that does nothing; None is the middle of every range.
        noisy_actions: False where a number of an action stands for a choice, which is not noisy.
        noisy_observations: False where the numbers of an observation stand for a state: neither noise nor bias then.

    Raises:
        ValueError: other spaces, other channels than numbers, a name twice.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        channels: Sequence[str] | None = None,
        control_dt: float | None = None,
        still: NDArray[np.float32] | None = None,
        noisy_actions: bool = True,
        noisy_observations: bool = True,
    ) -> None:
        RecordConstructorArgs.__init__(
            self,
            channels=channels,
            control_dt=control_dt,
            still=still,
            noisy_actions=noisy_actions,
            noisy_observations=noisy_observations,
        )
        super().__init__(env)
        seen, action = env.observation_space, env.action_space
        if not isinstance(seen, spaces.Box) or not isinstance(action, spaces.Box):
            raise ValueError(f"a Box of observations and a Box of actions are needed, got {seen} and {action}")
        if not np.isfinite([action.low, action.high]).all():
            raise ValueError(f"actions need bounds, got {action}")
        self.control_dt = _control_dt(env) if control_dt is None else control_dt
        if not (is_number(self.control_dt) and LEAST_DT <= self.control_dt < np.inf):
            raise ValueError(f"control_dt must be seconds from {LEAST_DT:g}, got {shown(control_dt)}")
        self._noisy = noisy_observations and np.issubdtype(seen.dtype, np.floating)  # images are not
        size = int(np.prod(seen.shape)) if self._noisy else 0
        self._channels = tuple(map(str, range(size))) if channels is None else tuple(channels)
        if len(self._channels) != size or len(set(self._channels)) != size:
            raise ValueError(f"{size} channels with names of their own are needed, got {shown(list(self._channels))}")
        self._half = (action.high - action.low) / 2.0
        self._still = action.low + self._half if still is None else np.asarray(still, action.dtype)
        if self._still.shape != action.shape:
            raise ValueError(f"still must be an action of shape {action.shape}, got {self._still.shape}")
        self._inner = offered_parameters(env)
        own = self._own_parameters(seen, noisy_actions)
        self._own = tuple(name for name in own if name not in self._inner)
        self.parameters: dict[str, Parameter] = {**self._inner, **{name: own[name] for name in self._own}}
        self._values = {name: own[name].nominal for name in self._own}
        self._chance = _Rows(0, size + self._still.size, 1)
        self._apply()
        self._begin(None)

    def _own_parameters(self, seen: spaces.Box, noisy_actions: bool) -> dict[str, Signal]:
        widths = np.full(len(self._channels), WIDEST)
        if self._noisy:
            widths = np.minimum(seen.high.astype(float) - seen.low.astype(float), WIDEST).ravel()
        found = {}
        for name, width in zip(self._channels, widths.tolist(), strict=True):
            most = width if width > 0 else WIDEST
            found[f"sensor.{name}.noise"] = Signal("own", 0.0, 0.0, most, "standard deviation of white noise")
            found[f"sensor.{name}.bias"] = Signal("own", 0.0, -most, most, "constant offset")
        late, again = MOST_LATENCY * self.control_dt, "chance that an observation is lost: the one before is seen again"
        found["sensor.latency"] = Signal("s", 0.0, 0.0, late, "age of an observation", step=self.control_dt)
        found["sensor.dropout"] = Signal("-", 0.0, 0.0, MOST_DROPOUT, again)
        found["actuator.latency"] = Signal("s", 0.0, 0.0, late, "from an action to its effect", step=self.control_dt)
        if noisy_actions:
            said = "standard deviation of white noise, in shares of half an action's range"
            found["actuator.noise"] = Signal("-", 0.0, 0.0, 1.0, said)
        said = "control steps for which an action is held"
        found["actuator.repeat"] = Signal("step", 1.0, 1.0, MOST_REPEATS, said, step=1.0)
        return found

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode with `options["parameters"]`, all others at nominal; what applies is `info["parameters"]`.

        Raises ValueError for an unknown name or a value out of bounds.
        """
        own = dict(options or {})
        given = self._checked(own.pop("parameters", None) or {})
        self._values = {name: given.get(name, self.parameters[name].nominal) for name in self._own}
        self._apply()
        handed = {name: value for name, value in given.items() if name in self._inner}
        if self._inner:
            own["parameters"] = handed
        observation, info = self.env.reset(seed=seed, options=own or None)
        self._chance.begin(int(self.np_random.integers(1 << 31)) if seed is None else seed)
        self._begin(np.array(observation))
        theirs = info.get("parameters", {}) if self._inner else {}
        return self._seen(self._past[0]), {**info, "parameters": {**theirs, **self._values}}

    def set_parameters(self, values: Mapping[str, float]) -> None:
        """Change some within an episode. Raises ValueError as `reset` does."""
        given = self._checked(values)
        self._values |= {name: value for name, value in given.items() if name not in self._inner}
        self._apply()
        if handed := {name: value for name, value in given.items() if name in self._inner}:
            self.env.get_wrapper_attr("set_parameters")(handed)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """As of the environment, which gets what the actuators make of the action and shows what the sensors do."""
        self._t += 1
        acted = self._acted(np.array(action))
        observation, reward, terminated, truncated, info = self.env.step(acted)
        return self._seen(np.array(observation)), reward, terminated, truncated, info

    def _checked(self, values: Any) -> dict[str, float]:
        if not isinstance(values, Mapping):
            raise ValueError(f"parameters must be a mapping name -> number, got {shown(values)}")
        for name, value in values.items():
            parameter = self.parameters.get(name)
            if parameter is None:
                raise ValueError(f"no parameter {name!r}; {nearest(str(name), self.parameters)}")
            if not is_number(value) or not parameter.low <= value <= parameter.high:
                raise ValueError(f"{name} = {value} is outside [{parameter.low:g}, {parameter.high:g}]")
        return {name: float(value) for name, value in values.items()}

    def _apply(self) -> None:
        """Make of the values what a step needs."""
        values = self._values
        self._noise = np.array([values.get(f"sensor.{name}.noise", 0.0) for name in self._channels])
        self._bias = np.array([values.get(f"sensor.{name}.bias", 0.0) for name in self._channels])
        self._age, self._delay = (
            round(values.get(f"{part}.latency", 0.0) / self.control_dt) for part in ("sensor", "actuator")
        )
        self._dropout, self._repeat = values.get("sensor.dropout", 0.0), round(values.get("actuator.repeat", 1.0))
        self._shake = values.get("actuator.noise", 0.0)
        self._off = bool(self._noise.any() or self._bias.any())

    def _begin(self, observation: Any) -> None:
        self._t = 0
        self._shown: Any = None
        self._past: deque[Any] = deque([observation], maxlen=MOST_LATENCY + 1)
        self._sent: deque[Any] = deque([self._still], maxlen=MOST_LATENCY + MOST_REPEATS + 1)

    def _acted(self, action: NDArray[Any]) -> NDArray[Any]:
        """What the actuators do in a control step in which the policy gives `action`; one that is not finite goes on at
        once."""
        if not np.isfinite(action).all():
            return action
        held = (self._t - 1) % self._repeat
        self._sent.append(self._sent[-1] if held else action)
        back = min(self._delay, len(self._sent) - 1)
        acted = np.asarray(self._sent[-1 - back])
        if not self._shake:
            return acted
        row = self._chance.at(self._t)[0][-self._still.size :].reshape(acted.shape)
        space: Any = self.env.action_space
        noisy: NDArray[Any] = np.clip(acted + self._shake * self._half * row, space.low, space.high).astype(space.dtype)
        return noisy

    def _seen(self, observation: Any) -> Any:
        """What the sensors show where the environment shows `observation`."""
        if self._t:
            self._past.append(observation)
        if self._t and self._dropout and self._chance.at(self._t)[1][0] < self._dropout:
            return self._shown.copy()
        shown = self._past[-1 - min(self._age, len(self._past) - 1)]
        if self._off:
            row = self._chance.at(self._t)[0][: len(self._channels)]
            shown = (shown + (self._bias + self._noise * row).reshape(shown.shape)).astype(shown.dtype)
        self._shown = shown
        return shown.copy()


class _Rows:
    """Rows of standard normal numbers [size] and of uniform ones [chances], the t-th a function of (seed, t) alone."""

    def __init__(self, seed: int, size: int, chances: int) -> None:
        self._word, self._size, self._chances = name_key("signals"), size, chances
        self.begin(seed)

    def begin(self, seed: int) -> None:
        self._seed, self._block = seed, -1

    def at(self, t: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if t // ROWS != self._block:
            self._block = t // ROWS
            bits = np.random.Philox(key=np.array([self._word, self._seed], np.uint64), counter=[0, 0, 0, self._block])
            generator = np.random.Generator(bits)
            self._normal = generator.standard_normal((ROWS, self._size))
            self._uniform = generator.random((ROWS, self._chances))
        return self._normal[t % ROWS], self._uniform[t % ROWS]


def offered_parameters(env: gymnasium.Env[Any, Any]) -> Table:
    """The table of named parameters that an environment offers, none if what it calls `parameters` is none. Without a
    `set_parameters` they are `fixed` within an episode.

    Raises ValueError for a parameter whose nominal value or bounds are no numbers.
    """
    found = env.get_wrapper_attr("parameters") if env.has_wrapper_attr("parameters") else None
    told = ("unit", "nominal", "low", "high")
    whole = isinstance(found, Mapping) and all(hasattr(p, name) for p in found.values() for name in told)
    if not whole or found is None:
        return {}
    for name, parameter in found.items():
        numbers = [parameter.nominal, parameter.low, parameter.high]
        if not all(map(is_number, numbers)):
            raise ValueError(f"parameter {name}: nominal, low and high must be numbers, got {shown(numbers)}")
    if env.has_wrapper_attr("set_parameters"):
        return found
    return {
        name: Signal(
            p.unit, p.nominal, p.low, p.high, str(getattr(p, "description", "")),
            fixed=True, step=getattr(p, "step", 0.0),
        )
        for name, p in found.items()
    }  # fmt: skip


def _control_dt(env: gymnasium.Env[Any, Any]) -> float:
    own, rate = getattr(env.unwrapped, "dt", None), env.metadata.get("render_fps", 50)
    if isinstance(own, float) and LEAST_DT <= own < np.inf:
        return own
    return 1.0 / rate if is_number(rate) and 0 < rate <= 1.0 / LEAST_DT else 0.02
