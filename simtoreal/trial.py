"""Does the robot of a robot file hold its pose?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simtoreal import build
from simtoreal.robots.dynamics import holding, mass_matrix
from simtoreal.robots.model import RobotModel
from simtoreal.robots.motors import ActuatorNetwork
from simtoreal.robots.task import Task
from simtoreal.robots.tasks.balance import UPRIGHT, Pole

TRIAL = 2.0  # [s]
MARGIN = 0.8  # of a joint's effort that holding still may take
SPENT = 0.99  # of a joint's effort: it has no more to give
NAMED = 4  # joints in one message


@dataclass(frozen=True)
class Trial:
    """`sound`: nothing speaks against training it; `said`: what happened, in words."""

    sound: bool
    said: str


class TrialWarning(UserWarning):
    """A robot is trained that does not hold its own pose."""


def trial(task: str) -> Trial:
    """What the robot of a robot file does for a while when its policy does nothing."""
    env = build.make_env(task)
    robot = env.unwrapped
    assert isinstance(robot, Task)
    try:
        env.reset(seed=0)
        still = np.zeros(env.action_space.shape or (1,), np.float32)
        limits = np.array(robot.limits["effort"])
        shares: list[NDArray[np.float64]] = []
        for step in range(round(TRIAL / robot.control_dt)):
            _, _, terminated, truncated, info = env.step(still)
            seconds = (step + 1) * robot.control_dt
            shares.append(np.array(robot.torque) / limits)
            if terminated and isinstance(robot, Pole):
                return _pole(type(robot), seconds)
            if info.get("physics_fault"):
                cure = _too_stiff(robot) or "lower kp and kd, or raise drive.rotor"
                return Trial(False, f"physics broke after {seconds:.2f} s: {cure}")
            if terminated:
                return Trial(False, f"it fell after {seconds:.2f} s: {_too_stiff(robot) or _fallen(robot, shares)}")
            if truncated:
                break
        return _held(robot, np.array(shares), seconds)
    finally:
        env.close()


def _pole(task: type[Pole], seconds: float) -> Trial:
    """What happens to a pole that nobody holds, and what would hold it."""
    model, balancer, unit = RobotModel(task.robot.urdf), task.balancer, task.balancer.command.unit
    names, places = (balancer.driven, balancer.pole), (balancer.middle, balancer.upright)
    hold = UPRIGHT * holding(model, names, places, task.robot.inertials)
    said = f"let go, its pole falls in {seconds:.2f} s; at 12 degrees {hold:.2g} {unit} holds it"
    return Trial(True, f"{said}, and the drive gives up to {balancer.effort:.2g} {unit}")


def _too_stiff(task: Task) -> str:
    """The joint whose gains an explicit loop at the physics rate does not bear, and the cure; empty if there is none.

    Such a loop rings or explodes where kd dt / I or kp dt^2 / I is above 1, I what the joint has to move, all others
    free.
    """
    if not task.gains or isinstance(task.robot.actuator, ActuatorNetwork):
        return ""
    task.reset(seed=0)
    joints, dt = task.commanded_joints, task.physics_dt
    places = dict(zip(task.world.joints, task.world.state()[0], strict=True))
    matrix = mass_matrix(task.robot.model, joints, [places[joint] for joint in joints], task.robot.inertials)
    moved = 1.0 / np.diag(np.linalg.inv(matrix))
    shares = {name: np.array(gains) * dt ** (2 if name == "kp" else 1) / moved for name, gains in task.gains.items()}
    name = max(shares, key=lambda name: float(shares[name].max()))
    worst = int(shares[name].argmax())
    if shares[name][worst] <= 1.0:
        return ""
    found = task.gains[name][worst]
    what = f"{name} of {joints[worst]} is {found:.4g}, and it bears {found / shares[name][worst]:.2g}"
    return f"{what}: lower it, or raise drive.rotor"


def _fallen(task: Task, shares: Sequence[NDArray[np.float64]]) -> str:
    """Why a robot with usable gains fell: `shares` [steps, joints] of each joint's effort."""
    most = np.abs(shares)
    if (spent := np.flatnonzero((most > SPENT).mean(axis=0) > 0.5)).size:
        return f"{_named(task.commanded_joints, spent)} gave all of their effort: raise it, or look at their positions"
    if most.max() < MARGIN:
        return f"no joint gave more than {most.max():.0%} of its effort: raise kp, or look at the joints' positions"
    return "look at the joints' positions, kp and kd"


def _held(task: Task, shares: NDArray[np.float64], seconds: float) -> Trial:
    """What holding still took: `shares` [steps, joints] of each joint's effort."""
    most = np.abs(shares).max(axis=0)
    said = f"it holds its pose for {seconds:.1f} s, with {most.max():.0%} of a joint's effort at most"
    hard = np.flatnonzero(most > MARGIN)
    if not hard.size:
        return Trial(True, said)
    swings = np.abs(shares[len(shares) // 2 :].mean(axis=0))[hard] < 0.5 * most[hard]
    cure = "which is weak: see its effort"
    if swings.any():
        cure = "which swings: " + (_too_stiff(task) or "lower its kd and kp, or raise drive.rotor")
    return Trial(False, f"{said}: look at {_named(task.commanded_joints, hard)}, {cure}")


def _named(joints: Sequence[str], which: NDArray[np.intp]) -> str:
    """Some joints, in words."""
    more = f" and {len(which) - NAMED} more" if len(which) > NAMED else ""
    return ", ".join(joints[i] for i in which[:NAMED].tolist()) + more
