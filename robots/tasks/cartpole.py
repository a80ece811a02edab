"""A cart that holds a pole up: after swinging it up, or from near upright; with a force, or by pushes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simtoreal.robots import catalog
from simtoreal.robots.layout import ChoiceLayout, Field, Layout
from simtoreal.robots.mirror import LeftAndRight, Mirror
from simtoreal.robots.streams import uniform
from simtoreal.robots.task_definition import Start
from simtoreal.robots.tasks.balance import UPRIGHT, Balance, Balancer, Pole

CART = Balancer("slider", "hinge", effort=10.0, room=2.0, names=("cart", "pole"))
POLE_LENGTH = 1.0  # [m]


class CartPoleSwingUp(LeftAndRight, Pole):
    """A pole hangs from a cart on a 4 m track; swing it up and hold it.

    50 Hz control over 250 Hz physics, 10 s. Starts hanging, at rest, within 0.1 m of the middle and 0.05 rad of
    straight down. Success: the pole is within 12 degrees of upright for the whole last 2 s.

    Observation (6):

    | index | field | unit | frame |
    |---|---|---|---|
    | 0 | cart_position | m | track, middle = 0 |
    | 1 | cart_velocity | m/s | track |
    | 2-3 | pole_direction (sin, cos of the angle from upright) | - | track |
    | 4 | pole_velocity | rad/s | about the track's y axis |
    | 5 | last_force | N | track |

    Action (1): force = 10 N * a, a in [-1, 1]. Command: `force` [N].

    Reward per step: `energy` = 0.3 c exp(-(E - 1)^2), `balanced` = 0.7 c exp(-(angle / 0.4 rad)^2 - (velocity /
    2 rad/s)^2) with c = (1 + exp(-x^2)) / 2, `effort` = -0.01 a^2 and `smooth` = -0.05 (change of a)^2: without it,
    policies that succeed hold the pole by chattering. E = cos angle + velocity^2 L / (3 g) is the pole's energy over
    that of standing still upright: swing-up by energy control (Astrom and Furuta 2000).
    Terminates, as a failure, when the cart leaves the track (|x| > 2 m). Truncates after 500 steps.
    Reward signals: cart_position [m], pole_angle [rad], pole_velocity [rad/s], as motion capture gives them, and
    force_change [N], the command less the one before.
    """

    robot = catalog.cartpole()
    balancer = CART
    lowest_reward = -0.21  # 10 N reversed in every step
    observation_layout = Layout(
        Field("cart_position", 1, "m", "track"),
        Field("cart_velocity", 1, "m/s", "track"),
        Field("pole_direction", 2, "-", "track", ("sin", "cos"), "of the pole's angle from upright"),
        Field("pole_velocity", 1, "rad/s", "track"),
        CART.last,
    )

    def start(self, rng: np.random.Generator) -> Start:
        x, lean = uniform(rng, (-0.1, -0.05), (0.1, 0.05))
        return self.begin((x, math.pi + lean), (0.0, 0.0))

    def observe(
        self, readings: Mapping[str, list[float]], command: Sequence[float]
    ) -> dict[str, Sequence[float] | NDArray[np.floating]]:
        (angle,) = readings["pole_angle"]
        return {
            "cart_position": readings["cart_position"],
            "cart_velocity": readings["cart_velocity"],
            "pole_direction": (math.sin(angle), math.cos(angle)),
            "pole_velocity": readings["pole_velocity"],
            "last_force": command,
        }

    @cached_property
    def _mirrors(self) -> tuple[Mirror, Mirror, Mirror]:
        """Every sign turns but that of the cosine; constant biases turn too, and where the pole's mass is."""
        seen = -np.ones(self.observation_layout.size, np.float32)
        seen[self.observation_layout.slices["pole_direction"].start + 1] = 1
        sided = np.array([-1.0 if name.endswith((".bias", ".com.x")) else 1.0 for name in self.parameters], np.float32)
        true = np.concatenate([seen, sided]) if "parameters" in self.privileged_layout.slices else seen
        seen_from, true_from, action = ((np.arange(len(sign)), sign) for sign in (seen, true, -np.ones(1, np.float32)))
        return seen_from, true_from, action

    @staticmethod
    def reward_terms(signals: Mapping[str, Sequence[float]], action: Sequence[float]) -> dict[str, float]:
        """`signals` as in `reward_layout`; `action` [1] in [-1, 1]."""
        (x,), (angle,), (spin,) = signals["cart_position"], signals["pole_angle"], signals["pole_velocity"]
        (a,) = action
        centred = (1.0 + math.exp(-x * x)) / 2.0
        energy = math.cos(angle) + spin * spin * POLE_LENGTH / (3.0 * 9.81)
        return {
            "energy": 0.3 * centred * math.exp(-((energy - 1.0) ** 2)),
            "balanced": 0.7 * centred * math.exp(-((angle / 0.4) ** 2) - (spin / 2.0) ** 2),
            "effort": -0.01 * min(a * a, 1.0),
            "smooth": -0.05 * (signals["force_change"][0] / CART.effort) ** 2,
        }

    @staticmethod
    def succeeds(signals: Mapping[str, Sequence[float]]) -> bool:
        return abs(signals["pole_angle"][0]) <= UPRIGHT

    @staticmethod
    def fails(signals: Mapping[str, Sequence[float]]) -> bool:
        return abs(signals["cart_position"][0]) > CART.room


class CartPoleBalance(Balance):
    """A pole stands near upright on a cart on a 4 m track; hold it up, and the cart near the middle.

    50 Hz control over 250 Hz physics, 10 s. Starts within 0.3 m of the middle and 0.2 m/s, 0.08 rad of upright and 0.2
    rad/s. Success: the pole has stayed up to the end, and for the last 2 s the cart has been within 0.5 m of the
    middle.

    Observation (5):

    | index | field | unit | frame |
    |---|---|---|---|
    | 0 | cart_position | m | track, middle = 0 |
    | 1 | cart_velocity | m/s | track |
    | 2 | pole_angle | rad | from upright, about the track's y axis |
    | 3 | pole_velocity | rad/s | about the track's y axis |
    | 4 | last_force | N | track |

    Action (1): force = 10 N * a, a in [-1, 1]. Command: `force` [N].

    Reward per step: `up` = 0.5, `centred` = 0.5 / (1 + (x / 0.3 m)^2), `effort` = -0.01 a^2 and `smooth` = -0.05
    (change of a)^2: without it, policies that succeed hold the pole by chattering.
    Terminates, as a failure, when the pole leans by more than 12 degrees or the cart leaves the track (|x| > 2 m).
    Truncates after 500 steps. Reward signals: cart_position [m], pole_angle [rad], pole_velocity [rad/s], as motion
    capture gives them, and force_change [N], the command less the one before.
    """

    robot = catalog.cartpole()
    balancer = CART


class CartPoleBalanceDiscrete(CartPoleBalance):
    """A pole stands near upright on a cart on a 4 m track; hold it up by pushes to the left and to the right.

    CartPole-v1's spaces, rate, time and ends, on a cart and pole of its masses. 50 Hz control over 250 Hz physics,
    10 s. Starts within 0.3 m of the middle and 0.2 m/s, 0.08 rad of upright and 0.2 rad/s. Success: the pole has
    stayed up to the end, and for the last 2 s the cart has been within 0.5 m of the middle.

    Observation (4):

    | index | field | unit | frame |
    |---|---|---|---|
    | 0 | cart_position | m | track, middle = 0 |
    | 1 | cart_velocity | m/s | track |
    | 2 | pole_angle | rad | from upright, about the track's y axis |
    | 3 | pole_velocity | rad/s | about the track's y axis |

    Action (1): 0 pushes to the left with 10 N, 1 to the right. Command: `force` [N], one of -10, 10.

    Reward per step: `up` = 0.5 and `centred` = 0.5 / (1 + (x / 0.3 m)^2): in the middle 1, as CartPole-v1's.
    Terminates, as a failure, when the pole leans by more than 12 degrees or the cart leaves the track (|x| > 2 m).
    Truncates after 500 steps. Reward signals: cart_position [m], pole_angle [rad], pole_velocity [rad/s], as motion
    capture gives them, and force_change [N], the command less the one before.
    """

    observation_layout = Layout(*(field for field in CartPoleBalance.observation_layout.fields if field != CART.last))
    command_layout = ChoiceLayout(CART.command, (-CART.effort, CART.effort))

    def observe(self, readings: Mapping[str, Any], command: Sequence[float]) -> dict[str, Any]:
        return dict(readings)

    @classmethod
    def reward_terms(cls, signals: Mapping[str, Sequence[float]], action: Sequence[float]) -> dict[str, float]:
        """`signals` as in `reward_layout`."""
        return cls.standing(signals)
