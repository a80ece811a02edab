"""Hold a pole up by what a camera shows."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simtoreal.robots import catalog
from simtoreal.robots.cameras import CameraSensor
from simtoreal.robots.layout import ImageLayout
from simtoreal.robots.task_definition import Start
from simtoreal.robots.tasks.balance import UPRIGHT
from simtoreal.robots.tasks.cartpole import CART, CartPoleBalance, CartPoleBalanceDiscrete
from simtoreal.robots.world import Camera

SIDE = 84  # [pixels]
STACK = 3  # frames: where the pole is, how fast, and what that has just done
SEEN = 0.7  # [m] of the track each way that the camera shows
VIEW = Camera(target=(0.0, 0.0, 0.5), distance=1.7, yaw=0.0, pitch=0.0, width=SIDE, height=SIDE)

DOCUMENT = """

    25 Hz control over 250 Hz physics, 5 s. Starts within 0.3 m of the middle and 0.2 m/s, 0.08 rad of upright and 0.2
    rad/s. Success: the pole has stayed up to the end, and for the last 1 s the cart has been within 0.5 m of the
    middle.

    Observation ({size}), uint8 {shape}: the last 3 frames of 84 x 84 pixels, {colours}, the oldest first; at an
    episode's start all three are the first.

    | index | field | unit | frame |
    |---|---|---|---|
    | 0-{last} | image | 1/255 | camera |

    Action (1): force = 10 N * a, a in [-1, 1]. Command: `force` [N].

    Reward per step: `up` = 0.5, `centred` = 0.5 / (1 + (x / 0.3 m)^2), `effort` = -0.01 a^2 and `smooth` = -0.05
    (change of a)^2, as of CartPoleBalance, and `lean` = -0.3 (angle / 12 degrees)^2, which shows at once what a pole
    that falls shows seconds later. Terminates, as a failure, when the pole leans by more than 12 degrees or the cart
    leaves what the camera shows of the track (|x| > 0.7 m). Truncates after 125 steps. Reward signals:
    cart_position [m], pole_angle [rad], pole_velocity [rad/s], as motion capture gives them, and force_change [N], the
    command less the one before.
    """


class SeenCartPole(CartPoleBalance):
    """Hold a pole up by images. A task of the family has a camera, and what is seen in the first line of its document;
    the rest of that follows."""

    robot = replace(catalog.cartpole(), wall=True)  # before white, most features of a network are a constant
    control_dt = 0.04
    horizon = 125
    success_hold = 1.0
    state_layout = CartPoleBalanceDiscrete.observation_layout
    sensors: tuple[CameraSensor]

    def __init_subclass__(cls, **options: Any) -> None:
        """What follows from the camera."""
        super().__init_subclass__(**options)
        (camera,) = cls.sensors
        height, width, channels = camera.shape
        shape = (STACK * channels, height, width)
        colours = "red, green and blue" if camera.colour else "grey"
        cls.observation_layout = ImageLayout("image", shape, "camera", f"last {STACK} frames, {colours}, oldest first")
        size = cls.observation_layout.size
        facts = {"size": size, "last": size - 1, "shape": list(shape), "colours": colours}
        cls.__doc__ = (cls.__doc__ or "") + DOCUMENT.format(**facts)

    def __init__(self, **options: Any) -> None:
        self._frames: deque[NDArray[np.uint8]] = deque(maxlen=STACK)
        super().__init__(**options)
        self._ideal = {sensor.name: sensor.reader(self.world) for sensor in CART.sensors()}

    def start(self, rng: np.random.Generator) -> Start:
        self._frames.clear()
        return super().start(rng)

    def remember(self, readings: Mapping[str, Any]) -> None:
        frame = np.moveaxis(readings["camera"], -1, 0)
        self._frames.extend([frame] * (1 if self._frames else STACK))

    def observe(self, readings: Mapping[str, Any], command: Sequence[float]) -> dict[str, Any]:
        return {"image": np.concatenate(self._frames)}

    def true_state(self) -> NDArray[np.float32]:
        return self.state_layout.pack({name: reader.ideal(self._state) for name, reader in self._ideal.items()})

    @classmethod
    def reward_terms(cls, signals: Mapping[str, Sequence[float]], action: Sequence[float]) -> dict[str, float]:
        """`signals` as in `reward_layout`; `action` [1] in [-1, 1]."""
        lean = -0.3 * (signals["pole_angle"][0] / UPRIGHT) ** 2
        return {**super().reward_terms(signals, action), "lean": lean}

    @classmethod
    def fails(cls, signals: Mapping[str, Sequence[float]]) -> bool:
        return super().fails(signals) or abs(signals["cart_position"][0]) > SEEN


class PixelCartPole(SeenCartPole):
    """A pole stands near upright on a cart; hold it up, and the cart near the middle, by a camera's grey images."""

    sensors = (CameraSensor("camera", VIEW),)


class PixelCartPoleRGB(SeenCartPole):
    """A pole stands near upright on a cart; hold it up, and the cart near the middle, by a camera's colour images."""

    sensors = (CameraSensor("camera", VIEW, colour=True),)
