"""A task of images, for `squares:Square-v0` and its like: where is the bright square?"""

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Square(gym.Env):
    """A bright square left, in the middle or right of a dim, noisy image, at any height; naming its place pays 1.

    Each step shows another; an episode has eight. With `steering` the place is an action in [-1, 1], which pays by how
    near it is. `shape` is [C, H, W] or [H, W, C], every channel alike. With `bools` pixels are on or off.
    """

    metadata = {"render_modes": [], "render_fps": 10}  # noqa: RUF012

    def __init__(self, shape: tuple[int, int, int] = (36, 36, 1), steering: bool = False, bools: bool = False) -> None:
        self.observation_space = spaces.Box(0, 1, shape, np.bool_) if bools else spaces.Box(0, 255, shape, np.uint8)
        self.action_space = spaces.Box(-2.0, 2.0, (1,), np.float32) if steering else spaces.Discrete(3)
        self._first, self._sides = shape[0] < shape[2], shape[1:] if shape[0] < shape[2] else shape[:2]

    def _show(self) -> np.ndarray:
        self._place = int(self.np_random.integers(3))
        height, width = self._sides
        image = self.np_random.integers(0, 90, self._sides, dtype=np.uint8)
        top, left, side = self.np_random.integers(height - height // 4), self._place * width // 3, height // 4
        image[top : top + side, left + 1 : left + 1 + side] = 230
        image = image[None] if self._first else image[..., None]
        shown = np.broadcast_to(image, self.observation_space.shape)
        return shown > 128 if self.observation_space.dtype == np.bool_ else shown.copy()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._left = 8
        return self._show(), {}

    def step(self, action):
        if isinstance(self.action_space, spaces.Discrete):
            reward = float(action == self._place)
        else:
            reward = 1.0 - abs(float(action[0]) / 2 - (self._place - 1))
        self._left -= 1
        return self._show(), reward, False, self._left == 0, {}


gym.register("Square-v0", Square)
gym.register("SquareSteered-v0", Square, kwargs={"shape": (2, 40, 36), "steering": True})
gym.register("SquareStack-v0", Square, kwargs={"shape": (4, 84, 84)})
gym.register("SquareSmall-v0", Square, kwargs={"shape": (10, 10, 4), "bools": True})
