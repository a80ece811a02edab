"""An arm whose controller brings its tool to places in a plane."""

from __future__ import annotations

from collections.abc import Sequence

from simtoreal.robots.actuators import PDDrive
from simtoreal.robots.kinematics import Plane


class ToolDrive(PDDrive):
    """Places [2] m of a tool in a level plane: `PDDrive` towards the joint positions that the nominal model has for
    each, as an arm's own Cartesian controller does. An encoder's bias deceives both."""

    def __init__(self, plane: Plane, kp: Sequence[float], kd: Sequence[float], effort: Sequence[float]) -> None:
        self._plane = plane
        super().__init__(kp, kd, effort)

    def start(self, command: Sequence[float]) -> None:
        """The search for joint positions begins where it always does."""
        self._plane.rest()

    def targets(self, commands: list[list[float]]) -> list[list[float]]:
        """The joint targets [n] rad of each place; those of one place are one list."""
        found: dict[int, list[float]] = {}
        for command in commands:
            if id(command) not in found:
                found[id(command)] = self._plane.joints(command)
        return [found[id(command)] for command in commands]
