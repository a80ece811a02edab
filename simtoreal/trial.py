"""Does the robot of a robot file hold its pose?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simtoreal import build
from simtoreal.robots.dynamics import holding
from simtoreal.robots.model import RobotModel
from simtoreal.robots.tasks.balance import UPRIGHT, Pole

TRIAL = 2.0  # [s]
MARGIN = 0.8  # of a joint's effort that holding still may take


class Trial(NamedTuple):
    """`sound`: nothing speaks against training it; `said`: what happened, in words."""

    sound: bool
    said: str


class TrialWarning(UserWarning):
    """A robot is trained that does not hold its own pose."""


def trial(task: str) -> Trial:
    """What the robot of a robot file does for a while when its policy does nothing."""
    env = build.make_env(task)
    try:
        env.reset(seed=0)
        still = np.zeros(env.action_space.shape or (1,), np.float32)
        limits, torques = np.array(env.get_wrapper_attr("limits")["effort"]), []
        for step in range(round(TRIAL / env.get_wrapper_attr("control_dt"))):
            _, _, terminated, truncated, info = env.step(still)
            seconds = (step + 1) * env.get_wrapper_attr("control_dt")
            if info.get("physics_fault"):
                return Trial(False, f"physics broke after {seconds:.2f} s: lower kd, or raise drive.rotor")
            if terminated and isinstance(env.unwrapped, Pole):
                return _pole(type(env.unwrapped), seconds)
            if terminated:
                return Trial(False, f"it fell after {seconds:.2f} s: look at the joints' positions, kp and kd")
            if truncated:
                break
            torques.append(np.array(env.get_wrapper_attr("torque")) / limits)
        said = f"it holds its pose for {seconds:.1f} s, with {{:.0%}} of a joint's effort at most"
        return _held(np.array(torques), env.get_wrapper_attr("commanded_joints"), said)
    finally:
        env.close()


def _pole(task: type[Pole], seconds: float) -> Trial:
    """What happens to a pole that nobody holds, and what would hold it."""
    model, balancer, unit = RobotModel(task.robot.urdf), task.balancer, task.balancer.command.unit
    names, places = (balancer.driven, balancer.pole), (balancer.middle, balancer.upright)
    hold = UPRIGHT * holding(model, names, places, task.robot.inertials)
    said = f"let go, its pole falls in {seconds:.2f} s; at 12 degrees {hold:.2g} {unit} holds it"
    return Trial(True, f"{said}, and the drive gives up to {balancer.effort:.2g} {unit}")


def _held(shares: NDArray[np.float64], joints: Sequence[str], said: str) -> Trial:
    """What holding still took: `shares` [steps, joints] of each joint's effort."""
    most = np.abs(shares).max(axis=0)
    said, hard = said.format(most.max()), np.flatnonzero(most > MARGIN)
    if not hard.size:
        return Trial(True, said)
    swings = np.abs(shares[len(shares) // 2 :].mean(axis=0))[hard] < 0.5 * most[hard]
    cure = (
        "which swings: lower its kd and kp, or raise drive.rotor" if swings.any() else "which is weak: see its effort"
    )
    return Trial(False, f"{said}: look at {', '.join(joints[i] for i in hard.tolist())}, {cure}")
