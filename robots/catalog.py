"""The robots we ship, as data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from importlib.util import find_spec
from pathlib import Path

from simtoreal.robots.model import Inertial, RobotModel, Vector3, possible, with_rotor
from simtoreal.robots.motors import ActuatorNetwork, DCMotor

ASSETS = Path(__file__).parent / "assets"


@dataclass(frozen=True)
class Drag:
    """Viscous damping and Coulomb friction of one joint, nominal and at most, with their units."""

    damping: float
    max_damping: float
    friction: float
    max_friction: float
    damping_unit: str = "N m s/rad"
    friction_unit: str = "N m"


@dataclass(frozen=True)
class Box:
    """A free box of even density. Against a table its friction is the pair's, a link's multiplies it."""

    size: Vector3  # [m] its lengths
    mass: float  # [kg]
    friction: float  # [-]

    def inertia(self, mass: float) -> Vector3:
        """Its principal moments [kg m^2] where it weighs `mass` [kg]."""
        xx, yy, zz = (length * length * mass / 12.0 for length in self.size)
        return yy + zz, xx + zz, xx + yy


@dataclass(frozen=True)
class Robot:
    """What a world needs to know of a robot beside its URDF.

    Attributes:
        locked: moving joints that are held fixed.
        inertials: replaces placeholders in the URDF.
        payload: link -> point [m, link frame] where it may carry a point mass, of at most `max_payload` [kg].
        table: mounted on a table whose top is z = 0.
        wall: stands before a black wall, which is there for cameras alone.
        floating: its base is free, on a plane at z = 0; otherwise the base is fixed to the world.
        flying: floating, and never meant to touch: neither the ground's friction and slope nor its links' friction are
            parameters.
        feet: links that it stands on; where given, only their friction is a parameter.
        com_reach: link -> how far its centre of mass may be moved along x, y and z [m]; 0 where it stays.
        ranges: joint -> least and greatest position [rad or m], where the URDF's are not those to keep; `efforts`
            [N m or N] and `velocities` [rad/s or m/s] likewise.
        joints: its moving joints in the order of every joint vector; without, the URDF's order.
        actuator: what drives its joints, where they have position targets; without, ideal motors up to their limit.
        object: what lies on its table, free to move.
    """

    name: str
    urdf: Path
    drag: Mapping[str, Drag]
    locked: tuple[str, ...] = ()
    inertials: Mapping[str, Inertial] = field(default_factory=dict)
    payload: Mapping[str, Vector3] = field(default_factory=dict)
    max_payload: float = 0.0
    table: bool = False
    wall: bool = False
    floating: bool = False
    flying: bool = False
    feet: tuple[str, ...] = ()
    com_reach: Mapping[str, Vector3] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    efforts: Mapping[str, float] = field(default_factory=dict)
    velocities: Mapping[str, float] = field(default_factory=dict)
    joints: tuple[str, ...] = ()
    actuator: DCMotor | ActuatorNetwork | None = None
    object: Box | None = None

    @property
    def grounded(self) -> bool:
        """Does it stand or drive, so that the ground is one of its parameters?"""
        return self.floating and not self.flying

    def __post_init__(self) -> None:
        if self.object is not None and (self.floating or not self.table):
            raise ValueError(f"{self.name}: an object lies on the table of a robot that has one")

    def range(self, joint: str) -> tuple[float, float]:
        """The least and greatest position of a joint [rad or m]."""
        found = self.model.joints[joint]
        return self.ranges.get(joint, (found.lower, found.upper))

    def effort(self, joint: str) -> float:
        """The most torque or force of a joint [N m or N]."""
        return self.efforts.get(joint, self.model.joints[joint].effort)

    def velocity(self, joint: str) -> float:
        """The highest speed of a joint [rad/s or m/s]."""
        return self.velocities.get(joint, self.model.joints[joint].velocity)

    def ordered(self, joints: Sequence[str]) -> list[str]:
        """All moving joints, given in the URDF's order, in that of every joint vector."""
        return list(self.joints or joints)

    @cached_property
    def model(self) -> RobotModel:
        return RobotModel(self.urdf)


def pybullet_data() -> Path:
    """The folder of models that comes with PyBullet (found without importing it).

    Raises:
        ModuleNotFoundError: PyBullet is not installed.
    """
    spec = find_spec("pybullet_data")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("pybullet_data, which comes with pybullet, is not there", name="pybullet_data")
    return Path(spec.origin).parent


@lru_cache
def cartpole() -> Robot:
    """A cart of 1 kg with a 1 m pole of 0.1 kg; joints `slider` [m] and `hinge` [rad, 0 = upright]."""
    return Robot(
        name="cartpole",
        urdf=ASSETS / "cartpole.urdf",
        drag={
            "slider": Drag(0.1, 2.0, 0.0, 2.0, "N s/m", "N"),
            "hinge": Drag(0.001, 0.02, 0.0, 0.02),
        },
        com_reach={"pole": (0.006, 0.0, 0.1)},
    )


# CAD inertias published by the maker (franka_description, robots/fer/inertials.yaml and
# end_effectors/franka_hand/inertials.yaml); pybullet_data's file has 0.1 kg m^2 on every link instead. Link 4 is
# published with a largest principal moment (.01274) above the sum of the others (.01164), which no body can have
# (and which Bullet answers by zeroing the tensor in silence): here that moment is .0116.
_PANDA_CAD = {
    "panda_link1": Inertial(
        2.7907, (0.00033, -0.02204, -0.04762), (0.0156478, 0.0143988, 0.0050044, 5.31e-6, -3.677e-5, -0.0024848)
    ),
    "panda_link2": Inertial(
        2.5420, (0.00038, -0.09211, 0.01908), (0.0166243, 0.0046250, 0.0154512, 3.086e-5, 8.36e-6, 0.0035590)
    ),
    "panda_link3": Inertial(
        2.2513, (0.05152, 0.01696, -0.02971), (0.0063174, 0.0086629, 0.0065780, 0.0009731, 0.0029253, 0.0009347)
    ),
    "panda_link4": Inertial(
        2.2037, (-0.05113, 0.05825, 0.01698), (0.007489, 0.006214, 0.009532, -0.003079, 0.001165, -0.00144)
    ),
    "panda_link5": Inertial(
        2.2855, (-0.00005, 0.03730, -0.09280), (0.0229701, 0.0209506, 0.0043061, -9.49e-6, -2.063e-5, 0.0038235)
    ),
    "panda_link6": Inertial(
        1.3530, (0.06572, -0.00371, 0.00153), (0.0008796, 0.0027780, 0.0028670, -0.0002149, -0.0001191, 1.274e-5)
    ),
    "panda_link7": Inertial(
        0.35973, (0.00089, -0.00044, 0.05491), (0.0001954, 0.0001921, 0.0001794, 1.65e-6, 1.49e-6, -1.31e-6)
    ),
    "panda_hand": Inertial(0.6544, (-3.8e-5, 0.0119128, 0.020726), (0.00186, 0.00030, 0.00174, 0.0, 0.0, -0.00002)),
    "panda_leftfinger": Inertial(0.0291, (0.0, 0.015285, 0.0219675), (8.49e-6, 8.53e-6, 1.77e-6, 0.0, 0.0, -1.06e-6)),
    "panda_rightfinger": Inertial(0.0291, (0.0, -0.015285, 0.0219675), (8.49e-6, 8.53e-6, 1.77e-6, 0.0, 0.0, 1.06e-6)),
}

# Seen through its gears, a joint's motor is heavier than the links it turns (0.2-0.6 kg m^2 for this maker's FR3;
# MuJoCo Menagerie's Panda has an armature of 0.1; as much is taken for other arms). PyBullet has no armature, so it is
# a disc on the link, about the joint's axis (z): exact for the joint itself, a little too much for those before it.
_ROTOR = 0.1  # [kg m^2]


PANDA_INERTIALS = {
    link: with_rotor(body, _ROTOR) if link.startswith("panda_link") else body for link, body in _PANDA_CAD.items()
}

PANDA_JOINTS = tuple(f"panda_joint{i}" for i in range(1, 8))


@lru_cache
def panda() -> Robot:
    """Franka Emika Panda with its hand closed, on a table; tool point `panda_grasptarget`."""
    return Robot(
        name="panda",
        urdf=pybullet_data() / "franka_panda" / "panda.urdf",
        drag={joint: Drag(0.5, 10.0 if joint in PANDA_JOINTS[:4] else 3.0, 0.0, 3.0) for joint in PANDA_JOINTS},
        locked=("panda_finger_joint1", "panda_finger_joint2"),
        inertials=PANDA_INERTIALS,
        payload={"panda_hand": (0.0, 0.0, 0.105)},
        max_payload=3.0,
        table=True,
    )


@lru_cache
def panda_with_cube() -> Robot:
    """The Panda with a cube of 5 cm and 0.2 kg on its table."""
    return replace(panda(), name="panda_with_cube", object=Box((0.05, 0.05, 0.05), 0.2, 0.5))


KUKA_JOINTS = tuple(f"lbr_iiwa_joint_{i}" for i in range(1, 8))


@lru_cache
def kuka() -> Robot:
    """KUKA LBR iiwa 14 on a table; tool point `lbr_iiwa_link_7`, the middle of its flange's bearing."""
    urdf = pybullet_data() / "kuka_iiwa" / "model.urdf"
    model = RobotModel(urdf)
    return Robot(
        name="kuka",
        urdf=urdf,
        drag={joint: Drag(0.5, 10.0 if joint in KUKA_JOINTS[:4] else 3.0, 0.0, 3.0) for joint in KUKA_JOINTS},
        inertials={
            link: with_rotor(model.inertial(link), _ROTOR) for link in (f"lbr_iiwa_link_{i}" for i in range(1, 8))
        },
        payload={"lbr_iiwa_link_7": (0.0, 0.0, 0.045)},
        max_payload=14.0,
        table=True,
    )


XARM_JOINTS = tuple(f"joint{i}" for i in range(1, 7))


@lru_cache
def xarm() -> Robot:
    """UFACTORY xArm 6 on a table; tool point `link6`, its flange. The file's links 2 and 3 have a largest principal
    moment above the sum of the others, which no body can have: here it is that sum."""
    urdf = pybullet_data() / "xarm" / "xarm6_robot.urdf"
    model = RobotModel(urdf)
    links = {f"link{i}": possible(model.inertial(f"link{i}")) for i in range(1, 7)}
    return Robot(
        name="xarm",
        urdf=urdf,
        drag={joint: Drag(1.0, 10.0 if joint in XARM_JOINTS[:3] else 3.0, 0.0, 3.0) for joint in XARM_JOINTS},
        inertials={link: with_rotor(body, _ROTOR) for link, body in links.items()},
        payload={"link6": (0.0, 0.0, 0.05)},
        max_payload=5.0,
        table=True,
    )


QUADRUPED = ("FR", "FL", "RR", "RL")
A1_JOINTS = tuple(f"{leg}_{part}_joint" for leg in QUADRUPED for part in ("hip", "upper", "lower"))


@lru_cache
def a1() -> Robot:
    """Unitree A1, 12 joints; links `trunk`, `FR_hip`, `FR_upper`, `FR_lower`, `FR_toe` and so on."""
    return Robot(
        name="a1",
        urdf=pybullet_data() / "a1" / "a1.urdf",
        drag={joint: Drag(0.0, 1.0, 0.0, 2.0) for joint in A1_JOINTS},
        payload={"trunk": (0.0, 0.0, 0.1)},
        max_payload=8.0,
        floating=True,
        feet=tuple(f"{leg}_toe" for leg in QUADRUPED),
        com_reach={"trunk": (0.05, 0.02, 0.012)},
    )


@lru_cache
def aliengo() -> Robot:
    """Unitree Aliengo, links and joints named as the A1's. Its file leaves the thighs' joints without an end."""
    return Robot(
        name="aliengo",
        urdf=pybullet_data() / "aliengo" / "aliengo.urdf",
        drag={joint: Drag(0.0, 1.0, 0.0, 2.0) for joint in A1_JOINTS},
        ranges={f"{leg}_upper_joint": (-math.pi, math.pi) for leg in QUADRUPED},
        payload={"trunk": (0.0, 0.0, 0.1)},
        max_payload=12.0,
        floating=True,
        feet=tuple(f"{leg}_toe" for leg in QUADRUPED),
        com_reach={"trunk": (0.05, 0.02, 0.012)},
    )


@lru_cache
def crazyflie() -> Robot:
    """Bitcraze Crazyflie 2, one link `body` with four rotors; may carry 12 g below it."""
    return Robot(
        name="crazyflie",
        urdf=ASSETS / "crazyflie.urdf",
        drag={},
        payload={"body": (0.0, 0.0, -0.015)},
        max_payload=0.012,
        floating=True,
        flying=True,
        com_reach={"body": (0.004, 0.003, 0.003)},
    )


RACECAR_WHEELS = tuple(f"{end}_wheel" for end in ("left_front", "right_front", "left_rear", "right_rear"))
RACECAR_STEERING = ("left_steering_hinge_joint", "right_steering_hinge_joint")
RACECAR_JOINTS = (
    "left_rear_wheel_joint",
    "right_rear_wheel_joint",
    "left_steering_hinge_joint",
    "left_front_wheel_joint",
    "right_steering_hinge_joint",
    "right_front_wheel_joint",
)


@lru_cache
def racecar() -> Robot:
    """MIT's racecar, a tenth of a car: two steering hinges, four driven wheels of 5 cm, 32.5 cm between its axles. The
    hinges' links have the inertia that a servo has, seen through its gears (they are 4e-6 kg m^2 in the file), the
    camera's, of 10 mg, have none."""
    urdf = pybullet_data() / "racecar" / "racecar.urdf"
    servo = Inertial(0.1, (0.0, 0.0, 0.0), (1e-3, 5e-4, 5e-4, 0.0, 0.0, 0.0))
    nothing = Inertial(0.0, (0.0, 0.0, 0.0), (0.0,) * 6)
    return Robot(
        name="racecar",
        urdf=urdf,
        inertials=dict.fromkeys(("left_steering_hinge", "right_steering_hinge"), servo)
        | dict.fromkeys(("zed_camera_link", "camera_link", "zed_camera_right_link"), nothing),
        drag={joint: Drag(0.01, 0.05, 0.0, 0.2) for joint in RACECAR_STEERING}
        | {f"{wheel}_joint": Drag(0.001, 0.01, 0.0, 0.1) for wheel in RACECAR_WHEELS},
        payload={"chassis": (0.15, 0.0, 0.05)},
        max_payload=2.0,
        com_reach={"chassis_inertia": (0.05, 0.015, 0.005)},
        floating=True,
        feet=RACECAR_WHEELS,
    )
