"""A movable centre of mass against the definitions of mass, centre and inertia, and against a pendulum."""

import numpy as np
import pytest

from simtoreal.robots import catalog
from simtoreal.robots.ballast import MovableMass
from simtoreal.robots.model import Inertial, ModelError
from simtoreal.robots.pybullet_world import PyBulletWorld

TRUNK = MovableMass(catalog.a1().model.inertial("trunk"), catalog.a1().com_reach["trunk"])


def assembled(mass, shift):
    """Mass, centre of mass and inertia about the nominal centre of core and points together."""
    core, points, ratio = TRUNK.core, TRUNK.points(), mass / TRUNK.body.mass
    bodies = [(ratio * core.mass, np.array(core.com))]
    bodies += [(m, np.array(points[mark])) for mark, m in TRUNK.masses(mass, shift).items()]
    total = sum(m for m, _ in bodies)
    centre = sum(m * place for m, place in bodies) / total
    xx, yy, zz, xy, xz, yz = core.inertia
    tensor = ratio * np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    for m, place in bodies[1:]:
        r = place - np.array(TRUNK.body.com)
        tensor += m * (r @ r * np.eye(3) - np.outer(r, r))
    return total, centre, tensor


@pytest.mark.parametrize("mass", [4.713, 9.0])
@pytest.mark.parametrize("shift", [(0.0, 0.0, 0.0), (0.04, -0.015, 0.01), (-0.049, 0.0196, -0.0117)])
def test_core_and_points_are_the_body_with_its_centre_moved(mass, shift):
    total, centre, tensor = assembled(mass, shift)
    xx, yy, zz, xy, xz, yz = TRUNK.body.inertia
    whole = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    assert total == pytest.approx(mass, rel=1e-12)
    assert centre == pytest.approx(np.array(TRUNK.body.com) + shift, abs=1e-12)
    assert tensor == pytest.approx(mass / TRUNK.body.mass * whole, abs=1e-12)
    assert min(TRUNK.masses(mass, shift).values()) > 0.0
    assert TRUNK.shift(TRUNK.masses(mass, shift)) == pytest.approx(shift, abs=1e-15)


def test_a_reach_beyond_the_body_is_refused():
    with pytest.raises(ModelError, match="cannot move its centre of mass"):
        _ = MovableMass(Inertial(1.0, (0.0, 0.0, 0.0), (0.01, 0.01, 0.01, 0.0, 0.0, 0.0)), (0.2, 0.1, 0.1)).core


def test_the_file_s_inertial_is_read_in_the_link_s_axes():
    trunk = catalog.a1().model.inertial("trunk")
    assert trunk.mass == 4.713
    assert trunk.com == pytest.approx((0.012731, 0.002186, 0.000515))
    assert trunk.inertia[:3] == pytest.approx((0.016839930, 0.056579028, 0.064713601), abs=1e-8)


@pytest.fixture
def falling():
    """An A1 in free fall at 1 kHz, at nominal values overlaid with the given ones."""
    made = []

    def build(values, *, spin=(0.0, 0.0, 0.0)):
        world = PyBulletWorld(catalog.a1(), 0.001)
        made.append(world)
        world.apply({p.name: p.nominal for p in world.parameters} | values)
        stand = [0.0, 0.9, -1.8] * 4
        world.reset(stand, [0.0] * 12, (0.0, 0.0, 5.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, *spin))
        return world

    yield build
    for each in made:
        each.close()


def test_a_reset_puts_the_root_link_where_it_was_asked(falling):
    """The state speaks of the base's inertial frame, which lies at the trunk's centre of mass, in other axes."""
    world = falling({}, spin=(0.1, 0.2, 0.3))
    base = world.state()[2]
    assert base[:3] == pytest.approx([0.012731, 0.002186, 5.000515], abs=1e-7)
    assert base[10:] == pytest.approx([0.1, 0.2, 0.3], abs=1e-12)
    axes = np.array(world.base_axes).reshape(3, 3)
    assert axes @ axes.T == pytest.approx(np.eye(3), abs=1e-9)


@pytest.mark.parametrize(("ground", "foot"), [(0.5, 1.0), (1.0, 0.5), (0.8, 0.4)])
def test_a_sliding_robot_stops_as_its_feet_and_the_ground_say(ground, foot):
    """Friction is the product of both numbers, and what slides at v comes to rest within v / (mu g)."""
    world = PyBulletWorld(catalog.a1(), 0.001)
    try:
        values = {f"link.{toe}.friction": foot for toe in catalog.a1().feet} | {"ground.friction": ground}
        world.apply({p.name: p.nominal for p in world.parameters} | values)
        stand = [0.0, 0.9, -1.8] * 4

        def hold():
            q, qd, _ = world.state()
            world.step([100.0 * (s - x) - 2.0 * v for s, x, v in zip(stand, q, qd, strict=True)])

        world.reset(stand, [0.0] * 12, (0.0, 0.0, 0.262, 0.0, 0.0, 0.0, 1.0, *(0.0,) * 6))
        for _ in range(500):
            hold()
        world.push((1.0, 0.0, 0.0))
        start = world.state()[2][7]
        for _ in range(100):
            hold()
        slowed = start - world.state()[2][7]
        assert slowed == pytest.approx(ground * foot * 9.81 * 0.1, rel=0.2)
    finally:
        world.close()


def test_nominal_feet_leave_the_effective_friction_to_the_ground():
    world = PyBulletWorld(catalog.a1(), 0.002)
    try:
        nominal = {p.name: p.nominal for p in world.parameters}
        assert {nominal[f"link.{toe}.friction"] for toe in catalog.a1().feet} == {1.0}
        assert nominal["ground.friction"] == 0.8
    finally:
        world.close()
