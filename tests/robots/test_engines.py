"""The two engines against each other: the same robot under the same torques, and what each says of it."""

from fnmatch import fnmatchcase

import gymnasium as gym
import numpy as np
import pytest

from simtoreal.robots import catalog, rotation
from simtoreal.robots.actuators import PDDrive
from simtoreal.robots.engines import ENGINES, MUJOCO_ALONE, PYBULLET_ALONE, make_world
from simtoreal.robots.mujoco_world import MuJoCoWorld
from simtoreal.robots.pybullet_world import PyBulletWorld
from simtoreal.robots.tasks.reach import KukaReach, PandaReach
from simtoreal.robots.world import Camera

STAND = (0.0, 0.9, -1.8) * 4
ON_FOUR = (0.0, 0.0, 0.262, 0.0, 0.0, 0.0, 1.0, *[0.0] * 6)


@pytest.fixture
def both():
    """Makes a robot in both engines, PyBullet first, at nominal values overlaid with the given ones."""
    made = []

    def build(robot, values=None, dt=0.001):
        pair = PyBulletWorld(robot, dt), MuJoCoWorld(robot, dt)
        for world in pair:
            world.apply({p.name: p.nominal for p in world.parameters} | (values or {}))
        made.extend(pair)
        return pair

    yield build
    for world in made:
        world.close()


def driven(world, drive, position, base=(), *, steps, target):
    """Joint positions of every step under a drive; of an arm with gravity compensation."""
    world.reset(position, [0.0] * len(position), base)
    state, found = world.state(), []
    for _ in range(steps):
        gravity = () if base else world.gravity_torque(state[0])
        state = world.step(drive.torque(state, target, gravity))
        found.append(state[0])
    return np.array(found)


@pytest.mark.parametrize(
    ("task", "values"),
    [
        (PandaReach, {}),
        (PandaReach, {"link.panda_hand.payload": 2.0, "joint.panda_joint2.damping": 5.0}),
        (KukaReach, {}),
        (KukaReach, {"link.lbr_iiwa_link_7.payload": 5.0, "joint.lbr_iiwa_joint_2.damping": 5.0}),
    ],
)
def test_an_arm_moves_alike_to_a_billionth(both, task, values):
    arm = task.arm
    target = [q + 0.2 for q in arm.home]
    effort = [task.robot.model.joints[joint].effort for joint in arm.joints]
    one, other = (
        driven(world, PDDrive(arm.kp, arm.kd, effort), arm.home, steps=500, target=target)
        for world in both(task.robot, values)
    )
    assert np.abs(one[-1] - arm.home).max() > 0.1
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-9)


def test_a_quadruped_stands_alike(both):
    drive = PDDrive([60.0] * 12, [2.0] * 12, [33.5] * 12)
    one, other = (driven(world, drive, STAND, ON_FOUR, steps=3000, target=STAND)[-1] for world in both(catalog.a1()))
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-3)


def test_a_quadruped_in_the_air_moves_alike(both):
    """Base, joints and feet, from a turned base that turns and moves, with a payload and a moved centre of mass."""
    rng = np.random.default_rng(0)
    turn = rng.normal(size=4)
    base = [0.3, -0.2, 3.0, *(turn / np.linalg.norm(turn)), 0.5, -0.3, 1.0, 1.0, -2.0, 3.0]
    values = {"link.trunk.com.x": 0.03, "link.trunk.payload": 2.0, "link.trunk.mass": 6.0, "ground.slope.pitch": 0.2}
    found = []
    for world in both(catalog.a1(), values, dt=0.0005):
        world.reset(STAND, rng.uniform(-1, 1, 12) * 0 + 0.5, base)
        rows = [world.state()]
        for k in range(200):
            rows.append(world.step([0.3 * np.sin(k / 20 + i) for i in range(12)]))
        axes = world.base_axes
        end = [*rows[-1][0], *rows[-1][1], *rows[-1][2][:3], *rows[-1][2][7:]]
        attitude = rotation.product(rotation.from_quaternion(rows[-1][2][3:7]), tuple(np.reshape(axes, (3, 3)).T.flat))
        feet = world.feet()
        found.append((rows[0][2][:3], end, attitude, feet.position, feet.velocity, feet.contact, feet.other_contact))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-3)


def test_a_push_and_a_fall_are_seen_alike(both):
    found = []
    for world in both(catalog.a1()):
        world.reset(STAND, [0.0] * 12, ON_FOUR)
        world.push([0.5, -0.25, 0.0])
        pushed = world.state()[2][7:10]
        for _ in range(600):
            world.step([0.0] * 12)
        feet = world.feet()
        found.append((pushed, feet.other_contact))
    assert found[0][1] is found[1][1] is True
    np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-12)
    np.testing.assert_allclose(found[0][0], [0.5, -0.25, 0.0], atol=1e-12)


def test_every_task_has_the_same_parameters_in_every_engine(task_id):
    tables = []
    for engine in ENGINES:
        env = gym.make(task_id, disable_env_checker=True, engine=engine).unwrapped
        tables.append(dict(env.parameters))
        env.close()
    assert tables[1].keys() == tables[2].keys()
    for one, other, alone in ((*tables[1::-1], MUJOCO_ALONE), (*tables[:2], PYBULLET_ALONE)):
        beyond = [name for name in one if name not in other]
        assert all(any(fnmatchcase(name, pattern) for pattern in alone) for name in beyond)
    for name in tables[0].keys() & tables[1].keys():
        one, other = tables[0][name], tables[1][name]
        numbers = [(p.nominal, p.low, p.high) for p in (one, other)]
        np.testing.assert_allclose(*numbers, rtol=1e-9, err_msg=name)
        assert one.unit == other.unit


def test_shipped_contacts_are_softer():
    """A standing quadruped sinks further in."""
    heights = []
    for engine in ("mujoco", "mujoco-shipped"):
        world = make_world(engine, catalog.a1(), 0.001)
        world.apply({p.name: p.nominal for p in world.parameters})
        driven(world, PDDrive([60.0] * 12, [2.0] * 12, [33.5] * 12), STAND, ON_FOUR, steps=1000, target=STAND)
        heights.append(world.state()[2][2])
        world.close()
    assert heights[0] - heights[1] > 1e-3


def test_both_cameras_see_the_robot_in_the_same_place():
    """What is not background, of an arm on its table, from the side and from another: outlines overlap."""
    found = []
    for engine in ("pybullet", "mujoco"):
        world = make_world(engine, catalog.panda(), 0.002, rendering=True)
        world.apply({p.name: p.nominal for p in world.parameters})
        for yaw in (30.0, 120.0):
            frames = []
            for position in (PandaReach.arm.home, (0.5, 0.3, 0.0, -1.0, 0.0, 1.5, 0.0)):
                world.reset(position, [0.0] * 7)
                frames.append(world.render(Camera((0.28, 0.0, 0.3), 1.6, yaw, -20.0, 160, 120)).astype(int))
            found.append(np.abs(frames[0] - frames[1]).sum(-1) > 40)  # where the arm was, and where it is
        world.close()
    for one, other in zip(found[:2], found[2:], strict=True):
        assert min(one.sum(), other.sum()) > 300
        assert (one & other).sum() / (one | other).sum() > 0.6


def test_a_reloaded_world_is_shown_as_it_is():
    world = make_world("mujoco", catalog.cartpole(), 0.002, rendering=True)
    camera = Camera((0.0, 0.0, 0.2), 3.0, width=80, height=60)
    frames = []
    for position in ((0.0, 0.0), (0.8, 2.0)):
        world.reset(position, (0.0, 0.0))
        frames.append(world.render(camera))
    world.reload()
    world.mark((0.0, 0.0, 0.8), 0.3)
    world.reset((0.8, 2.0), (0.0, 0.0))
    marked = world.render(camera)
    world.close()
    assert (frames[0] != frames[1]).any()
    assert (marked != frames[1]).any()  # the new model's marker is seen


def test_what_is_no_engine_is_refused():
    with pytest.raises(ValueError, match="no engine 'ode'; engines: pybullet, mujoco, mujoco-shipped"):
        make_world("ode", catalog.cartpole(), 0.002)
    with pytest.raises(ValueError, match="contacts must be matched or shipped"):
        MuJoCoWorld(catalog.cartpole(), 0.002, contacts="hard")
