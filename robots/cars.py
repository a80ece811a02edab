"""Cars: how a steering angle and a speed, commanded, become torques of hinges and wheels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from simtoreal.robots.actuators import Drive, PDDrive
from simtoreal.robots.parameters import Parameter
from simtoreal.robots.world import State


@dataclass(frozen=True)
class Chassis:
    """What driving needs to know of a car whose front wheels steer and all of whose wheels are driven.

    Attributes:
        steering: the hinges of the left and the right front wheel, positive to the left.
        wheels: their joints, positive forwards.
        wheelbase, track, radius: between the axles, between left and right, of a wheel [m].
        servo: gains [N m/rad, N m s/rad] and largest torque [N m] of each hinge's servo.
        motor: gains [N m s/rad, N m/rad] on the mean wheel speed and its integral, and largest torque [N m], of the
            motor that drives all wheels together.
    """

    steering: tuple[str, str]
    wheels: tuple[str, ...]
    wheelbase: float
    track: float
    radius: float
    servo: tuple[float, float, float]
    motor: tuple[float, float, float]

    def hinge_angles(self, angle: float) -> tuple[float, float]:
        """Angles [rad] of the left and the right hinge at which both wheels roll around the point that one wheel in the
        middle, turned by `angle`, would roll around: Ackermann's."""
        slope, half = math.tan(angle), 0.5 * self.track / self.wheelbase
        return math.atan(slope / (1.0 - half * slope)), math.atan(slope / (1.0 + half * slope))

    def steering_angle(self, left: float, right: float) -> float:
        """The inverse of `hinge_angles`: of the one wheel in the middle [rad]."""
        return math.atan(0.5 * (math.tan(left) + math.tan(right)))


class CarDrive(Drive):
    """Steering angle [rad] and speed [m/s]: a servo on each hinge, one motor with open differentials for all wheels.

    The servos are those of `PDDrive`, whose `actuator.kp` and `actuator.kd` are theirs alone; the motor holds the mean
    wheel speed by a proportional and integral law and turns every wheel with the same torque, whatever its speed.
    `steering.trim` is how far the linkage is off.
    """

    def __init__(self, chassis: Chassis, joints: Sequence[str], physics_dt: float) -> None:
        kp, kd, most = chassis.servo
        self._chassis, self._dt, self._size = chassis, physics_dt, len(joints)
        self._hinges = [joints.index(name) for name in chassis.steering]
        self._wheels = [joints.index(name) for name in chassis.wheels]
        self._servo = PDDrive([kp] * 2, [kd] * 2, [most] * 2)
        trim = Parameter("steering.trim", "rad", 0.0, -0.1, 0.1, "added to every steering angle")
        self.parameters = (*PDDrive.parameters, trim)
        self.apply({p.name: p.nominal for p in self.parameters})
        self.start((0.0, 0.0))

    def apply(self, values: Mapping[str, float]) -> None:
        self._servo.apply(values)
        self._trim, self._strength = values["steering.trim"], values["actuator.strength"]
        self._most = self._chassis.motor[2] * values["actuator.torque_limit"]
        self._command: Sequence[float] | None = None

    def read_back(self) -> dict[str, float]:
        return self._servo.read_back() | {"steering.trim": self._trim}

    def start(self, command: Sequence[float]) -> None:
        """At rest."""
        self._integral = 0.0

    def torque(self, state: State, command: Sequence[float], gravity: Sequence[float]) -> list[float]:
        position, velocity = state[:2]
        if command is not self._command:  # a command lasts for many physics steps
            self._command, self._targets = command, self._chassis.hinge_angles(command[0] + self._trim)
        hinges = [position[i] for i in self._hinges], [velocity[i] for i in self._hinges]
        out = [0.0] * self._size
        for i, torque in zip(self._hinges, self._servo.torque(hinges, self._targets, ()), strict=True):
            out[i] = torque
        proportional, integral, _ = self._chassis.motor
        turning = sum(velocity[i] for i in self._wheels) / len(self._wheels)
        error, most = command[1] / self._chassis.radius - turning, self._most
        self._integral = min(max(self._integral + integral * self._dt * error, -most), most)
        asked = min(max(proportional * error + self._integral, -most), most)
        for i in self._wheels:
            out[i] = self._strength * asked / len(self._wheels)
        return out
