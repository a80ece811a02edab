"""The physics steps of a control step: the robot's drive in each of them, and what is kept of the states between."""

from __future__ import annotations

from collections.abc import Sequence

from simtoreal.robots.actuators import Drive
from simtoreal.robots.readers import NOTHING
from simtoreal.robots.world import State, World, exceeds

try:
    from simtoreal.robots import pd_loop
except ImportError:  # installed where there was no C compiler: the same numbers, at several times the cost
    COMPILED = False
else:
    COMPILED = True

Steps = tuple[list[State], State, Sequence[float]]


def advance(
    world: World,
    drive: Drive,
    state: State,
    targets: list[list[float]],
    kept: list[tuple[bool, bool]],
    *,
    bound: float,
    compensates_gravity: bool,
    compiled: bool = COMPILED,
) -> Steps:
    """A physics step for each of `targets`, beginning in `state`.

    Args:
        kept: for each step, will anyone look at the state after it, and at its base?
        bound: a joint faster than this [rad/s or m/s] ends it: a drive can damp in one control step what no robot can.
        compiled: for the drives and worlds that allow it take the compiled loop, which gives the same bits.

    Returns:
        The states after the steps, NOTHING for those not kept, without one that broke the bound; the last state; and
        the joint torques that led to it.
    """
    if compiled and drive.gains is not None and world.calls is not None:
        return pd_loop.run(world.calls, drive.gains, state, targets, kept, NOTHING, bound, compensates_gravity)
    seen: list[State] = []
    gravity: Sequence[float] = ()
    for target, (keep, keep_base) in zip(targets, kept, strict=True):
        if compensates_gravity:
            gravity = world.gravity_torque(state[0])
        torque = drive.torque(state, target, gravity)
        state = world.step(torque, drive.wrench, base=keep_base or drive.reads_base)
        if exceeds(state[1], bound):
            break
        seen.append(state if keep else NOTHING)
    return seen, state, torque
