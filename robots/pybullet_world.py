"""PyBullet behind the World boundary; the only file that imports pybullet."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from simtoreal.robots.catalog import Robot
from simtoreal.robots.model import ModelError
from simtoreal.robots.parameters import Parameter
from simtoreal.robots.quiet import quiet
from simtoreal.robots.world import Camera, JointState, World

with quiet():
    import pybullet as bullet

FIXED = bullet.JOINT_FIXED
GROUND_FRICTION = 1.0  # Bullet multiplies the two surfaces' numbers: with 1 here, a link's number is the pair's
SOLVER_ITERATIONS = 50


class PyBulletWorld(World):
    """One robot, fixed to the world at its base, in a DIRECT client of its own.

    Args:
        robot: what to load.
        physics_dt: [s].
        rendering: load visuals too and allow `render`.
        gui: open a window instead (needs a display).

    Two facts of PyBullet shape this class: `changeDynamics(mass=...)` swaps the URDF's inertia for the collision
    shape's, so both are always written together; and some of its keys redirect the others to the base link, so one
    key (or one documented pair) goes into a call.
    """

    def __init__(self, robot: Robot, physics_dt: float, *, rendering: bool = False, gui: bool = False) -> None:
        if gui and not os.environ.get("DISPLAY"):
            raise ValueError("render_mode 'human' needs a display; use 'rgb_array' or --video FILE")
        self.physics_dt = physics_dt
        self._robot = robot
        self._rendering = rendering or gui
        self._client = bullet.connect(bullet.GUI if gui else bullet.DIRECT)
        self._marker: int | None = None
        try:
            self._load()
        except BaseException:
            self.close()
            raise
        self.joints = tuple(self._joint_names)
        self.parameters = tuple(self._parameters())

    def _load(self) -> None:
        c = self._client
        bullet.resetSimulation(physicsClientId=c)
        bullet.setPhysicsEngineParameter(
            deterministicOverlappingPairs=1,
            numSolverIterations=SOLVER_ITERATIONS,
            enableConeFriction=1,
            physicsClientId=c,
        )
        bullet.setTimeStep(self.physics_dt, physicsClientId=c)
        bullet.setGravity(0, 0, -9.81, physicsClientId=c)
        text = self._robot.model.resolved(
            lock=self._robot.locked,
            inertials=self._robot.inertials,
            ballast=self._robot.payload,
            visuals=self._rendering,
        )
        with tempfile.NamedTemporaryFile("w", suffix=".urdf") as file, quiet():
            file.write(text)
            file.flush()
            flags = bullet.URDF_USE_INERTIA_FROM_FILE
            self._body = bullet.loadURDF(file.name, useFixedBase=True, flags=flags, physicsClientId=c)
        self._ground = self._table() if self._robot.table else None
        for key in ("linearDamping", "angularDamping"):
            bullet.changeDynamics(self._body, -1, **{key: 0.0}, physicsClientId=c)
        self._index_links()
        self._zero = [0.0] * len(self._joint_indices)
        bullet.calculateInverseDynamics(self._body, self._zero, self._zero, self._zero, physicsClientId=c)
        self._written: dict[tuple[str, int], tuple[float, ...]] = {}
        self._marker = None

    def _table(self) -> int:
        c = self._client
        half = [0.55, 0.6, 0.05]
        shape = bullet.createCollisionShape(bullet.GEOM_BOX, halfExtents=half, physicsClientId=c)
        look = -1
        if self._rendering:
            look = bullet.createVisualShape(
                bullet.GEOM_BOX, halfExtents=half, rgbaColor=[0.75, 0.72, 0.68, 1], physicsClientId=c
            )
        table: int = bullet.createMultiBody(0, shape, look, [0.3, 0.0, -0.05], physicsClientId=c)
        bullet.changeDynamics(table, -1, lateralFriction=GROUND_FRICTION, physicsClientId=c)
        return table

    def _index_links(self) -> None:
        c = self._client
        self._joint_names: list[str] = []
        self._joint_indices: list[int] = []
        self._link_index: dict[str, int] = {bullet.getBodyInfo(self._body, physicsClientId=c)[0].decode(): -1}
        for i in range(bullet.getNumJoints(self._body, physicsClientId=c)):
            info = bullet.getJointInfo(self._body, i, physicsClientId=c)
            self._link_index[info[12].decode()] = i
            if info[2] != FIXED:
                self._joint_names.append(info[1].decode())
                self._joint_indices.append(i)
        self._nominal = {name: self._dynamics(i) for name, i in self._link_index.items()}
        for name, (mass, _, inertia) in self._nominal.items():
            if mass > 0.0 and min(inertia) <= 0.0:
                raise ModelError(f"{self._robot.urdf}: link {name}: Bullet refused its inertia: not one of a real body")

    def _dynamics(self, link: int) -> tuple[float, float, tuple[float, float, float]]:
        """Mass [kg], lateral friction [-], principal inertia [kg m^2], as the engine has them."""
        info = bullet.getDynamicsInfo(self._body, link, physicsClientId=self._client)
        return info[0], info[1], info[2]

    def _parameters(self) -> Iterator[Parameter]:
        for name, (mass, friction, _) in self._nominal.items():
            if self._link_index[name] >= 0 and mass > 0.0:
                yield Parameter(f"link.{name}.mass", "kg", mass, 0.3 * mass, 3.0 * mass, "inertia follows")
                if self._robot.model.links[name].has_collision:
                    what = "Coulomb friction against the table"
                    yield Parameter(f"link.{name}.friction", "-", friction, 0.0, 2.0, what)
        for link in self._robot.payload:
            yield Parameter(f"link.{link}.payload", "kg", 0.0, 0.0, self._robot.max_payload, "point mass at the tool")
        for joint in self.joints:
            drag = self._robot.drag[joint]
            yield Parameter(f"joint.{joint}.damping", drag.damping_unit, drag.damping, 0.0, drag.max_damping, "viscous")
            yield Parameter(
                f"joint.{joint}.friction", drag.friction_unit, drag.friction, 0.0, drag.max_friction, "Coulomb"
            )

    def _fields(self, values: Mapping[str, float]) -> dict[tuple[str, int], tuple[float, ...]]:
        """Every engine field that follows from the complete vector: (what, link index) -> numbers."""
        fields: dict[tuple[str, int], tuple[float, ...]] = {}
        for name, (nominal_mass, _, inertia) in self._nominal.items():
            mass = values.get(f"link.{name}.mass")
            if mass is not None:
                ratio = mass / nominal_mass
                fields["mass", self._link_index[name]] = (mass, *(ratio * i for i in inertia))
            friction = values.get(f"link.{name}.friction")
            if friction is not None:
                fields["lateralFriction", self._link_index[name]] = (friction,)
        for link in self._robot.payload:
            fields["mass", self._link_index[f"{link}_ballast"]] = (values[f"link.{link}.payload"], 0.0, 0.0, 0.0)
        for joint, index in zip(self.joints, self._joint_indices, strict=True):
            fields["jointDamping", index] = (values[f"joint.{joint}.damping"],)
            fields["jointFriction", index] = (values[f"joint.{joint}.friction"],)
        return fields

    def apply(self, values: Mapping[str, float]) -> None:
        for (what, link), numbers in self._fields(values).items():
            if self._written.get((what, link)) == numbers:
                continue
            if what == "mass":
                bullet.changeDynamics(
                    self._body,
                    link,
                    mass=numbers[0],
                    localInertiaDiagonal=numbers[1:],
                    physicsClientId=self._client,
                )
            elif what == "jointFriction":
                # a velocity motor towards rest, limited to this effort, is Coulomb friction solved implicitly
                bullet.setJointMotorControl2(
                    self._body,
                    link,
                    bullet.VELOCITY_CONTROL,
                    targetVelocity=0.0,
                    force=numbers[0],
                    physicsClientId=self._client,
                )
            else:
                bullet.changeDynamics(self._body, link, **{what: numbers[0]}, physicsClientId=self._client)
            self._written[what, link] = numbers

    def read_back(self) -> dict[str, float]:
        """Masses, payloads and frictions as `getDynamicsInfo` has them; PyBullet has no getter for joint damping and
        motor force, so those are what was last written."""
        joints = dict(zip(self._joint_names, self._joint_indices, strict=True))
        out: dict[str, float] = {}
        for parameter in self.parameters:
            kind, name, what = parameter.name.split(".")
            if kind == "joint":
                field = "jointDamping" if what == "damping" else "jointFriction"
                out[parameter.name] = self._written[field, joints[name]][0]
            else:
                link = self._link_index[f"{name}_ballast" if what == "payload" else name]
                mass, friction, _ = self._dynamics(link)
                out[parameter.name] = friction if what == "friction" else mass
        return out

    def inertia(self, link: str) -> tuple[float, float, float]:
        """Principal inertia [kg m^2] of a link as the engine has it."""
        return self._dynamics(self._link_index[link])[2]

    def reset(self, position: Sequence[float], velocity: Sequence[float]) -> None:
        # a step uses up whatever external force is still pending: it would leak through resetJointState
        bullet.stepSimulation(physicsClientId=self._client)
        for index, q, qd in zip(self._joint_indices, position, velocity, strict=True):
            bullet.resetJointState(self._body, index, q, qd, physicsClientId=self._client)

    def joint_state(self) -> JointState:
        states = bullet.getJointStates(self._body, self._joint_indices, physicsClientId=self._client)
        return [s[0] for s in states], [s[1] for s in states]

    def step(self, torque: Sequence[float]) -> None:
        bullet.setJointMotorControlArray(
            self._body, self._joint_indices, bullet.TORQUE_CONTROL, forces=torque, physicsClientId=self._client
        )
        bullet.stepSimulation(physicsClientId=self._client)

    def gravity_torque(self, position: Sequence[float]) -> Sequence[float]:
        # Bullet builds its inverse-dynamics tree once, at the first call (in _load, at nominal), and later mass
        # changes do not reach it: here that is what is wanted, and a test holds it.
        torque: Sequence[float] = bullet.calculateInverseDynamics(
            self._body, position, self._zero, self._zero, physicsClientId=self._client
        )
        return torque

    def in_contact(self) -> bool:
        if self._ground is None:
            return False
        # the base link rests on the table for ever, so only moving links count
        points = bullet.getContactPoints(self._body, self._ground, physicsClientId=self._client)
        return any(point[3] >= 0 and point[8] <= 0.0 for point in points)

    def reload(self) -> None:
        self._load()

    def mark(self, position: Sequence[float], radius: float) -> None:
        c = self._client
        if self._marker is None:
            look = bullet.createVisualShape(
                bullet.GEOM_SPHERE, radius=radius, rgbaColor=[0.1, 0.7, 0.25, 1], physicsClientId=c
            )
            self._marker = bullet.createMultiBody(0, -1, look, physicsClientId=c)
        bullet.resetBasePositionAndOrientation(self._marker, position, [0, 0, 0, 1], physicsClientId=c)

    def render(self, camera: Camera) -> NDArray[np.uint8]:
        if not self._rendering:
            raise ValueError("this world was made without rendering; pass render_mode='rgb_array'")
        view = bullet.computeViewMatrixFromYawPitchRoll(
            camera.target, camera.distance, camera.yaw, camera.pitch, 0, 2, physicsClientId=self._client
        )
        lens = bullet.computeProjectionMatrixFOV(50, camera.width / camera.height, 0.05, 10, self._client)
        image = bullet.getCameraImage(
            camera.width,
            camera.height,
            view,
            lens,
            renderer=bullet.ER_TINY_RENDERER,
            physicsClientId=self._client,
        )[2]
        pixels = np.asarray(image, np.uint8).reshape(camera.height, camera.width, 4)
        return np.ascontiguousarray(pixels[:, :, :3])

    def close(self) -> None:
        if self._client >= 0:
            bullet.disconnect(physicsClientId=self._client)
            self._client = -1
