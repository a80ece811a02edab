"""Flight against motions with an analytic answer, in both engines, and the engines against each other."""

from dataclasses import replace

import numpy as np
import pytest

from simtoreal.robots import catalog, rotation
from simtoreal.robots.engines import make_world
from simtoreal.robots.rotors import RotorDrive
from simtoreal.robots.tasks.quadrotor import CRAZYFLIE

G = 9.81  # [m/s^2]
MASS = 0.028  # [kg]
LEVEL = (0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 1.0, *[0.0] * 6)
DT = 0.001


@pytest.fixture
def flight(engine):
    """Flies the Crazyflie by `command(t)`; gives the state after each step."""
    worlds = []

    def fly(command, seconds, base=LEVEL, values=None, rotors=CRAZYFLIE, started=None, robot=None, dt=DT):
        world = make_world(engine, robot or catalog.crazyflie(), dt)
        worlds.append(world)
        drive = RotorDrive(rotors, dt, world.base_axes)
        table = {p.name: p.nominal for p in (*world.parameters, *drive.parameters)} | (values or {})
        world.apply(table)
        drive.apply(table)
        drive.start(command(0.0) if started is None else started)
        world.reset((), (), base)
        state, out = world.state(), []
        for k in range(round(seconds / dt)):
            torque = drive.torque(state, command(k * dt), ())
            state = world.step(torque, drive.wrench)
            out.append(np.array(state[2]))
        fly.drive, fly.world = drive, world
        return np.array(out)

    yield fly
    for world in worlds:
        world.close()


def test_thrust_of_the_weight_holds_it_where_it_is(flight):
    end = flight(lambda t: (MASS * G, 0.0, 0.0, 0.0), 2.0)[-1]
    assert end[:3] == pytest.approx([0.0, 0.0, 2.0], abs=1e-6)
    assert end[7:] == pytest.approx([0.0] * 6, abs=1e-6)


def test_wind_takes_it_along(flight):
    """Level, it comes up to the wind's speed as 1 - exp(-c t / m), whichever way its nose points."""
    drag, turned = 0.02, (0.0, 0.0, np.sin(0.4), np.cos(0.4))
    values = {"body.drag": drag, "wind.x": 1.5, "wind.y": -0.5}
    speed = flight(lambda t: (MASS * G, 0.0, 0.0, 0.0), 1.0, base=(0.0, 0.0, 5.0, *turned, *[0.0] * 6), values=values)
    share = 1 - np.exp(-drag * 1.0 / MASS)
    assert speed[-1, 7:10] == pytest.approx([1.5 * share, -0.5 * share, 0.0], abs=1e-3)


def test_without_thrust_and_drag_it_falls(flight):
    end = flight(lambda t: (0.0,) * 4, 0.5, values={"body.drag": 0.0})[-1]
    assert end[9] == pytest.approx(-G * 0.5, rel=1e-6)
    assert end[2] == pytest.approx(2.0 - G * 0.5 * (0.5 + DT) / 2, rel=1e-6)  # by steps of constant speed


def test_drag_gives_a_terminal_velocity(flight):
    """m g / c, approached as 1 - exp(-c t / m)."""
    drag = 0.05
    speed = -flight(lambda t: (0.0,) * 4, 2.0, base=(0.0, 0.0, 50.0, *LEVEL[3:]), values={"body.drag": drag})[:, 9]
    limit = MASS * G / drag  # 5.49 m/s
    assert speed[-1] == pytest.approx(limit * (1 - np.exp(-drag * 2.0 / MASS)), rel=1e-3)
    assert speed[499] == pytest.approx(limit * (1 - np.exp(-drag * 0.5 / MASS)), rel=2e-3)


def test_thrust_follows_with_the_motors_lag(flight):
    """From rest, the acceleration upwards is T (1 - exp(-t / lag)) / m - g."""
    lag, thrust = 0.08, 0.4
    values = {"rotor.lag": lag, "body.drag": 0.0}
    speed = flight(lambda t: (thrust, 0.0, 0.0, 0.0), 0.4, values=values, started=(0.0,) * 4)[:, 9]
    push = np.diff(speed) / DT + G
    for step in (20, 79, 240):
        t = (step + 2) * DT  # differences begin with the second step, at whose end the lag has had 2 steps
        assert push[step] == pytest.approx(thrust / MASS * (1 - np.exp(-t / lag)), rel=1e-3)


def test_a_yaw_command_gives_the_reaction_torque_s_acceleration(flight):
    """No lag, no integral: kp times the rate wanted, which two rotors' reactions must give."""
    kp = 3.0
    rotors = replace(CRAZYFLIE, rate_gains=((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (kp, 0.0, 0.0)))
    end = flight(lambda t: (MASS * G, 0.0, 0.0, 1.0), DT, values={"rotor.lag": 0.0}, rotors=rotors)[-1]
    assert end[12] / DT == pytest.approx(kp * 1.0, rel=1e-6)
    thrusts = flight.drive.thrust
    assert sum(thrusts) == pytest.approx(MASS * G)
    left, right = thrusts[0] + thrusts[3], thrusts[1] + thrusts[2]  # those whose reactions turn it to the left, right
    assert 0.005964552 * (left - right) == pytest.approx(29.261652e-6 * kp, rel=1e-9)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_rotor_that_is_stronger_tips_it_over_as_its_lever_says(flight, axis):
    """One rotor gives 20 % more, the rate loop is off: torque 0.2 m g / 4 times 32.5 mm about x and about -y."""
    off = replace(CRAZYFLIE, rate_gains=((0.0, 0.0, 0.0),) * 3)
    values = {"rotor.lag": 0.0, "rotor.thrust.front_left": 1.2}
    end = flight(lambda t: (MASS * G, 0.0, 0.0, 0.0), DT, values=values, rotors=off)[-1]
    inertia = (16.571710e-6, -16.655602e-6)[axis]
    assert end[10 + axis] / DT == pytest.approx(0.2 * MASS * G / 4 * 0.0325 / inertia, rel=1e-4)


def test_the_rate_loop_reaches_what_is_commanded(flight):
    """And holds it in spite of a weak rotor, by its integral; 1 rad/s about every axis, one after the other."""
    for axis in range(3):
        rates = [0.0, 0.0, 0.0]
        rates[axis] = 1.0
        values = {"rotor.thrust.rear_left": 0.95}
        out = flight(lambda t, rates=rates: (MASS * G, *rates), 0.8, values=values)[-1]
        body = rotation.apply_inverse(rotation.from_quaternion(out[3:7]), out[10:13])
        assert body == pytest.approx(rates, abs=0.08)


def test_a_biased_gyro_turns_it(flight):
    world_rate = []
    for bias in (0.0, 0.1):
        flight(lambda t: (MASS * G, 0.0, 0.0, 0.0), DT)
        drive, world = flight.drive, flight.world
        drive.gyro_bias = (0.0, 0.0, bias)
        world.reset((), (), LEVEL)
        drive.start((MASS * G, 0.0, 0.0, 0.0))
        state = world.state()
        for _ in range(3000):
            state = world.step(drive.torque(state, (MASS * G, 0.0, 0.0, 0.0), ()), drive.wrench)
        world_rate.append(state[2][12])
    assert world_rate == pytest.approx([0.0, -0.1], abs=1e-3)


def test_a_wrench_acts_at_the_link_s_origin_and_in_its_axes(engine):
    """On a trunk whose centre of mass is elsewhere and whose axes are turned: a force there is one at the centre of
    mass with the torque of its lever, and both are gone in the next step."""
    robot = replace(catalog.a1(), locked=catalog.A1_JOINTS)
    turn = (0.5, -0.1, 0.3, 0.8)
    body = rotation.from_quaternion(turn)
    world = make_world(engine, robot, DT)
    world.apply({p.name: p.nominal for p in world.parameters})
    found = []
    for wrench in ((3.0, -2.0, 5.0, 0.3, 0.1, -0.2), (), (0.0,) * 6):
        world.reset((), (), (0.0, 0.0, 5.0, *turn, *[0.0] * 6))
        world.step([], wrench)
        found.append(world.state()[2])
        world.step([])
        found.append(world.state()[2])
    world.close()
    mass = sum(p.nominal for p in world.parameters if p.name.endswith(".mass"))
    first, then, idle, idle_then = map(np.array, found[:4])
    force = rotation.apply(body, (3.0, -2.0, 5.0))
    impulse = mass * centre_velocity(robot, first, idle, turn)
    assert impulse == pytest.approx(np.array(force) * DT, rel=2e-3, abs=1e-6)
    assert then[10:] == pytest.approx(first[10:], abs=2e-4)  # nothing goes on turning it faster
    assert found[4][7:] == pytest.approx(idle[7:], abs=1e-12)
    assert idle_then[9] == pytest.approx(-2 * G * DT, rel=1e-6)


def centre_velocity(robot, pushed, idle, turn):
    """Velocity [m/s] of the whole robot's centre of mass from that of its base's inertial frame."""
    spin = pushed[10:13] - idle[10:13]
    lever = np.array(whole_centre(robot)) - np.array(robot.model.inertial(robot.model.root).com)
    arm = np.array(rotation.apply(rotation.from_quaternion(turn), lever))
    return pushed[7:10] - idle[7:10] + np.cross(spin, arm)


def whole_centre(robot):
    """[m, root link] of all links, with every joint at zero."""
    model, total, moment = robot.model, 0.0, np.zeros(3)
    for name, link in model.links.items():
        if link.mass:
            place = np.eye(4)
            at = name
            while at != model.root:
                joint = next(j for j in model.joints.values() if j.child == at)
                place, at = joint.origin @ place, joint.parent
            moment += link.mass * (place @ [*model.inertial(name).com, 1.0])[:3]
            total += link.mass
    return moment / total


def test_both_engines_fly_alike():
    """A wild 1.5 s, with a payload, a moved centre of mass, a weak rotor and drag."""
    rng = np.random.default_rng(0)
    commands = [(MASS * G * rng.uniform(0.5, 1.5), *rng.uniform(-4, 4, 3)) for _ in range(75)]
    values = {"link.body.payload": 0.004, "link.body.com.x": 0.002, "rotor.thrust.rear_left": 0.9, "body.drag": 0.02}
    ends = []
    for engine in ("pybullet", "mujoco"):
        world = make_world(engine, catalog.crazyflie(), 0.004)
        drive = RotorDrive(CRAZYFLIE, 0.004, world.base_axes)
        table = {p.name: p.nominal for p in (*world.parameters, *drive.parameters)} | values
        world.apply(table)
        drive.apply(table)
        drive.start(commands[0])
        world.reset((), (), (0.0, 0.0, 20.0, *LEVEL[3:]))
        state = world.state()
        for k in range(375):
            state = world.step(drive.torque(state, commands[k // 5], ()), drive.wrench)
        ends.append(np.array(state[2]))
        world.close()
    one, other = ends
    assert np.linalg.norm(one[:3] - [0.0, 0.0, 20.0]) > 0.3
    np.testing.assert_allclose(one[:3], other[:3], rtol=0, atol=1e-9)
    assert abs(abs(one[3:7] @ other[3:7]) - 1.0) < 1e-9
