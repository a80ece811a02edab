"""MuJoCo behind the World boundary; beside `mujoco_scene` the only file that imports mujoco."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# first, since it says by what to render before mujoco is imported
from simtoreal.robots.mujoco_scene import FIELD, GROUND, MARKER, TOUCHES_ROBOT, MuJoCoLooks, Meshes, compiled_twice  # isort: skip

import mujoco

from simtoreal.robots import rotation
from simtoreal.robots.bounce import damping_ratio, rebound
from simtoreal.robots.catalog import Robot
from simtoreal.robots.engine_fields import (
    ARM_FRICTION,
    FOOT_FRICTION,
    Dynamics,
    Fields,
    GroundFields,
    ballast,
    loaded_urdf,
    movable_masses,
    recalled,
)
from simtoreal.robots.terrain import GREATEST, Terrain, terrain
from simtoreal.robots.world import (
    OBJECT,
    Camera,
    FootState,
    Pose,
    State,
    World,
    Wrench,
    rendered,
)

mujoco.set_mju_user_warning(logging.getLogger(__name__).info)  # else into a file of the working folder
STIFF = (0.01, 1.0)  # time constant [s] and damping ratio of a contact, that of one as hard as Bullet's
ELLIPTIC_RATIO = 10.0  # of a contact's stiffness in friction to that of its normal
NOSLIP_ITERATIONS = 5  # after each solution of the contacts: else what should stick creeps
SLIDES, SPINS, ROLLS = 3, 4, 6  # dimensions of a contact that resists sliding, spinning about its normal, rolling too
STIFF_IN_FRICTION = 0.9999  # of a joint: MuJoCo's largest
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


class MuJoCoWorld(World):
    """One robot, fixed to the world at its base or free on a plane.

    Args:
        robot: what to load.
        physics_dt: [s].
        contacts: "matched" makes them as hard as PyBullet's, with a round friction cone; "shipped" leaves them as
            MuJoCo has them by default. The coefficient is the product of both surfaces' either way.
        rendering: load visuals too and allow `render`.

    What makes it comparable: the same resolved URDF, ballast links and all; torques go to the joints as they are;
    viscous damping is explicit, as Bullet's, not implicit; nothing of the robot touches anything else of it.
    """

    def __init__(self, robot: Robot, physics_dt: float, *, contacts: str = "matched", rendering: bool = False) -> None:
        if contacts not in ("matched", "shipped"):
            raise ValueError(f"contacts must be matched or shipped, got {contacts!r}")
        self.physics_dt, self._robot, self._contacts, self._rendering = physics_dt, robot, contacts, rendering
        self._renderers: dict[tuple[int, int], Any] = {}  # by height and width
        self._movable = movable_masses(robot)
        self._load()
        self.joints = tuple(self._joint_names)
        self.parameters = tuple(self._fields.parameters())
        self._names = [parameter.name for parameter in self.parameters]

    def _load(self) -> None:
        robot = self._robot
        meshes = Meshes()
        text = loaded_urdf(robot, self._movable, visuals=self._rendering, mesh_name=meshes.name)
        model, self._nominal_model = compiled_twice(robot, text, meshes.files, rendering=self._rendering)
        self._model = model  # the other one is what the robot's own controller knows
        self._data, self._scratch = mujoco.MjData(model), mujoco.MjData(model)
        self._nominal_data = mujoco.MjData(self._nominal_model)
        self._bias = np.zeros(model.nv)
        model.opt.timestep = self.physics_dt
        # broken physics must be seen, not begun anew in silence
        model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_EULERDAMP | mujoco.mjtDisableBit.mjDSBL_AUTORESET
        if self._contacts == "matched":
            model.opt.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
            model.opt.impratio = ELLIPTIC_RATIO
            model.opt.noslip_iterations = NOSLIP_ITERATIONS
            model.geom_solref[:] = STIFF
            model.pair_solref[:] = STIFF
        self._solref = tuple(model.geom_solref[0].tolist()) if model.ngeom else STIFF
        model.dof_solimp[:, :2] = STIFF_IN_FRICTION
        self._index()
        self._written: dict[tuple[str, int], tuple[float, ...]] = {}
        if robot.grounded:
            self._shape_ground(None)
        self._ground = GroundFields(1.0, 0.0, 0.0, 0.0)  # a table's; a floating robot's follows from its parameters
        self._forces: dict[int, tuple[float, ...]] = {}  # of a body, constant, along the ground's axes [N]
        mujoco.mj_forward(model, self._data)

    def _index(self) -> None:
        model, robot = self._model, self._robot
        names = [*robot.model.links, *ballast(robot, self._movable)]
        bodies = {name: model.body(name).id for name in names}
        self._root = bodies[robot.model.root]
        free = mujoco.mjtJoint.mjJNT_FREE
        found = {model.joint(i).name: i for i in range(model.njnt) if model.jnt_type[i] != free}
        self._joint_names = robot.ordered([*found])
        moving = [found[name] for name in self._joint_names]
        self._q, self._v = model.jnt_qposadr[moving], model.jnt_dofadr[moving]
        frees = [i for i in range(model.njnt) if model.jnt_type[i] == free]  # of the base, or of the object
        self._has_free = bool(frees)
        q, v = (int(model.jnt_qposadr[frees[0]]), int(model.jnt_dofadr[frees[0]])) if frees else (0, 0)
        self._free_place, self._free_turn = slice(q, q + 3), slice(q + 3, q + 7)
        self._free_linear, self._free_angular = slice(v, v + 3), slice(v + 3, v + 6)
        self._dof_of = {int(model.jnt_bodyid[i]): int(model.jnt_dofadr[i]) for i in moving}
        self._geoms = {
            body: [i for i in range(model.ngeom) if model.geom_bodyid[i] == body and model.geom_contype[i]]
            for body in bodies.values()
        }
        usual = FOOT_FRICTION if robot.floating else ARM_FRICTION
        self._friction = dict.fromkeys(bodies.values(), usual)
        if not robot.floating:
            given = {name: link.friction for name, link in robot.model.links.items()}
            self._friction |= {bodies[name]: number for name, number in given.items() if number is not None}
        self._body_of = {-1 if body == self._root else body: body for body in bodies.values()}
        links = {name: -1 if body == self._root else body for name, body in bodies.items()}
        nominal = {name: self._dynamics(body) for name, body in bodies.items()}
        joints = {name: int(model.jnt_bodyid[i]) for name, i in zip(self._joint_names, moving, strict=True)}
        self._links = links
        self.looks: MuJoCoLooks | None = (
            MuJoCoLooks(model, {body: name for name, body in bodies.items()}) if self._rendering else None
        )
        self._fields = Fields(robot, self._movable, links, joints, nominal, armature=True, places=True)
        self._places, self._centres = model.body_pos.copy(), model.body_ipos.copy()
        self._same = model.body_sameframe.copy(), model.geom_sameframe.copy()
        self._feet = [bodies[name] for name in robot.feet]
        self._still = {bodies[name] for name in robot.model.standing(robot.locked)}
        self._grounds = {i for i in range(model.ngeom) if model.geom(i).name in (GROUND, FIELD)}
        free_body = self._root
        if robot.object is not None:
            self._object = free_body = model.body(OBJECT).id
            self._object_geom = model.geom(OBJECT).id
            self._object_friction = robot.object.friction
            self._pairs = [(i, int(model.geom_bodyid[model.pair_geom1[i]])) for i in range(model.npair)]
            self._still.add(self._object)
        self._base_place = model.body_ipos[free_body].tolist()  # of the inertial frame in the free body's
        self.base_axes = IDENTITY

    def _dynamics(self, body: int) -> Dynamics:
        x, y, z = self._model.body_inertia[body].tolist()
        return float(self._model.body_mass[body]), self._friction[body], (x, y, z)

    def apply(self, values: Mapping[str, float]) -> None:
        model, written = self._model, self._written
        heavier = rougher = False
        for what, link, numbers in self._fields.of(values):
            if written.get((what, link)) == numbers:
                continue
            body = self._body_of[link]
            if what in ("mass", "massAndDamping"):
                model.body_mass[body], model.body_inertia[body] = numbers[0], numbers[1:4]
                heavier = True
            if what in ("jointDamping", "massAndDamping"):
                model.dof_damping[self._dof_of[body]] = numbers[-1]
            elif what == "jointFriction":
                model.dof_frictionloss[self._dof_of[body]] = numbers[0]
            elif what == "lateralFriction":
                self._friction[body], rougher = numbers[0], True
            elif what == "armature":
                model.dof_armature[self._dof_of[body]], heavier = numbers[0], True
            elif what == "place":
                model.body_pos[body], heavier = self._places[body] + numbers, True
            elif what == "centre":
                self._shift(body, numbers)
                heavier = True
            elif what == "force":
                self._forces[body] = numbers
                self._data.xfrc_applied[body, :3] = numbers
            elif what == "groundFriction":
                self._ground, rougher = self._ground._replace(friction=numbers[0]), True
            elif what == "groundSpinning":
                self._ground, rougher = self._ground._replace(spinning=numbers[0]), True
            elif what == "groundRolling":
                self._ground, rougher = self._ground._replace(rolling=numbers[0]), True
            elif what == "groundRestitution":
                self._bounce(numbers[0])
            elif what == "objectMass":
                model.body_mass[self._object], model.body_inertia[self._object] = numbers[0], numbers[1:]
                heavier = True
            elif what == "objectFriction":
                self._object_friction, rougher = numbers[0], True
            elif what == "terrain":
                self._shape_ground(terrain(*numbers))
            elif what == "gravity":
                model.opt.gravity[:] = numbers
                self.gravity = values["gravity"]
                x, y, z = numbers
                self.down = (x / self.gravity, y / self.gravity, z / self.gravity)
            written[what, link] = numbers
        if rougher:
            friction, _, spinning, rolling = self._ground
            dimensions = ROLLS if rolling else SPINS if spinning else SLIDES
            for body, geoms in self._geoms.items():
                model.geom_friction[geoms] = np.multiply(self._friction[body], (friction, spinning, rolling))
                model.geom_condim[geoms] = dimensions
            if self._robot.object is not None:
                model.geom_friction[self._object_geom, 0] = self._object_friction * friction
                for pair, body in self._pairs:
                    model.pair_friction[pair, :2] = self._friction[body] * self._object_friction
        if heavier:
            mujoco.mj_setConst(model, self._scratch)  # what follows from the masses
        self._values = {name: values[name] for name in self._names}

    def _shift(self, body: int, by: Sequence[float]) -> None:
        """Move the centre of mass of a body, and nothing else of it: where an inertial frame is its body's or a
        shape's, MuJoCo works out one of the two alone."""
        model, (frames, shapes) = self._model, self._same
        model.body_ipos[body] = self._centres[body] + by
        geoms = slice(model.body_geomadr[body], model.body_geomadr[body] + model.body_geomnum[body])
        apart = any(by)
        model.body_sameframe[body] = mujoco.mjtSameFrame.mjSAMEFRAME_NONE if apart else frames[body]
        model.geom_sameframe[geoms] = mujoco.mjtSameFrame.mjSAMEFRAME_NONE if apart else shapes[geoms]

    def _shape_ground(self, ground: Terrain | None) -> None:
        """Lay out a field of heights, and below it the plane; or the plane alone."""
        model, self.terrain = self._model, ground
        plane, field = model.geom(GROUND), model.geom(FIELD)
        # it stays where it is: contacts are sought by boxes that were worked out when the model was compiled
        field.conaffinity[0], field.rgba[3] = (TOUCHES_ROBOT, 1.0) if ground else (0, 0.0)
        plane.pos[2] = ground.base if ground else 0.0
        model.geom_sameframe[plane.id] = mujoco.mjtSameFrame.mjSAMEFRAME_NONE  # else it stays in the world's origin
        self._close_renderers()  # which keep the heights that they were made with
        if ground:
            model.hfield_data[:] = (ground.heights.ravel() + GREATEST) / (2.0 * GREATEST)

    def _bounce(self, restitution: float) -> None:
        """Let contacts rebound: as stiff as they are, with less damping."""
        time, ratio = self._solref
        damping = ratio if restitution <= rebound(ratio) else damping_ratio(restitution)
        self._model.geom_solref[:] = time * ratio / damping, damping

    def _bounced(self) -> float:
        """The restitution of contacts as the engine holds them; of those that rebound as little as ever what was asked
        for, which was no more than that."""
        damping = float(self._model.geom_solref[0, 1])
        return self._values["ground.restitution"] if damping == self._solref[1] else rebound(damping)

    def read_back(self) -> dict[str, float]:
        """As the engine holds it."""
        model = self._model
        links = {
            link: (float(model.body_mass[body]), self._friction[body], tuple(model.body_inertia[body].tolist()))
            for link, body in self._body_of.items()
        }
        x, y, z = model.opt.gravity.tolist()
        ground = self._ground._replace(restitution=self._bounced()) if self._robot.grounded else None
        thing = None
        if self._robot.object is not None:
            friction = float(model.geom_friction[self._object_geom, 0]) / self._ground.friction
            thing = float(model.body_mass[self._object]), friction
        held = self._fields.held(links, (x, y, z), ground, thing)
        for joint, dof in zip(self._joint_names, self._v.tolist(), strict=True):
            held[f"joint.{joint}.damping"] = float(model.dof_damping[dof])
            held[f"joint.{joint}.friction"] = float(model.dof_frictionloss[dof])
            if (name := f"joint.{joint}.armature") in self._values:
                held[name] = float(model.dof_armature[dof])
        moved = (model.body_ipos - self._centres).tolist()
        shifts = self._fields.shifted({link: moved[body] for link, body in self._body_of.items()})
        return recalled(self._values, held | shifts)

    def inertia(self, link: str) -> tuple[float, float, float]:
        """Principal inertia [kg m^2] of a link (of a movable one's core), or of the object, as the engine has it."""
        if link == OBJECT:
            xx, yy, zz = self._model.body_inertia[self._object].tolist()
            return xx, yy, zz
        return self._dynamics(self._body_of[self._links[link]])[2]

    def reset(self, position: Sequence[float], velocity: Sequence[float], base: Sequence[float] = ()) -> None:
        model, data = self._model, self._data
        mujoco.mj_resetData(model, data)
        for body, force in self._forces.items():
            data.xfrc_applied[body, :3] = force
        data.qpos[self._q], data.qvel[self._v] = position, velocity
        if base:
            place, (x, y, z, w), linear, angular = base[:3], base[3:7], base[7:10], base[10:13]
            data.qpos[self._free_place], data.qpos[self._free_turn] = place, (w, x, y, z)
            turn = rotation.from_quaternion((x, y, z, w))
            lever = rotation.apply(turn, self._base_place)
            # a free joint's velocities are those of the link's origin, and turning is measured in the link's axes
            data.qvel[self._free_linear] = np.subtract(linear, rotation.cross(angular, lever))
            data.qvel[self._free_angular] = rotation.apply_inverse(turn, angular)
        mujoco.mj_forward(model, data)

    def state(self) -> State:
        q, v = self._data.qpos, self._data.qvel
        joints = q[self._q].tolist(), v[self._v].tolist()
        return (*joints, self._free_state()) if self._has_free else joints

    def _free_state(self) -> list[float]:
        """Of the inertial frame's place, in the axes of the base, or of the object."""
        x, y, z = self._data.qpos[self._free_place].tolist()
        w, i, j, k = self._data.qpos[self._free_turn].tolist()
        turn = rotation.from_quaternion((i, j, k, w))
        lever = rotation.apply(turn, self._base_place)
        a, b, c = self._data.qvel[self._free_linear].tolist()
        angular = rotation.apply(turn, self._data.qvel[self._free_angular].tolist())
        d, e, f = rotation.cross(angular, lever)
        return [x + lever[0], y + lever[1], z + lever[2], i, j, k, w, a + d, b + e, c + f, *angular]

    def link_poses(self) -> dict[str, Pose]:
        data = self._data
        mujoco.mj_kinematics(self._model, data)  # a step leaves these as they were before it
        poses = {}
        bodies = {name: self._body_of[self._links[name]] for name in self._robot.model.links}
        if self._robot.object is not None:
            bodies[OBJECT] = self._object
        for name, body in bodies.items():
            w, x, y, z = data.xquat[body].tolist()
            poses[name] = Pose(tuple(data.xpos[body].tolist()), (x, y, z, w))
        return poses

    def push(self, velocity: Sequence[float]) -> None:
        self._data.qvel[:3] += velocity

    def step(self, torque: Sequence[float], wrench: Wrench = (), *, base: bool = True) -> State:
        data = self._data
        data.qfrc_applied[self._v] = torque
        if self._robot.floating:
            # a free joint's generalized force: at the link's origin along the ground's axes, about it in the link's
            data.qfrc_applied[:6] = self._generalized(wrench) if wrench else 0.0
        mujoco.mj_step(self._model, data)
        joints = data.qpos[self._q].tolist(), data.qvel[self._v].tolist()
        if not self._has_free:
            return joints
        return (*joints, self._free_state() if base else [])

    def _generalized(self, wrench: Wrench) -> list[float]:
        w, x, y, z = self._data.qpos[3:7].tolist()
        return [*rotation.apply(rotation.from_quaternion((x, y, z, w)), wrench[:3]), *wrench[3:]]

    def gravity_torque(self, position: Sequence[float]) -> Sequence[float]:
        model, data = self._nominal_model, self._nominal_data
        data.qpos[self._q] = position
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_rne(model, data, 0, self._bias)
        torque: list[float] = self._bias[self._v].tolist()
        return torque

    def in_contact(self) -> bool:
        return not self._still.issuperset(self._touching())

    def _touching(self) -> set[int]:
        """Bodies that touch table or ground."""
        data, of, grounds = self._data, self._model.geom_bodyid, self._grounds
        found = set()
        for contact in data.contact[: data.ncon]:
            one, other = contact.geom.tolist()
            if contact.dist <= 0.0 and (one in grounds or other in grounds):
                found.add(int(of[other if one in grounds else one]))
        return found

    def feet(self) -> FootState:
        model, data, touching = self._model, self._data, self._touching()
        mujoco.mj_kinematics(model, data)  # a step leaves these as they were before it
        mujoco.mj_comPos(model, data)
        mujoco.mj_comVel(model, data)
        velocity = np.zeros(6)
        speeds = []
        for foot in self._feet:
            mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_BODY, foot, velocity, 0)
            speeds.append(velocity[3:].tolist())
        return FootState(
            [foot in touching for foot in self._feet],
            data.xipos[self._feet].tolist(),
            speeds,
            len(touching.difference(self._feet)) > 0,
        )

    def reload(self) -> None:
        self.close()  # a renderer shows the model that it was made for
        self._load()

    def mark(self, position: Sequence[float], radius: float) -> None:
        site = self._model.site(MARKER).id
        self._model.site_pos[site], self._model.site_size[site] = position, radius
        self._model.site_rgba[site, 3] = 1.0

    def render(self, camera: Camera, position: Sequence[float] | None = None) -> NDArray[np.uint8]:
        looks = rendered(self.looks)
        model, data = self._model, self._data
        if position is not None:
            data = self._scratch
            data.qpos[:] = self._data.qpos
            data.qpos[self._q] = position
        size = camera.height, camera.width
        renderer = self._renderers.get(size) or self._make_renderer(size)
        self._upload(looks.redrawn)
        view = mujoco.MjvCamera()
        view.lookat[:] = camera.aimed(data.qpos[:3].tolist()) if self._robot.floating else camera.target
        view.distance, view.azimuth, view.elevation = camera.distance, camera.yaw + 90.0, camera.pitch
        model.vis.global_.fovy = camera.field_of_view
        mujoco.mj_kinematics(model, data)
        mujoco.mj_camlight(model, data)
        renderer.update_scene(data, view)
        image: NDArray[np.uint8] = renderer.render()
        return image

    def _make_renderer(self, size: tuple[int, int]) -> Any:
        """Of frames of this height and width. Raises ValueError where there is no OpenGL without a display."""
        try:
            renderer = mujoco.Renderer(self._model, *size)
        except Exception as error:  # of every kind: whatever its OpenGL's bindings raise
            raise ValueError(
                f"MuJoCo cannot render here: {' '.join(str(error).split())}; it needs EGL (Mesa)"
            ) from error
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        self._renderers[size] = renderer
        return renderer

    def _upload(self, textures: set[int]) -> None:
        """Show what has been drawn anew in every renderer, each of which keeps textures as it got them."""
        while textures:
            texture = textures.pop()
            for renderer in self._renderers.values():
                renderer._gl_context.make_current()
                mujoco.mjr_uploadTexture(self._model, renderer._mjr_context, texture)

    def close(self) -> None:
        self._close_renderers()

    def _close_renderers(self) -> None:
        while self._renderers:
            self._renderers.popitem()[1].close()
