"""Rotors: how collective thrust and body rates, commanded, become a wrench on a flying base."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from simtoreal.robots import rotation
from simtoreal.robots.actuators import JITTER, LATENCY, STRENGTH, Drive
from simtoreal.robots.model import Vector3
from simtoreal.robots.parameters import Parameter
from simtoreal.robots.readers import BASE
from simtoreal.robots.world import State

MAX_WIND = 8.0  # [m/s]
MAX_INTEGRAL = 40.0  # [rad/s^2] that the rate loop's integral may ask for


@dataclass(frozen=True)
class Rotors:
    """What an autopilot needs to know of four rotors that push along the root link's z.

    Attributes:
        place: of each (x, y) [m] in the root link.
        spin: +1 for a rotor whose reaction turns the body about +z (it turns clockwise, seen from above), else -1.
        max_thrust: of each [N].
        torque_ratio: reaction torque over thrust [m].
        lag: time constant with which thrust follows what is asked for [s].
        drag: linear, of the body [N s/m].
        inertia: nominal, principal, of the whole robot [kg m^2].
        rate_gains: of the rate loop about x, y, z: (proportional [1/s], integral [1/s^2], derivative [-]).
    """

    place: Mapping[str, tuple[float, float]]
    spin: Mapping[str, float]
    max_thrust: float
    torque_ratio: float
    lag: float
    drag: float
    inertia: Vector3
    rate_gains: tuple[Vector3, Vector3, Vector3]


class RotorDrive(Drive):
    """Collective thrust [N] and body rates [rad/s]: the command of an autopilot's innermost mode.

    Each physics step, as a flight controller does at its gyro's rate: angular acceleration a = kp e + ki integral(e) -
    kd dw/dt of the error e of the body rates, torque J a + w x J w by the nominal inertia, thrusts by the nominal
    geometry, each clipped to what a rotor can give. Thrust then follows with a first-order lag; r_i x T_i and the
    reactions spin_i ratio T_i act on the body, and a drag -c (v - wind).

    The loop's gyro is the inertial unit's and shares its constant bias, but not its noise, age and mounting error.
    Why not a command for each motor: of collective thrust with body rates, single rotor thrusts and velocities, the
    first crossed best from simulation to real quadrotors (Kaufmann et al. 2022, arXiv 2202.10796).
    """

    reads_base = True

    def __init__(self, rotors: Rotors, physics_dt: float, base_axes: rotation.Matrix) -> None:
        """`base_axes` as of a World."""
        self._rotors, self._dt, self._axes = rotors, physics_dt, base_axes
        names = list(rotors.place)
        self._factors = [f"rotor.thrust.{name}" for name in names]
        self._place = [rotors.place[name] for name in names]
        self._reaction = [rotors.torque_ratio * rotors.spin[name] for name in names]
        (xx, yy), kk = (sum(p[i] ** 2 for p in self._place) for i in (0, 1)), sum(k * k for k in self._reaction)
        self._mixer = [
            (1.0 / len(names), y / yy, -x / xx, k / kk) for (x, y), k in zip(self._place, self._reaction, strict=True)
        ]
        self.parameters = (
            STRENGTH,
            LATENCY,
            JITTER,
            Parameter("rotor.lag", "s", rotors.lag, 0.0, 0.15, "time constant with which thrust follows"),
            *(
                Parameter(name, "-", 1.0, 0.5, 1.2, "thrust of this rotor over its nominal one")
                for name in self._factors
            ),
            Parameter("body.drag", "N s/m", rotors.drag, 0.0, 8.0 * rotors.drag, "linear, against the air"),
            *(
                Parameter(f"wind.{axis}", "m/s", 0.0, -MAX_WIND, MAX_WIND, "of the air, in the ground's axes")
                for axis in "xyz"
            ),
        )
        self.gyro_bias: Sequence[float] = (0.0, 0.0, 0.0)  # [rad/s]
        self.apply({p.name: p.nominal for p in self.parameters})
        self.start((0.0, 0.0, 0.0, 0.0))

    def apply(self, values: Mapping[str, float]) -> None:
        self._values = {p.name: values[p.name] for p in self.parameters}
        strength, lag = values["actuator.strength"], values["rotor.lag"]
        self._gain = [strength * values[name] for name in self._factors]
        self._follow = -math.expm1(-self._dt / lag) if lag else 1.0
        self._drag = values["body.drag"]
        self._wind = [values[f"wind.{axis}"] for axis in "xyz"]

    def read_back(self) -> dict[str, float]:
        return dict(self._values)

    def start(self, command: Sequence[float]) -> None:
        """As if this had been commanded for ever, and been flown."""
        most, share = self._rotors.max_thrust, command[0] / len(self._gain)
        self.thrust = [gain * min(max(share, 0.0), most) for gain in self._gain]
        self._integral = [0.0, 0.0, 0.0]
        self._rates: Sequence[float] | None = None

    def torque(self, state: State, command: Sequence[float], gravity: Sequence[float]) -> list[float]:
        base = state[BASE]
        turn, axes = rotation.from_quaternion(base[3:7]), self._axes
        rates = rotation.apply(axes, rotation.apply_inverse(turn, base[10:13]))
        wanted = self._asked(command, [w + b for w, b in zip(rates, self.gyro_bias, strict=True)])
        most, follow = self._rotors.max_thrust, self._follow
        through_air = [v - w for v, w in zip(base[7:10], self._wind, strict=True)]
        fx, fy, fz = (-self._drag * v for v in rotation.apply(axes, rotation.apply_inverse(turn, through_air)))
        tx = ty = tz = 0.0
        places = zip(wanted, self._gain, self.thrust, self._place, self._reaction, strict=True)
        for i, (ask, gain, now, (x, y), reaction) in enumerate(places):
            self.thrust[i] = push = now + follow * (gain * min(max(ask, 0.0), most) - now)
            fz += push
            tx += y * push
            ty -= x * push
            tz += reaction * push
        self.wrench = (fx, fy, fz, tx, ty, tz)
        return []

    def _asked(self, command: Sequence[float], measured: Sequence[float]) -> list[float]:
        """Thrust [N] of each rotor, before its limits, that the rate loop asks for; `measured` body rates [rad/s]."""
        before, self._rates = self._rates or measured, measured
        p, q, r = measured
        jx, jy, jz = self._rotors.inertia
        torque = [(jz - jy) * q * r, (jx - jz) * r * p, (jy - jx) * p * q]  # w x J w
        for i, (kp, ki, kd) in enumerate(self._rotors.rate_gains):
            error = command[1 + i] - measured[i]
            self._integral[i] = min(max(self._integral[i] + ki * self._dt * error, -MAX_INTEGRAL), MAX_INTEGRAL)
            change = (measured[i] - before[i]) / self._dt
            torque[i] += self._rotors.inertia[i] * (kp * error + self._integral[i] - kd * change)
        tx, ty, tz = torque
        return [a * command[0] + b * tx + c * ty + d * tz for a, b, c, d in self._mixer]
