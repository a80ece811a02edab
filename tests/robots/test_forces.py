"""Inertia, gravity, constant forces and what resists turning and rolling: motions with analytic answers, in both
engines."""

import math
from dataclasses import replace

import numpy as np
import pytest

from simtoreal.robots import catalog
from simtoreal.robots.dynamics import mass_matrix
from simtoreal.robots.engines import make_world
from simtoreal.robots.mujoco_world import MuJoCoWorld
from tests.robots.test_known_answers import ALOFT, BALL, STAND, G, floating, whole  # noqa: F401 (a fixture)

RADIUS, INERTIA = 0.1, 0.004  # of the ball of 1 kg


@pytest.fixture(params=["pybullet", "mujoco", "mujoco-shipped"])
def ball(request):
    """On the ground, or above it, moving as asked."""
    made = []

    def build(values, twist=(0.0,) * 6, height=RADIUS):
        world = make_world(request.param, BALL, 0.001)
        made.append(world)
        world.apply({p.name: p.nominal for p in world.parameters} | values)
        world.reset((), (), (0.0, 0.0, height, 0.0, 0.0, 0.0, 1.0, *twist))
        return world

    yield build
    for world in made:
        world.close()


def run(world, steps, wrench=()):
    for _ in range(steps):
        base = world.step((), wrench)[2]
    return np.array(base)


@pytest.mark.parametrize(("factor", "mass"), [(1.0, 1.0), (2.5, 1.0), (0.5, 2.0)])
def test_a_torque_turns_what_has_less_inertia_faster(ball, factor, mass):
    world = ball({"link.ball.inertia": factor, "link.ball.mass": mass}, height=5.0)
    spun = run(world, 100, (0.0, 0.0, 0.0, 0.0, 0.02, 0.0))[11]
    assert spun == pytest.approx(0.02 * 0.1 / (INERTIA * factor * mass), rel=1e-3)
    assert world.read_back()["link.ball.inertia"] == factor
    assert world.read_back()["link.ball.mass"] == mass


@pytest.mark.parametrize("gravity", [1.62, 3.71, 9.78])
def test_what_falls_falls_as_gravity_says(ball, gravity):
    world = ball({"gravity": gravity}, height=5.0)
    assert run(world, 500)[9] == pytest.approx(-gravity * 0.5, rel=1e-6)
    assert world.read_back()["gravity"] == gravity


@pytest.mark.parametrize(("axis", "joint"), [("pitch", "x"), ("roll", "y")])
def test_what_it_is_mounted_on_leans(world, axis, joint):
    """A cart on a level rail along x: pitch pulls it back by g sin, roll not at all."""
    cart = world("slider", {f"mount.{axis}": 0.2, "gravity": 5.0})
    cart.reset([0.0], [0.0])
    for _ in range(200):
        _, (speed,) = cart.step([0.0])
    assert speed == pytest.approx(-5.0 * math.sin(0.2) * 0.2 if joint == "x" else 0.0, abs=1e-4)


def test_a_controller_knows_the_nominal_gravity_alone(world):
    """And so an arm under another one sags by the difference over its gain."""
    home = [0.0, 0.3, 0.0, -1.5, 0.0, 1.8, 0.8]
    nominal = world("panda").gravity_torque(home)
    values = {"gravity": 7.0, "mount.pitch": 0.1}
    arm = world("panda", values)
    assert arm.gravity_torque(home) == pytest.approx(nominal, abs=1e-9)
    arm.reset(home, [0.0] * 7)
    for _ in range(3000):
        q, qd = arm.state()
        given = [g + 800.0 * (h - x) - 60.0 * v for g, h, x, v in zip(arm.gravity_torque(q), home, q, qd, strict=True)]
        arm.step(given)
    sagged = np.subtract(q, home)
    assert np.abs(qd).max() < 1e-3
    lean = np.subtract(weight(arm, q, values), arm.gravity_torque(q))
    assert sagged == pytest.approx(-lean / 800.0, abs=2e-4)
    assert np.abs(sagged).max() > 5e-3


def weight(arm, position, values):
    """The torques that hold it under these values, found by holding it by force."""
    low, high = ([800.0 * side] * 7 for side in (-1.0, 1.0))
    arm.reset(position, [0.0] * 7)
    held = np.array(arm.gravity_torque(position))
    for _ in range(400):
        arm.reset(position, [0.0] * 7)
        _, speed = arm.step(np.clip(held, low, high).tolist())
        held -= 0.05 * np.array(speed) / arm.physics_dt
    return held


def test_a_constant_force_moves_the_whole_by_its_impulse(floating):  # noqa: F811
    """Wherever the legs hang, over g t: and along the ground's axes, however the trunk has turned."""
    force = {"link.trunk.force.x": 12.0, "link.trunk.force.y": -7.0, "link.trunk.force.z": 20.0}
    world = floating(force, twist=(0.0, 0.0, 0.0, 0.0, 0.0, 3.0))
    mass, _, before, spin = whole(world)
    for _ in range(300):
        world.step([0.0] * 12)
    _, _, after, turned = whole(world)
    assert after - before == pytest.approx(0.3 * np.array([12.0, -7.0, 20.0 - mass * G]), abs=2e-3 * mass)
    assert np.linalg.norm(turned - spin) < 0.2  # about the trunk's centre of mass, near the whole's


def test_a_constant_force_ends_with_its_episode(floating):  # noqa: F811
    world = floating({"link.trunk.force.x": 30.0})
    world.step([0.0] * 12)
    world.apply({p.name: p.nominal for p in world.parameters})
    world.reset(STAND, [0.0] * 12, (*ALOFT, *(0.0,) * 6))
    for _ in range(100):
        world.step([0.0] * 12)
    mass, _, momentum, _ = whole(world)
    assert momentum == pytest.approx([0.0, 0.0, -mass * G * 0.1], abs=1e-3 * mass)


def test_a_force_on_a_link_of_an_arm_is_borne_by_its_joints(world):
    """30 N up on a cage of 2 kg: a = F / m - g."""
    cage = world("lift", {"link.cage.force.z": 30.0})
    cage.reset([0.0], [0.0])
    for _ in range(200):
        _, (speed,) = cage.step([0.0])
    assert speed == pytest.approx((15.0 - G) * 0.2, rel=1e-3)


@pytest.mark.parametrize("spinning", [0.0, 0.002, 0.01])
def test_a_ball_that_spins_slows_down_by_torque_over_inertia(ball, spinning):
    world = ball({"ground.spinning_friction": spinning}, twist=(0.0, 0.0, 0.0, 0.0, 0.0, 20.0))
    run(world, 100)
    start = run(world, 1)[12]
    lost = (start - run(world, 200)[12]) / 0.2
    assert lost == pytest.approx(spinning * G / INERTIA, rel=0.03, abs=0.02)
    assert world.read_back()["ground.spinning_friction"] == spinning


def speed_by_joint(robot, joints, q, link, point):
    """How each joint [n] moves a point of a link [3]: [n, 3]."""
    motion = robot.model.chain(link, joints).motion(q)
    columns, turn = np.array(motion.columns), np.reshape(motion.turn, (3, 3))
    return columns[:, :3] + np.cross(columns[:, 3:], turn @ np.array(point))


def pull_of_gravity(robot, joints, q, inertials):
    """How gravity pulls at each joint [n], of links of which some have other inertials than the file's."""
    bodies = {
        name: inertials.get(name) or robot.model.inertial(name)
        for name, part in robot.model.links.items()
        if part.has_inertial
    }
    return -G * sum(b.mass * speed_by_joint(robot, joints, q, name, b.com)[:, 2] for name, b in bodies.items())


@pytest.mark.parametrize("place", [(0.0, 0.0, 0.0), (0.12, -0.05, 0.08), (-0.1, 0.15, -0.02)])
def test_an_arm_falls_as_a_payload_in_another_place_pulls_it(place):
    """From rest in one step M q'' = tau(gravity), the payload a point mass at its mount plus its place."""
    robot, load = catalog.panda(), 1.2
    (link, mount), *_ = robot.payload.items()
    world = make_world("mujoco", robot, 0.001)
    try:
        values = {f"link.{link}.payload": load} | {
            f"link.{link}.payload.{a}": p for a, p in zip("xyz", place, strict=True)
        }
        world.apply({p.name: p.nominal for p in world.parameters} | values)
        q = [0.1, -0.5, 0.3, -1.9, 0.4, 1.5, 0.2]
        world.reset(q, [0.0] * 7)
        found = np.array(world.step([0.0] * 7)[1]) / 0.001
        assert {name: world.read_back()[name] for name in values} == pytest.approx(values)
    finally:
        world.close()
    speed = speed_by_joint(robot, world.joints, q, link, np.add(mount, place))  # of the payload
    matrix = mass_matrix(robot.model, world.joints, q, robot.inertials) + load * speed @ speed.T
    pull = pull_of_gravity(robot, world.joints, q, robot.inertials) - load * G * speed[:, 2]
    assert found == pytest.approx(np.linalg.solve(matrix, pull), rel=2e-3, abs=1e-3)


CONFIGURATION = [0.1, -0.5, 0.3, -1.9, 0.4, 1.5, 0.2]


def falls(engine, robot, settings):
    """How an arm's joints get faster from rest, at each of some settings [n], in one world."""
    world = make_world(engine, robot, 0.001)
    found = []
    try:
        for values in settings:
            world.apply({p.name: p.nominal for p in world.parameters} | values)
            assert {name: world.read_back()[name] for name in values} == pytest.approx(values, abs=1e-15)
            world.reset(CONFIGURATION, [0.0] * 7)
            found.append(np.array(world.step([0.0] * 7)[1]) / 0.001)
    finally:
        world.close()
    return world.joints, found


@pytest.mark.parametrize("link", ["panda_link2", "panda_link4", "panda_hand"])
@pytest.mark.parametrize("shift", [(0.0, 0.0, 0.0), (0.01, -0.04, 0.015), (-0.011, 0.05, -0.016)])
def test_an_arm_falls_as_a_link_with_its_mass_elsewhere_pulls_it(link, shift):
    """From rest in one step M q'' = tau(gravity), of a robot whose link has another centre of mass in its file."""
    robot = catalog.panda()
    moved = robot.inertials[link] if link in robot.inertials else robot.model.inertial(link)
    inertials = {**robot.inertials, link: replace(moved, com=tuple(np.add(moved.com, shift)))}
    values = {f"link.{link}.com.{a}": s for a, s in zip("xyz", shift, strict=True)}
    joints, (found, nominal) = falls("mujoco", robot, [values, dict.fromkeys(values, 0.0)])
    assert (falls("mujoco", robot, [{}])[1][0] == nominal).all()
    matrix = mass_matrix(robot.model, joints, CONFIGURATION, inertials)
    pull = pull_of_gravity(robot, joints, CONFIGURATION, inertials)
    assert found == pytest.approx(np.linalg.solve(matrix, pull), rel=2e-3, abs=1e-3)


@pytest.mark.parametrize("engine", ["pybullet", "mujoco"])
@pytest.mark.parametrize("shift", [(0.03, -0.02, 0.008), (-0.03, 0.02, -0.008)])
def test_an_arm_falls_as_its_ballast_pulls_it(engine, shift):
    """The same of a link whose mass moves between points, in either engine: its inertia about the nominal centre stays,
    so about the moved one it is m (d^2 1 - d d^T) less."""
    link = "panda_link2"
    robot = replace(catalog.panda(), com_reach={link: (0.04, 0.03, 0.01)})
    body, d = robot.inertials[link], np.array(shift)
    less = body.mass * (d @ d * np.eye(3) - np.outer(d, d))[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]]
    there = replace(body, com=tuple(np.add(body.com, d)), inertia=tuple(np.subtract(body.inertia, less)))
    inertials = {**robot.inertials, link: there}
    values = {f"link.{link}.com.{a}": s for a, s in zip("xyz", shift, strict=True)}
    joints, (found, nominal) = falls(engine, robot, [values, dict.fromkeys(values, 0.0)])
    assert (falls(engine, robot, [{}])[1][0] == nominal).all()
    matrix = mass_matrix(robot.model, joints, CONFIGURATION, inertials)
    pull = pull_of_gravity(robot, joints, CONFIGURATION, inertials)
    assert found == pytest.approx(np.linalg.solve(matrix, pull), rel=2e-3, abs=1e-3)


@pytest.mark.parametrize(("compliance", "damping", "mass"), [(1e-4, 100.0, 1.0), (2e-4, 30.0, 2.0), (5e-4, 20.0, 1.0)])
def test_ground_that_gives_way_is_a_spring_and_a_damper(hard_and_soft, compliance, damping, mass):
    """What lies on it has sunk in by m g c; what was let go above that swings about it as m x'' = -x / c - d x'."""
    world = hard_and_soft({"ground.compliance": compliance, "ground.damping": damping, "link.ball.mass": mass})
    heights = [world.step(())[2][2] for _ in range(3000)]
    sunk = mass * G * compliance
    assert RADIUS - heights[-1] == pytest.approx(sunk, abs=1.1e-5)  # Bullet lets everything sink by 0.01 mm
    rate, decay = (
        math.sqrt(1.0 / (compliance * mass)),
        (damping + 0.1) / (2.0 * mass),
    )  # its links' damping is Bullet's .1
    t = 0.001 * np.arange(1, 101)
    turn = math.sqrt(rate**2 - decay**2)
    expected = RADIUS - sunk + sunk * np.exp(-decay * t) * (np.cos(turn * t) + decay / turn * np.sin(turn * t))
    assert np.abs(heights[:100] - expected).max() < 0.15 * sunk
    assert world.read_back()["ground.compliance"] == compliance


def test_hard_ground_is_hard_again_after_soft(hard_and_soft):
    soft = {"ground.compliance": 3e-4, "ground.damping": 50.0}
    world, other = hard_and_soft({}), hard_and_soft({})
    for bumps in ({}, {"ground.roughness": 0.03, "ground.variant": 2.0}):
        paths = []
        for each, values in ((world, soft | bumps), (world, bumps), (other, bumps)):
            each.apply({p.name: p.nominal for p in each.parameters} | values)
            each.reset((), (), (0.3, 0.2, 0.3, 0.0, 0.0, 0.0, 1.0, 0.5, *[0.0] * 5))
            paths.append([each.step(())[2] for _ in range(600)])
        assert paths[1] == paths[2] != paths[0]


@pytest.fixture
def hard_and_soft():
    """A ball at rest where it touches the ground, in the engine whose ground can give way."""
    made = []

    def build(values):
        world = make_world("pybullet", BALL, 0.001)
        made.append(world)
        world.apply({p.name: p.nominal for p in world.parameters} | values)
        world.reset((), (), (0.0, 0.0, RADIUS, 0.0, 0.0, 0.0, 1.0, *[0.0] * 6))
        return world

    yield build
    for world in made:
        world.close()


@pytest.mark.parametrize("rolling", [0.0, 0.002, 0.005])
def test_a_ball_that_rolls_slows_down_by_torque_over_inertia(ball, rolling):
    """I a / R = tau - f R and m a = f: a = tau / (m R + I / R)."""
    world = ball({"ground.rolling_friction": rolling}, twist=(1.0, 0.0, 0.0, 0.0, 1.0 / RADIUS, 0.0))
    run(world, 100)
    start = run(world, 1)[7]
    lost = (start - run(world, 300)[7]) / 0.3
    creeps = isinstance(world, MuJoCoWorld) and world._contacts == "shipped"  # a soft contact holds less
    assert lost == pytest.approx(rolling * G / (RADIUS + INERTIA / RADIUS), rel=0.15 if creeps else 0.05, abs=0.01)
    assert world.read_back()["ground.rolling_friction"] == rolling


def test_a_rotor_s_inertia_is_carried_along_where_the_engine_can(world):
    """20 N on 2 kg and an armature of 0.1 kg."""
    cart = world("slider")
    names = [p.name for p in cart.parameters]
    assert ("joint.slide.armature" in names) == isinstance(cart, MuJoCoWorld)
    if "joint.slide.armature" not in names:
        return
    most = next(p for p in cart.parameters if p.name == "joint.slide.armature")
    assert most.unit == "kg"
    cart.apply({p.name: p.nominal for p in cart.parameters} | {"joint.slide.armature": most.high})
    cart.reset([0.0], [0.0])
    for _ in range(100):
        _, (speed,) = cart.step([20.0])
    assert speed == pytest.approx(20.0 / (2.0 + most.high) * 0.1, rel=1e-6)


def test_no_robot_of_ours_has_forces_where_it_carries_nothing():
    robots = catalog.a1(), catalog.panda()
    for robot in robots:
        world = make_world("mujoco", robot, 0.002)
        names = {p.name for p in world.parameters if ".force." in p.name}
        assert names == {f"link.{link}.force.{axis}" for link in robot.payload for axis in "xyz"}
        world.close()
