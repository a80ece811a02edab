"""What may stand in a robot file."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict, field_validator

from simtoreal.robots.arrivals import MAX_LATENCY, MAX_PERIOD

MOST = 1e4  # of any number in it: no robot's metre, kilogram, gain or second is above
Number = Annotated[float, Strict(), Field(ge=-MOST, le=MOST)]  # strict: a text or a truth value is no number
Positive = Annotated[float, Strict(), Field(gt=0, le=MOST)]
NotNegative = Annotated[float, Strict(), Field(ge=0, le=MOST)]
Lag = Annotated[float, Strict(), Field(ge=0, le=1)]
Vector = tuple[Number, Number, Number]
Kind = Literal["encoders", "imu", "foot_contact", "accelerometer", "joint_torque", "motion_capture"]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class JointEntry(_Entry):
    """A driven joint: where it is when an episode starts, and what of it is not as the URDF or `drive` has it."""

    instead: ClassVar[str] = "a number, or "  # that a file may have instead, in the words of a message

    at: Number = 0.0
    kp: Positive | None = None
    kd: NotNegative | None = None
    effort: Positive | None = None
    velocity: Positive | None = None
    range: tuple[Number, Number] | None = None


class MotorEntry(_Entry):
    """A DC motor at each driven joint, as seen through its gears: torque at rest [N m] and speed without load [rad/s]
    at the battery's nominal voltage [V]."""

    stall: Positive
    speed: Positive
    voltage: Positive


class NetworkEntry(_Entry):
    """A drive learned from a log: an ONNX file (`actuator_files`), a path from the robot file, and the instants that it
    looks at, as long ago [s]."""

    file: str
    lags: tuple[Lag, ...] = Field(default=(0.0, 0.01, 0.02), min_length=1, max_length=100)


class SensorEntry(_Entry):
    """How often it samples [Hz] and how old a sample is when it arrives [s]. Without: motion capture 30 times a second,
    20 ms late; all others whenever they are read, at once."""

    rate: Annotated[float, Strict(), Field(ge=1.0 / MAX_PERIOD, le=MOST)] | None = None
    latency: Annotated[float, Strict(), Field(ge=0, le=MAX_LATENCY)] | None = None

    def timing(self, latency: float, period: float) -> tuple[float, float]:
        """Latency and period [s]; these where the file says nothing."""
        return latency if self.latency is None else self.latency, 1.0 / self.rate if self.rate else period


class DriveEntry(_Entry):
    """Of every driven joint: gains of its explicit PD at 500 Hz, limits where the URDF gives none, and the inertia of a
    motor's rotor as seen at the joint, through its gears [kg m^2]; the nominal viscous damping of the joints; a motor
    that weakens with speed, or a network instead of all gains; do they follow positions, or velocities, by kd alone? A
    balancer's joint is driven by its force alone."""

    kp: Positive | None = None
    kd: NotNegative | None = None
    effort: Positive | None = None
    velocity: Positive | None = None
    rotor: NotNegative = 0.0
    damping: NotNegative = 0.0
    control: Literal["position", "velocity"] = "position"
    motor: MotorEntry | None = None
    network: NetworkEntry | None = None


class PayloadEntry(_Entry):
    """Where it may carry a point mass [m, link frame], of at most so many kg."""

    link: str
    point: Vector = (0.0, 0.0, 0.0)
    most: Positive


class CentreEntry(_Entry):
    """A link whose centre of mass may be moved, and how far along x, y and z [m]; 0 along which it stays."""

    link: str
    reach: tuple[NotNegative, NotNegative, NotNegative]


class InertialEntry(_Entry):
    """What replaces the URDF's inertial of a link, in the link's axes."""

    mass: Positive
    com: Vector = (0.0, 0.0, 0.0)
    inertia: tuple[Number, Number, Number, Number, Number, Number]


class WalkEntry(_Entry):
    """Legs and their feet's links; the leg on the other side of each (one direction is enough); the legs that stand
    together in the clock's first half; the rest follows from the robot where it is not given, see `Legs`."""

    legs: dict[str, str] = Field(min_length=2)
    other_side: dict[str, str]
    together: tuple[str, ...]
    scale: tuple[Positive, ...] | None = None  # of one leg's joints [rad]
    height: Positive | None = None
    fallen: Positive | None = None
    foot_radius: Positive | None = None
    power: Positive | None = None


class ReachEntry(_Entry):
    """The tool's link, and the corners of the box of goals [m, base]."""

    tool: str
    low: Vector
    high: Vector


class BalanceEntry(_Entry):
    """The joint that is driven, and the one on which a pole swings freely; the joints' `at` is the middle of the first
    and the second's position when the pole stands. How far the first may go to each side [m or rad]."""

    driven: str
    pole: str
    room: Positive


class RobotEntry(_Entry):
    """A robot file."""

    robot: str
    urdf: str
    joints: dict[str, JointEntry] = Field(min_length=1)
    drive: DriveEntry = DriveEntry()
    sensors: dict[Kind, SensorEntry | None] | None = None
    lock: tuple[str, ...] = ()
    inertials: dict[str, InertialEntry] = Field(default_factory=dict)
    repair_inertias: Annotated[bool, Strict()] = False
    payload: PayloadEntry | None = None
    com: CentreEntry | None = None
    walk: WalkEntry | None = None
    reach: ReachEntry | None = None
    balance: BalanceEntry | None = None

    @field_validator("joints", mode="before")
    @classmethod
    def _positions(cls, joints: Any) -> Any:
        """A number alone is where the joint is."""
        if not isinstance(joints, dict):
            return joints
        return {
            name: {"at": joint} if isinstance(joint, float | int) and not isinstance(joint, bool) else joint
            for name, joint in joints.items()
        }
