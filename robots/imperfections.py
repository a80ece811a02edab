"""What is wrong with a sensor's numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from operator import add
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simtoreal.robots.parameters import Parameter
from simtoreal.robots.streams import ROWS, NormalStream


class Channels(NamedTuple):
    """Some channels of a sensor that are alike: how many, what their parameters begin with, which of `IDEAL` they have,
    and the parameter of each one's bias."""

    size: int
    part: str
    has: Sequence[str]
    biases: Sequence[str] = ()


IDEAL = {"noise": 0.0, "scale": 1.0, "drift": 0.0, "resolution": 0.0}
FINEST = 1e-12  # of a resolution that is one
MAX_SCALE = 0.2  # off 1
NOISE = "standard deviation of white noise"


def parameters(
    what: str, unit: str, has: Sequence[str], *, noise: float, drift: float = 0.0, said: str = NOISE
) -> list[Parameter]:
    """Those of `IDEAL` that the channels `what` have, noise and drift of these at most; `said` of what noise means."""
    drifts = "standard deviation of the bias's random walk after one second"
    every = {
        "noise": (unit, 0.0, noise, said),
        "scale": ("-", 1.0 - MAX_SCALE, 1.0 + MAX_SCALE, "reading over truth"),
        "drift": (f"{unit}/s^0.5", 0.0, drift, drifts),
        "resolution": (unit, 0.0, 2.0 * noise, "readings are whole multiples of it, unless it is 0"),
    }
    found = [(flaw, *every[flaw]) for flaw in has]
    return [Parameter(f"{what}.{flaw}", unit, IDEAL[flaw], low, high, said) for flaw, unit, low, high, said in found]


class Imperfections:
    """reading = q(scale x true + bias + drift w + noise z), element by element.

    z is standard normal and new in each control step, w the sum of sqrt(dt) z' over the control steps of an episode, a
    random walk that has a standard deviation of 1 after one second (a gyro's rate random walk, IEEE Std 952), and q
    rounds to whole multiples of the resolution.

    Attributes:
        noisy: is there any noise?
        noise, bias: of each channel.
    """

    def __init__(self, name: str, channels: Sequence[Channels], width: int | None = None) -> None:
        """`name` of the sensor; `width` of a row of its noise, if that is not one number a channel."""
        size = sum(part.size for part in channels)
        self._channels = channels
        self._noises = NormalStream(f"{name}.noise", width or size, seed=0)
        self._steps = NormalStream(f"{name}.drift", size, seed=0)
        self._nothing = [0.0] * size
        self._values: dict[str, float] = {}
        self.bias = self.noise = self._drift = self._resolution = self._nothing
        self._scale = [1.0] * size
        self.noisy = self._walks = self._more = self._any = False
        self.start(0)

    def start(self, seed: int) -> None:
        """Begin an episode; noise and drift follow from `seed`."""
        self._noises.begin(seed)
        self._steps.begin(seed)
        self._walked, self._walks_taken = self._nothing, 0

    def apply(self, values: Mapping[str, float]) -> None:
        found: dict[str, list[float]] = {what: [] for what in (*IDEAL, "bias")}
        self._values = {}
        for size, part, has, biases in self._channels:
            for what, value in IDEAL.items():
                if what in has:
                    value = self._values[f"{part}.{what}"] = values[f"{part}.{what}"]
                found[what] += [value] * size
            own = {name: values[name] for name in biases}
            self._values |= own
            found["bias"] += own.values() or [0.0] * size
        self.noise, self._scale, self._drift, self._resolution, self.bias = found.values()
        self._noises.scale(self.noise)
        self.noisy, self._walks = any(self.noise), any(self._drift)
        self._more = self._walks or any(self._resolution) or any(factor != 1.0 for factor in self._scale)
        self._any = self._more or self.noisy or any(self.bias)

    def read_back(self) -> dict[str, float]:
        return self._values

    def read(self, true: Sequence[float], control_step: int, control_dt: float) -> list[float]:
        """The reading of what is true, at a control step."""
        if not self._any:
            return list(true)
        noise = self._noises.at(control_step) if self.noisy else self._nothing
        if not self._more:
            return list(map(add, map(add, true, self.bias), noise))
        self._walk(control_step, control_dt)
        ideal = zip(true, self._scale, self.bias, self._drift, self._walked, noise, strict=True)
        read = [k * v + b + d * w + n for v, k, b, d, w, n in ideal]
        return [q * round(v / q) if q > FINEST else v for v, q in zip(read, self._resolution, strict=True)]

    def row(self, control_step: int) -> NDArray[np.float64]:
        """The noise of a control step, in standard deviations."""
        return self._noises.block(control_step // ROWS)[control_step % ROWS]

    def _walk(self, control_step: int, control_dt: float) -> None:
        while self._walks and self._walks_taken < control_step:
            step, row = math.sqrt(control_dt), self._steps.at(self._walks_taken)
            self._walked = [w + step * z for w, z in zip(self._walked, row, strict=True)]
            self._walks_taken += 1
