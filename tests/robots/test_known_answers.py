"""Motions of a floating robot whose outcome is known without simulating, in both engines."""

from pathlib import Path

import mujoco
import numpy as np
import pybullet as bullet
import pytest
from scipy.integrate import solve_ivp

from simtoreal.robots import catalog
from simtoreal.robots.bounce import damping_ratio, rebound
from simtoreal.robots.catalog import Robot
from simtoreal.robots.engines import make_world
from simtoreal.robots.mujoco_world import MuJoCoWorld
from simtoreal.robots.pybullet_world import PyBulletWorld
from simtoreal.robots.rotation import from_quaternion

STAND = [0.0, 0.9, -1.8] * 4
G = 9.81
ALOFT = (0.0, 0.0, 5.0, 0.0, 0.0, 0.0, 1.0)
HEAVY = {
    "link.trunk.mass": 7.0,
    "link.trunk.payload": 4.0,
    "link.trunk.com.x": 0.03,
    "link.FR_lower.mass": 0.4,
    "link.RL_hip.mass": 0.3,
}


@pytest.fixture(params=[PyBulletWorld, MuJoCoWorld])
def floating(request):
    """An A1 in the air, in either engine, its base moving as asked [v, w]."""
    made = []

    def build(values=None, twist=(0.0,) * 6, dt=0.001):
        world = request.param(catalog.a1(), dt)
        made.append(world)
        world.apply({p.name: p.nominal for p in world.parameters} | (values or {}))
        world.reset(STAND, [0.0] * 12, (*ALOFT, *twist))
        return world

    yield build
    for world in made:
        world.close()


def bodies(world):
    """Of each link of some mass: mass, centre of mass, inertia about it, velocity of it, angular velocity, as the
    engine has them, in the ground's axes."""
    if isinstance(world, MuJoCoWorld):
        model, data = world._model, world._data
        mujoco.mj_forward(model, data)
        for i in range(1, model.nbody):
            if model.body_mass[i] > 0.0:
                motion = np.zeros(6)
                mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_BODY, i, motion, 0)
                turn = data.ximat[i].reshape(3, 3)
                tensor = turn @ np.diag(model.body_inertia[i]) @ turn.T
                yield model.body_mass[i], data.xipos[i].copy(), tensor, motion[3:], motion[:3]
        return
    on = {"physicsClientId": world._client}
    for link in world._link_index.values():
        mass, _, moments = bullet.getDynamicsInfo(world._body, link, **on)[:3]
        if link < 0:
            place, attitude = bullet.getBasePositionAndOrientation(world._body, **on)
            linear, angular = bullet.getBaseVelocity(world._body, **on)
        else:
            state = bullet.getLinkState(world._body, link, computeLinkVelocity=1, computeForwardKinematics=1, **on)
            place, attitude, linear, angular = state[0], state[1], state[6], state[7]
        turn = np.reshape(from_quaternion(attitude), (3, 3))
        if mass > 0.0:
            yield mass, np.array(place), turn @ np.diag(moments) @ turn.T, np.array(linear), np.array(angular)


def whole(world):
    """Mass, centre of mass, momentum, and angular momentum about the centre of mass of the whole robot."""
    parts = list(bodies(world))
    mass = sum(m for m, *_ in parts)
    centre = sum(m * x for m, x, *_ in parts) / mass
    momentum = sum(m * v for m, _, _, v, _ in parts)
    drift = momentum / mass
    spin = sum(tensor @ w + m * np.cross(x - centre, v - drift) for m, x, tensor, v, w in parts)
    return mass, centre, momentum, spin


def test_free_fall(floating):
    """v = g t, x = g t^2 / 2 (of the semi-implicit steps: n (n + 1) / 2), whatever the masses and the first motion."""
    world = floating(
        HEAVY | {"ground.slope.pitch": 0.2, "ground.slope.roll": -0.3}, twist=(0.3, 0.2, 0.1, 0.5, 1.0, -0.5)
    )
    mass, before, momentum, _ = whole(world)
    for _ in range(200):
        world.step([0.0] * 12)
    _, after, faster, _ = whole(world)
    g = G * np.array([-np.sin(0.2) * np.cos(-0.3), -np.sin(-0.3), -np.cos(0.2) * np.cos(-0.3)])
    assert (faster - momentum) / mass == pytest.approx(g * 0.2, abs=1e-3)
    assert after - before == pytest.approx(momentum / mass * 0.2 + g * 0.001**2 * 200 * 201 / 2, abs=1e-3)


def test_inner_torques_change_neither_momentum(floating):
    """The legs thrash, the body turns against them: what is lost to g t alone, and what is turned, not at all."""
    world = floating(HEAVY, twist=(0.1, -0.2, 0.0, 1.0, -2.0, 1.5), dt=0.0002)
    mass, _, momentum, spin = whole(world)
    steps = 500
    for k in range(steps):
        world.step([0.6 * np.sin(0.02 * k + i) for i in range(12)])
    heavier, _, after, turned = whole(world)
    thrown = max(np.linalg.norm(v - after / mass) for _, _, _, v, _ in bodies(world))
    assert heavier == pytest.approx(mass, rel=1e-12)
    assert mass == pytest.approx(sum(link.mass for link in catalog.a1().model.links.values()) + extra(), rel=1e-6)
    assert thrown > 1.0  # a foot, against the whole
    assert after - momentum == pytest.approx([0.0, 0.0, -mass * G * 0.0002 * steps], abs=2e-3 * mass)
    assert turned == pytest.approx(spin, abs=0.01 * np.linalg.norm(spin))


def extra():
    """What HEAVY adds to the robot [kg]."""
    links = catalog.a1().model.links
    own = {"trunk": 7.0, "FR_lower": 0.4, "RL_hip": 0.3}
    return 4.0 + sum(mass - links[name].mass for name, mass in own.items())


def test_a_push_is_an_impulse_on_the_whole_robot(floating):
    world = floating(HEAVY)
    mass, _, before, _ = whole(world)
    world.push((0.4, -0.3, 0.0))
    _, _, after, _ = whole(world)
    assert after - before == pytest.approx(np.array([0.4, -0.3, 0.0]) * mass, abs=1e-5)


def test_the_centre_of_mass_is_where_the_parameters_put_it(floating):
    mass, centre, *_ = whole(floating())
    same, shifted, *_ = whole(floating({"link.trunk.com.x": 0.03, "link.trunk.com.y": -0.01, "link.trunk.com.z": 0.01}))
    assert same == pytest.approx(mass, rel=1e-12)
    assert shifted - centre == pytest.approx(np.array([0.03, -0.01, 0.01]) * 4.713 / mass, abs=1e-9)
    laden, lifted, *_ = whole(floating({"link.trunk.payload": 2.0}))
    assert laden == pytest.approx(mass + 2.0, rel=1e-12)
    assert lifted * laden - centre * mass == pytest.approx([0.0, 0.0, 2.0 * 5.1], abs=1e-6)


@pytest.mark.parametrize(("slope", "friction", "slides"), [(0.3, 0.2, True), (0.3, 0.4, False), (-0.3, 0.2, True)])
def test_a_block_on_a_slope(floating, slope, friction, slides):
    """It stays while tan(slope) is less than the coefficient, else gets faster by g (sin - mu cos): a stiff A1 that
    stands on the slope with all four feet is a block."""
    values = {"ground.slope.pitch": slope, "ground.friction": friction}
    world = floating(values)
    world.reset(STAND, [0.0] * 12, (0.0, 0.0, 0.262, *ALOFT[3:], *(0.0,) * 6))

    def hold(seconds):
        for _ in range(round(seconds / 0.001)):
            q, qd, _ = world.state()
            world.step([300.0 * (s - x) - 4.0 * v for s, x, v in zip(STAND, q, qd, strict=True)])
        mass, _, momentum, _ = whole(world)
        return momentum[0] / mass

    first = hold(0.3)
    gained = (hold(0.3) - first) / 0.3
    wanted = -np.sign(slope) * G * (np.sin(abs(slope)) - friction * np.cos(slope)) if slides else 0.0
    assert gained == pytest.approx(wanted, abs=0.1)


BALL = Robot("ball", Path(__file__).parent / "assets" / "ball.urdf", {}, floating=True)


def drop(world, restitution, height):
    """States of the ball [steps, 13] for 1.5 s after it was let go."""
    world.apply({p.name: p.nominal for p in world.parameters} | {"ground.restitution": restitution})
    world.reset((), (), (0.0, 0.0, 0.1 + height, 0.0, 0.0, 0.0, 1.0, *(0.0,) * 6))
    return np.array([world.step(())[2] for _ in range(round(1.5 / world.physics_dt))])


def bounce(engine, restitution, height, dt=0.002):
    """Speed after the first bounce over the speed before, how high it then rises over how high it fell, and what the
    engine says of the restitution that it holds; of a ball dropped from `height` [m]."""
    world = make_world(engine, BALL, dt)
    path = drop(world, restitution, height)
    held = world.read_back()["ground.restitution"]
    world.close()
    z, v = path[:, 2] - 0.1, path[:, 9]
    low = int(np.argmin(v))
    again = low + int(np.argmax(v[low:] > 0.0)) if (v[low:] > 0.0).any() else low
    end = again + int(np.argmax(v[again:] < 0.0))
    up = v[low : end + 1].max()
    return up / -v.min(), max(z[again : end + 1].max(), 0.0) / height, held


@pytest.mark.parametrize("restitution", [0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("height", [0.41, 0.5, 0.63])
@pytest.mark.parametrize("engine", ["pybullet", "mujoco", "mujoco-shipped"])
def test_a_ball_bounces(engine, restitution, height):
    """It leaves with e of its speed and rises to e^2 of its height. Bullet pushes what has sunk in apart and so adds up
    to 0.09 to e, by where in a step the ball lands; MuJoCo's contact is a spring and a damper that lets go below the
    ground, by some centimetres where it is soft."""
    speeds, heights, held = bounce(engine, restitution, height)
    assert held == pytest.approx(restitution, rel=1e-9)
    if engine == "pybullet":
        assert restitution < speeds < restitution + 0.09
        assert restitution**2 < heights < (restitution + 0.09) ** 2
    else:
        assert speeds == pytest.approx(restitution, abs=0.03)
        assert heights == pytest.approx(restitution**2, abs=0.04)


@pytest.mark.parametrize("engine", ["pybullet", "mujoco", "mujoco-shipped"])
def test_what_does_not_bounce_stays_down(engine):
    """MuJoCo's contacts are critically damped, which leaves exp(-2) of a speed: 2 % of a height."""
    speeds, heights, held = bounce(engine, 0.0, 0.5)
    assert held == 0.0
    assert speeds < (0.01 if engine == "pybullet" else 0.16)
    assert heights < (0.01 if engine == "pybullet" else 0.03)


@pytest.mark.parametrize("engine", ["pybullet", "mujoco", "mujoco-shipped"])
def test_a_ball_bounces_alike_whatever_it_did_before(engine):
    fresh = {}
    for restitution in (0.0, 0.5):
        world = make_world(engine, BALL, 0.002)
        fresh[restitution] = drop(world, restitution, 0.5)
        world.close()
    world = make_world(engine, BALL, 0.002)
    for restitution in (0.0, 0.5, 0.5, 0.0, 0.0, 0.5):
        assert (drop(world, restitution, 0.5) == fresh[restitution]).all()
    world.close()


@pytest.mark.parametrize("ratio", [0.02, 0.1, 0.3, 0.6, 0.9, 0.999])
def test_the_rebound_of_a_spring_and_damper_is_that_of_its_equation_of_motion(ratio):
    """z'' = -2 ratio z' - z from z' = -1, until the force would pull."""

    def motion(_, s):
        return [s[1], -2.0 * ratio * s[1] - s[0]]

    def pull(_, s):
        return -2.0 * ratio * s[1] - s[0]

    pull.terminal, pull.direction = True, -1.0
    found = solve_ivp(motion, (0.0, 20.0), [0.0, -1.0], events=pull, rtol=1e-10, atol=1e-12, max_step=0.01)
    assert rebound(ratio) == pytest.approx(found.y[1, -1], rel=1e-6)
    assert damping_ratio(rebound(ratio)) == pytest.approx(ratio, rel=1e-9)
