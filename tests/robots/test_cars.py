"""A car against geometry, in both engines, and the path that it follows."""

import math

import numpy as np
import pytest

from simtoreal.robots import rotation
from simtoreal.robots.cars import CarDrive
from simtoreal.robots.engines import make_world
from simtoreal.robots.paths import Path
from simtoreal.robots.tasks.racecar import RacecarPath

CHASSIS = RacecarPath.chassis


@pytest.fixture
def drive(engine):
    """Drives the racecar for some seconds under one command; heading, forward speed, yaw rate of the last second, and
    where it came to be."""
    worlds = []

    def go(angle, speed, seconds=4.0, values=None):
        world = make_world(engine, RacecarPath.robot, 0.005)
        worlds.append(world)
        car = CarDrive(CHASSIS, world.joints, 0.005)
        table = {p.name: p.nominal for p in (*world.parameters, *car.parameters)} | (values or {})
        world.apply(table)
        car.apply(table)
        car.start((0.0, 0.0))
        world.reset([0.0] * 6, [0.0] * 6, (0.0, 0.0, 0.001, 0.0, 0.0, 0.0, 1.0, *[0.0] * 6))
        state, command, rows = world.state(), (angle, speed), []
        for _ in range(round(seconds / 0.005)):
            state = world.step(car.torque(state, command, ()))
            base = state[2]
            heading = rotation.heading(base[3:7])
            rows.append((heading, rotation.level(base[7:10], heading)[0], base[12]))
        return np.mean(rows[-200:], axis=0), state[2][:3]

    yield go
    for world in worlds:
        world.close()


def test_straight_ahead_it_goes_as_fast_as_it_is_told(drive):
    (heading, speed, turning), place = drive(0.0, 1.5)
    assert speed == pytest.approx(1.5, rel=0.02)
    assert [heading, turning] == pytest.approx([0.0, 0.0], abs=0.05)
    assert place[0] > 4.5


def test_slowly_it_turns_as_a_bicycle_does(drive):
    """Yaw rate = v tan(angle) / wheelbase: 0.314 rad/s at 0.5 m/s; tyres that slip take some of it."""
    (_, speed, left), _ = drive(0.2, 0.5)
    (_, _, right), _ = drive(-0.2, 0.5)
    assert left == pytest.approx(speed * math.tan(0.2) / 0.325, rel=0.2)
    assert right == pytest.approx(-left, rel=0.1)


def test_a_linkage_that_is_off_pulls_to_its_side(drive):
    (_, _, off), _ = drive(0.0, 1.0, values={"steering.trim": 0.1})
    (_, _, same), _ = drive(0.1, 1.0)
    assert off == pytest.approx(same, rel=0.02)
    assert off > 0.15


def test_the_motor_accelerates_it_by_no_more_than_its_torque(drive):
    """1 N m on wheels of 5 cm: 20 N on 6.3 kg, and the inertia of the wheels, 4 x 4.1e-4 / 0.05^2 = 0.66 kg."""
    (_, speed, _), _ = drive(0.0, 2.0, seconds=0.3)
    mass = RacecarPath.robot.model.mass
    assert 0.3 < speed < 20.0 / (mass + 0.6) * 0.3


def test_both_front_wheels_roll_around_one_point():
    """On the line of the rear axle, wheelbase / tan(angle) from its middle."""
    left, right = CHASSIS.hinge_angles(0.35)
    centre = 0.325 / math.tan(0.35)
    assert math.tan(left) == pytest.approx(0.325 / (centre - 0.1))
    assert math.tan(right) == pytest.approx(0.325 / (centre + 0.1))
    assert CHASSIS.hinge_angles(0.0) == (0.0, 0.0)
    for angle in (-0.4, -0.1, 0.2, 0.4):
        assert CHASSIS.steering_angle(*CHASSIS.hinge_angles(angle)) == pytest.approx(angle, abs=0.01)


def test_a_path_of_one_wave_is_where_integration_says():
    """Against a fine Euler integration of its curvature."""
    path = Path([(0.4, 4.0, 0.7)], 10.0)
    x = y = heading = 0.0
    for k in range(70_000):
        middle = (k + 0.5) * 1e-4
        x, y = x + 1e-4 * math.cos(heading), y + 1e-4 * math.sin(heading)
        heading += 1e-4 * 0.4 * math.sin(2 * math.pi * middle / 4.0 + 0.7)
    assert path.place(7.0) == pytest.approx((x, y), abs=1e-3)
    assert path.heading(7.0) == pytest.approx(heading, abs=1e-6)
    assert path.curvature(0.0) == pytest.approx(0.4 * math.sin(0.7))
    assert (path.place(0.0), path.heading(0.0)) == ((0.0, 0.0), 0.0)


@pytest.mark.parametrize("left", [-0.3, 0.0, 0.2])
def test_the_nearest_point_of_a_path_is_found_from_near_it(left):
    path = Path([(0.25, 5.0, 0.3), (0.2, 3.0, 2.0)], 20.0)
    for s in (0.0, 3.33, 12.0):
        (x, y), heading = path.place(s), path.heading(s)
        beside = x - left * math.sin(heading), y + left * math.cos(heading)
        assert path.nearest(*beside, s + 0.15) == pytest.approx((s, left), abs=2e-3)
        assert path.nearest(*beside, s - 0.15) == pytest.approx((s, left), abs=2e-3)


def test_beyond_its_length_a_path_goes_straight_on():
    path = Path([(0.3, 4.0, 0.0)], 5.0)
    near, far = path.place(5.5), path.place(6.5)
    assert math.dist(near, far) == pytest.approx(1.0)
