"""PyBullet behind the World boundary; beside `pybullet_ground` and `pybullet_scene` the only file that imports it."""

from __future__ import annotations

import operator
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simtoreal.robots import rotation
from simtoreal.robots.catalog import Robot
from simtoreal.robots.engine_fields import (
    FOOT_FRICTION,
    Dynamics,
    Fields,
    gravity_on_slope,
    loaded_urdf,
    movable_masses,
    recalled,
)
from simtoreal.robots.model import ModelError
from simtoreal.robots.pybullet_ground import PyBulletGround
from simtoreal.robots.pybullet_scene import ALOFT, PyBulletLooks, make_object, make_table, make_wall
from simtoreal.robots.quiet import quiet
from simtoreal.robots.terrain import terrain
from simtoreal.robots.world import (
    OBJECT,
    Camera,
    EngineCalls,
    FootState,
    Pose,
    State,
    World,
    Wrench,
    rendered,
)

with quiet():
    import pybullet as bullet

FIXED = bullet.JOINT_FIXED
SOLVER_ITERATIONS = 50
LEAST_BOUNCE = 0.05  # [m/s] of an impact, below which nothing bounces
AHEAD = 1e18  # [m] how near a contact is dealt with: as usual before it touches, which takes its speed away
AT_A_TOUCH = 0.0  # [m] so that it still has it when it bounces
WEIGHT = gravity_on_slope(0.0, 0.0)
NOWHERE = (0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0)  # of an inertial frame that is its link's
POSITION, VELOCITY = itemgetter(0), itemgetter(1)  # of a joint's state; a comprehension takes longer


class PyBulletWorld(World):
    """One robot, fixed to the world at its base or free on a plane, in a DIRECT client of its own.

    Args:
        robot: what to load.
        physics_dt: [s].
        rendering: load visuals too and allow `render`.
        gui: open a window instead (needs a display).

    Facts of PyBullet that shape this class: `changeDynamics(mass=...)` swaps the URDF's inertia for the collision
    shape's, so both are always written together; some of its keys redirect the others to the base link, so one
    key (or one documented pair, and with mass a joint's damping) goes into a call; there is no setter for a centre of
    mass, so mass is moved between ballast links; a base's pose is that of its inertial frame, which is not the link's.
    """

    def __init__(self, robot: Robot, physics_dt: float, *, rendering: bool = False, gui: bool = False) -> None:
        if gui and not os.environ.get("DISPLAY"):
            raise ValueError("render_mode 'human' needs a display; use 'rgb_array' or --video FILE")
        self.physics_dt = physics_dt
        self._robot = robot
        self._floating = robot.floating
        self._rendering = rendering or gui
        self._movable = movable_masses(robot)
        self._client = bullet.connect(bullet.GUI if gui else bullet.DIRECT)
        self._marker: int | None = None
        try:
            self._load()
        except BaseException:
            self.close()
            raise
        self.joints = tuple(self._joint_names)
        self.parameters = tuple(self._fields.parameters())
        self._names = [parameter.name for parameter in self.parameters]

    def _load(self) -> None:
        c = self._client
        bullet.resetSimulation(physicsClientId=c)
        bullet.setPhysicsEngineParameter(
            deterministicOverlappingPairs=1,
            numSolverIterations=SOLVER_ITERATIONS,
            enableConeFriction=1,
            restitutionVelocityThreshold=LEAST_BOUNCE,
            physicsClientId=c,
        )
        bullet.setTimeStep(self.physics_dt, physicsClientId=c)
        bullet.setGravity(*WEIGHT, physicsClientId=c)
        text = loaded_urdf(self._robot, self._movable, visuals=self._rendering)
        with tempfile.NamedTemporaryFile("w", suffix=".urdf") as file, quiet():
            file.write(text)
            file.flush()
            self._body = bullet.loadURDF(
                file.name,
                useFixedBase=not self._robot.floating,
                flags=bullet.URDF_USE_INERTIA_FROM_FILE,
                physicsClientId=c,
            )
        self._ground = PyBulletGround(c) if self._robot.floating else None  # what flies may fall
        self._table = make_table(c, rendering=self._rendering) if self._robot.table else None
        self.terrain = None
        self._object = None
        if self._robot.object is not None:
            self._object = make_object(c, self._robot.object, rendering=self._rendering)
        things = {"wall": make_wall(c)} if self._robot.wall and self._rendering else {}
        free = [self._body] if self._object is None else [self._body, self._object]
        for body in free:
            for damping in ("linearDamping", "angularDamping"):
                bullet.changeDynamics(body, -1, **{damping: 0.0}, physicsClientId=c)
        self._index_links()
        names = {index: name for name, index in self._link_index.items()}
        self.looks: PyBulletLooks | None = PyBulletLooks(c, self._body, names, things) if self._rendering else None
        zero = [0.0] * len(self._joint_indices)
        rest = {"objVelocities": zero, "objAccelerations": zero}
        self._weigh_in_order = partial(bullet.calculateInverseDynamics, self._body, **rest, physicsClientId=c)
        if not self._robot.floating:
            self._weigh_in_order(zero)
        place, turn = bullet.getDynamicsInfo(self._body, -1, physicsClientId=c)[3:5]
        self._base_place, self._base_turn = place, turn
        self._free = self._body if self._floating else self._object  # what a State's third part speaks of
        self._free_frame = NOWHERE if self._object is not None else (place, turn)
        self.base_axes = tuple(map(float, bullet.getMatrixFromQuaternion(self._free_frame[1])))
        joints, on = (self._body, self._joint_indices), {"physicsClientId": c}
        no_joints: Callable[[], Sequence[Any]] = tuple
        self._joint_states = partial(bullet.getJointStates, *joints, **on) if self._joint_indices else no_joints
        self._base_pose = partial(bullet.getBasePositionAndOrientation, self._body, **on)
        self._free_pose = partial(bullet.getBasePositionAndOrientation, self._free, **on)
        self._free_velocity = partial(bullet.getBaseVelocity, self._free, **on)
        self._write_torque = partial(bullet.setJointMotorControlArray, *joints, bullet.TORQUE_CONTROL, **on)
        self._push_on = partial(bullet.applyExternalForce, self._body, -1, posObj=(0, 0, 0), **on)
        self._turn_on = partial(bullet.applyExternalTorque, self._body, -1, **on)
        self._forces: dict[int, tuple[float, ...]] = {}  # of a link, constant, along the ground's axes [N]
        self._pull: tuple[float, ...] = WEIGHT
        self._wire()
        self._written: dict[tuple[str, int], tuple[float, ...]] = {}
        self._marker = None

    def _wire(self) -> None:
        """What a step is, and what weighs the nominal robot; under forces or another gravity more than a bare call."""
        weigh = self._weigh_in_order if self._in_order else self._weigh_out_of_order
        self._weigh = weigh if self._pull == WEIGHT else partial(self._weigh_at_home, weigh)
        bare = partial(bullet.stepSimulation, physicsClientId=self._client)
        self._step = self._step_under_forces if any(map(any, self._forces.values())) else bare
        self.calls = EngineCalls(
            self._joint_states,
            self._write_torque,
            self._step,
            None if self._free is None else self._free_pose,
            None if self._free is None else self._free_velocity,
            None if self._floating else self._weigh,
        )

    def _step_under_forces(self) -> None:
        c, body = self._client, self._body
        for link, force in self._forces.items():
            if any(force):
                moved = {"computeForwardKinematics": 1, "physicsClientId": c}
                place = self._base_pose()[0] if link == -1 else bullet.getLinkState(body, link, **moved)[0]
                bullet.applyExternalForce(body, link, force, place, bullet.WORLD_FRAME, physicsClientId=c)
        bullet.stepSimulation(physicsClientId=c)

    def _index_links(self) -> None:
        c = self._client
        found: dict[str, int] = {}
        self._link_index: dict[str, int] = {bullet.getBodyInfo(self._body, physicsClientId=c)[0].decode(): -1}
        for i in range(bullet.getNumJoints(self._body, physicsClientId=c)):
            info = bullet.getJointInfo(self._body, i, physicsClientId=c)
            self._link_index[info[12].decode()] = i
            if info[2] != FIXED:
                found[info[1].decode()] = i
        self._joint_names = self._robot.ordered([*found])
        self._joint_indices = [found[name] for name in self._joint_names]
        self._in_file = [self._joint_names.index(name) for name in found]  # for what Bullet counts in the URDF's order
        self._in_order = self._in_file == sorted(self._in_file)
        if self._robot.floating:
            for link in self._link_index.values():
                bullet.changeDynamics(self._body, link, lateralFriction=FOOT_FRICTION, physicsClientId=c)
                bullet.changeDynamics(self._body, link, restitution=1.0, physicsClientId=c)  # times the ground's
        nominal = {name: self._dynamics(i) for name, i in self._link_index.items()}
        for name, (mass, _, inertia) in nominal.items():
            if mass > 0.0 and min(inertia) <= 0.0:
                raise ModelError(f"{self._robot.urdf}: link {name}: Bullet refused its inertia: not one of a real body")
        joints = dict(zip(self._joint_names, self._joint_indices, strict=True))
        self._fields = Fields(self._robot, self._movable, self._link_index, joints, nominal, springs=True)
        self._feet = [self._link_index[name] for name in self._robot.feet]
        self._still = {self._link_index[name] for name in self._robot.model.standing(self._robot.locked)}

    def _dynamics(self, link: int) -> Dynamics:
        info = bullet.getDynamicsInfo(self._body, link, physicsClientId=self._client)
        return info[0], info[1], info[2]

    def apply(self, values: Mapping[str, float]) -> None:
        c, written, ground = self._client, self._written, self._ground
        for what, link, numbers in self._fields.of(values):
            if written.get((what, link)) == numbers:
                continue
            if what == "mass":
                bullet.changeDynamics(
                    self._body, link, mass=numbers[0], localInertiaDiagonal=numbers[1:], physicsClientId=c
                )
            elif what == "massAndDamping":
                mass, *inertia, damping = numbers
                bullet.changeDynamics(
                    self._body, link, mass=mass, localInertiaDiagonal=inertia, jointDamping=damping, physicsClientId=c
                )
            elif what == "jointFriction":
                # a velocity motor towards rest, limited to this effort, is Coulomb friction solved implicitly
                bullet.setJointMotorControl2(
                    self._body, link, bullet.VELOCITY_CONTROL, targetVelocity=0.0, force=numbers[0], physicsClientId=c
                )
            elif what == "groundFriction" and ground:
                ground.set("lateralFriction", numbers[0])
            elif what == "groundSpinning" and ground:
                ground.set("spinningFriction", numbers[0])
            elif what == "groundRolling" and ground:
                ground.set("rollingFriction", numbers[0])
            elif what == "groundRestitution" and ground:
                ground.set("restitution", numbers[0])
                ground.set("contactProcessingThreshold", AT_A_TOUCH if numbers[0] else AHEAD)
            elif what == "groundSprings" and ground:
                ground.give_way(*numbers)
            elif what == "terrain" and ground:
                self.terrain = terrain(*numbers)
                ground.lay_out(self.terrain)
            elif what == "objectMass":
                bullet.changeDynamics(
                    self._object, -1, mass=numbers[0], localInertiaDiagonal=numbers[1:], physicsClientId=c
                )
            elif what == "objectFriction":
                bullet.changeDynamics(self._object, -1, lateralFriction=numbers[0], physicsClientId=c)
            elif what == "gravity":
                bullet.setGravity(*numbers, physicsClientId=c)
                self.gravity, self._pull = values["gravity"], numbers
                x, y, z = numbers
                self.down = (x / self.gravity, y / self.gravity, z / self.gravity)
            elif what == "force":
                self._forces[link] = numbers
            else:
                bullet.changeDynamics(self._body, link, **{what: numbers[0]}, physicsClientId=c)
            written[what, link] = numbers
            if what in ("gravity", "force"):
                self._wire()
        self._values = {name: values[name] for name in self._names}

    def read_back(self) -> dict[str, float]:
        """What was written, where the engine says that it holds it, else what the engine says. PyBullet has no getter
        for joint damping and motor force."""
        return recalled(self._values, self._held())

    def _held(self) -> dict[str, float]:
        """The values of those parameters that the engine can be asked for."""
        c = self._client
        links = {index: self._dynamics(index) for index in self._link_index.values()}
        engine = bullet.getPhysicsEngineParameters(physicsClientId=c)
        gravity = engine["gravityAccelerationX"], engine["gravityAccelerationY"], engine["gravityAccelerationZ"]
        if self._ground is not None:
            return self._fields.held(links, gravity, self._ground.held())
        thing = self._object
        held = None if thing is None else bullet.getDynamicsInfo(thing, -1, physicsClientId=c)[:2]
        return self._fields.held(links, gravity, None, held)

    def inertia(self, link: str) -> tuple[float, float, float]:
        """Principal inertia [kg m^2] of a link (of a movable one's core), or of the object, as the engine has it."""
        if link == OBJECT:
            held: tuple[float, float, float] = bullet.getDynamicsInfo(self._object, -1, self._client)[2]
            return held
        return self._dynamics(self._link_index[link])[2]

    def reset(self, position: Sequence[float], velocity: Sequence[float], base: Sequence[float] = ()) -> None:
        c = self._client
        if base:
            # lifted off, every contact ends; else what is cached of the past weighs on the next episode's first steps
            bullet.resetBasePositionAndOrientation(self._free, (0, 0, ALOFT), (0, 0, 0, 1), physicsClientId=c)
        # a step uses up whatever external force is still pending: it would leak through a reset of the joints
        bullet.stepSimulation(physicsClientId=c)
        self._place(position, velocity)
        if base:
            place, turn = bullet.multiplyTransforms(base[:3], base[3:7], *self._free_frame)
            bullet.resetBasePositionAndOrientation(self._free, place, turn, physicsClientId=c)
            bullet.resetBaseVelocity(self._free, base[7:10], base[10:13], physicsClientId=c)
            bullet.performCollisionDetection(physicsClientId=c)  # else the feet report the contacts of the past

    def _place(self, position: Sequence[float], velocity: Sequence[float]) -> None:
        """Put the joints there."""
        if self._joint_indices:
            q, qd = [[x] for x in position], [[v] for v in velocity]
            bullet.resetJointStatesMultiDof(self._body, self._joint_indices, q, qd, physicsClientId=self._client)

    def state(self) -> State:
        states = self._joint_states()
        q, qd = list(map(POSITION, states)), list(map(VELOCITY, states))
        return (q, qd) if self._free is None else (q, qd, self._free_state())

    def _free_state(self) -> list[float]:
        place, turn = self._free_pose()
        linear, angular = self._free_velocity()
        return [*place, *turn, *linear, *angular]

    def link_poses(self) -> dict[str, Pose]:
        c, root = self._client, self._robot.model.root
        links = [name for name in self._robot.model.links if name != root]
        indices = [self._link_index[name] for name in links]
        states = bullet.getLinkStates(self._body, indices, computeForwardKinematics=1, physicsClientId=c)
        back = bullet.invertTransform(self._base_place, self._base_turn, physicsClientId=c)
        poses = {root: Pose(*bullet.multiplyTransforms(*self._base_pose(), *back, physicsClientId=c))}
        if self._object is not None:
            poses[OBJECT] = Pose(*self._free_pose())
        return poses | {name: Pose(state[4], state[5]) for name, state in zip(links, states, strict=True)}

    def push(self, velocity: Sequence[float]) -> None:
        linear, angular = self._free_velocity()
        pushed = [now + more for now, more in zip(linear, velocity, strict=True)]
        bullet.resetBaseVelocity(self._body, pushed, angular, physicsClientId=self._client)

    def feet(self) -> FootState:
        c = self._client
        touching = set(self._ground.touching(self._body)) if self._ground else set()
        links = bullet.getLinkStates(
            self._body, self._feet, computeLinkVelocity=1, computeForwardKinematics=1, physicsClientId=c
        )
        return FootState(
            [foot in touching for foot in self._feet],
            [link[0] for link in links],
            [link[6] for link in links],
            len(touching.difference(self._feet)) > 0,
        )

    def step(self, torque: Sequence[float], wrench: Wrench = (), *, base: bool = True) -> State:
        if self._joint_indices:
            self._write_torque(forces=torque)
        if wrench:
            force, about = self._inertial(wrench)
            self._push_on(force, flags=bullet.LINK_FRAME)
            self._turn_on(about, flags=bullet.LINK_FRAME)
        self._step()
        if base or self._free is None:
            return self.state()
        states = self._joint_states()
        return list(map(POSITION, states)), list(map(VELOCITY, states)), []

    def _inertial(self, wrench: Wrench) -> tuple[rotation.Vector, rotation.Vector]:
        """Force and torque as Bullet takes them: at the origin and in the axes of the base's inertial frame."""
        force, about = wrench[:3], map(operator.sub, wrench[3:], rotation.cross(self._base_place, wrench[:3]))
        return rotation.apply_inverse(self.base_axes, force), rotation.apply_inverse(self.base_axes, tuple(about))

    def bare_steps(self, given: Sequence[tuple[Sequence[float], Wrench]], *, gravity: bool) -> None:
        """The engine calls of one control step of a controller, a physics step for each of `given` (joint torques,
        wrench), and nothing else: for benchmarks. Each physics step reads the joints, with `gravity` compensation asks
        for its torques, writes torques and wrench and steps; the base of a floating robot is read once, at the
        beginning, and where there is a wrench in each step; an object once, too."""
        c, body, joints = self._client, self._body, self._joint_indices
        zero = [0.0] * len(joints)
        if self._free is not None:
            bullet.getBasePositionAndOrientation(self._free, physicsClientId=c)
            bullet.getBaseVelocity(self._free, physicsClientId=c)
        link = bullet.LINK_FRAME
        for torque, wrench in given:
            bullet.getJointStates(body, joints, physicsClientId=c)
            if gravity:
                bullet.calculateInverseDynamics(body, zero, zero, zero, physicsClientId=c)
            if wrench:
                bullet.getBasePositionAndOrientation(body, physicsClientId=c)
                bullet.getBaseVelocity(body, physicsClientId=c)
                force, about = self._inertial(wrench)
                bullet.applyExternalForce(body, -1, force, (0, 0, 0), link, physicsClientId=c)
                bullet.applyExternalTorque(body, -1, about, link, physicsClientId=c)
            bullet.setJointMotorControlArray(body, joints, bullet.TORQUE_CONTROL, forces=torque, physicsClientId=c)
            bullet.stepSimulation(physicsClientId=c)

    def gravity_torque(self, position: Sequence[float]) -> Sequence[float]:
        # Bullet builds its inverse-dynamics tree once, at the first call (in _load, at nominal), and later mass
        # changes do not reach it: here that is what is wanted, and a test holds it.
        return self._weigh(position)

    def _weigh_at_home(self, weigh: Callable[..., Sequence[float]], position: Sequence[float]) -> Sequence[float]:
        """Under the gravity that the controller knows, which Bullet takes as it is now."""
        bullet.setGravity(*WEIGHT, physicsClientId=self._client)
        torque = weigh(position)
        bullet.setGravity(*self._pull, physicsClientId=self._client)
        return torque

    def _weigh_out_of_order(self, position: Sequence[float]) -> Sequence[float]:
        counted = self._weigh_in_order([position[i] for i in self._in_file])
        out = [0.0] * len(counted)
        for i, value in zip(self._in_file, counted, strict=True):
            out[i] = value
        return out

    def in_contact(self) -> bool:
        if self._table is None:
            return False
        # what stands on the table touches it for ever, so only moving links count
        points = bullet.getContactPoints(self._body, self._table, physicsClientId=self._client)
        return any(point[3] not in self._still and point[8] <= 0.0 for point in points)

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

    def render(self, camera: Camera, position: Sequence[float] | None = None) -> NDArray[np.uint8]:
        looks = rendered(self.looks)
        if position is not None:
            now = self.state()
            self._place(position, now[1])
            try:
                return self.render(camera)
            finally:
                self._place(now[0], now[1])
        target: Sequence[float] = camera.target
        if self._robot.floating:
            target = camera.aimed(bullet.getBasePositionAndOrientation(self._body, physicsClientId=self._client)[0])
        view = bullet.computeViewMatrixFromYawPitchRoll(
            target, camera.distance, camera.yaw, camera.pitch, 0, 2, physicsClientId=self._client
        )
        ratio = camera.width / camera.height
        lens = bullet.computeProjectionMatrixFOV(camera.field_of_view, ratio, 0.05, 10, self._client)
        image = looks.frame(camera.width, camera.height, view, lens)
        pixels = np.asarray(image, np.uint8).reshape(camera.height, camera.width, 4)
        return np.ascontiguousarray(pixels[:, :, :3])

    def close(self) -> None:
        if self._client >= 0:
            bullet.disconnect(physicsClientId=self._client)
            self._client = -1
