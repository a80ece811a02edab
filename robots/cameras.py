"""A camera as a part of the robot: what it shows, how late, how noisy and from where are parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from simtoreal.robots import imperfections
from simtoreal.robots.imperfections import Channels
from simtoreal.robots.parameters import Parameter
from simtoreal.robots.readers import PARTS, SensorReader, StateRing
from simtoreal.robots.sensors import Sensor
from simtoreal.robots.world import Camera, State, World

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R BT.601
WHITE = 255.0


@dataclass(frozen=True)
class CameraSensor(Sensor):
    """Images of a robot with a fixed base: uint8 [height, width, C], C = 3 of `colour`, else 1 of luma.

    Parameters it adds: `sensor.NAME.noise` (standard deviation of white noise a control step, of each pixel's each
    channel, in shares of full scale), `sensor.NAME.brightness` (a factor on every pixel), `sensor.NAME.bias` (added to
    every pixel after that, in shares of full scale: a black that is not black), its timing, and its pose:
    `sensor.NAME.yaw` and `.pitch`, by which it goes around what it looks at, and `sensor.NAME.shift`, by which it is
    moved along the world's x axis; and `sensor.NAME.field_of_view`, from top to bottom.
    """

    name: str
    view: Camera
    colour: bool = False
    max_noise: float = 0.2
    max_bias: float = 0.2
    max_turn: float = 0.2  # [rad]
    max_shift: float = 0.2  # [m]
    max_widening: float = 0.2  # of its field of view
    latency: float = 0.0
    period: float = 0.0
    sees: ClassVar[bool] = True

    @property
    def shape(self) -> tuple[int, int, int]:
        """[height, width, channels]."""
        return self.view.height, self.view.width, 3 if self.colour else 1

    def parameters(self) -> list[Parameter]:
        what, turn, shift = f"sensor.{self.name}", self.max_turn, self.max_shift
        return [
            *imperfections.parameters(what, "-", ("noise",), noise=self.max_noise),
            *self.timing(),
            Parameter(f"{what}.brightness", "-", 1.0, 0.4, 1.6, "factor on every pixel"),
            Parameter(f"{what}.bias", "-", 0.0, -self.max_bias, self.max_bias, "added to every pixel"),
            Parameter(f"{what}.yaw", "rad", 0.0, -turn, turn, "around what it looks at, about the vertical"),
            Parameter(f"{what}.pitch", "rad", 0.0, -turn, turn, "around what it looks at, upwards"),
            Parameter(f"{what}.shift", "m", 0.0, -shift, shift, "along the world's x axis"),
            Parameter(f"{what}.field_of_view", "rad", *self._lens(), "from top to bottom"),
        ]

    def _lens(self) -> tuple[float, float, float]:
        """Its field of view [rad], and the least and greatest that it may have."""
        nominal = math.radians(self.view.field_of_view)
        return nominal, (1.0 - self.max_widening) * nominal, (1.0 + self.max_widening) * nominal

    def reader(self, world: World) -> SensorReader:
        return CameraReader(self, world)


class CameraReader(SensorReader):
    """Reads a CameraSensor."""

    def __init__(self, sensor: CameraSensor, world: World) -> None:
        what = f"sensor.{sensor.name}"
        super().__init__(what, PARTS["position"], [Channels(1, what, ("noise",))], math.prod(sensor.shape))
        self._names = [f"{what}.{part}" for part in ("brightness", "bias", "yaw", "pitch", "shift", "field_of_view")]
        self._sensor, self._world, self._joints = sensor, world, range(len(world.joints))
        self._view = sensor.view
        self._pose: dict[str, float] = {}

    def apply(self, values: Mapping[str, float]) -> None:
        super().apply(values)
        self._pose = {name: values[name] for name in self._names}
        self._brightness, self._offset, yaw, pitch, shift, field_of_view = self._pose.values()
        view = self._sensor.view
        x, y, z = view.target
        self._view = replace(
            view,
            target=(x + shift, y, z),
            yaw=view.yaw + math.degrees(yaw),
            pitch=view.pitch - math.degrees(pitch),  # a camera's pitch is that of its look
            field_of_view=math.degrees(field_of_view),
        )

    def read_back(self) -> dict[str, float]:
        return super().read_back() | self._pose

    def ideal(self, state: State) -> NDArray[np.uint8]:
        return _pixels(self._seen(self._sensor.view, state[self.which]))

    def _true(self, ring: StateRing, age: float) -> NDArray[np.float64]:
        return self._seen(self._view, ring.read(self.which, self._joints, age) if age else None)

    def _disturbed(self, true: NDArray[np.float64], control_step: int, control_dt: float) -> NDArray[np.uint8]:
        image = true * self._brightness + WHITE * self._offset
        if self._flaws.noisy:
            row = np.reshape(self._flaws.row(control_step), image.shape)
            image = image + (WHITE * self._flaws.noise[0]) * row
        return _pixels(image)

    def _seen(self, view: Camera, position: list[float] | None) -> NDArray[np.float64]:
        """[height, width, C] of 0 to 255: the robot as it is, or with its joints at `position`."""
        image = self._world.render(view, position).astype(float)
        return image if self._sensor.colour else image @ np.array(LUMA)[:, None]


def _pixels(image: NDArray[np.floating]) -> NDArray[np.uint8]:
    """What fits into bytes."""
    return np.clip(np.rint(image), 0.0, WHITE).astype(np.uint8)
