"""The engine fields that follow from parameters, with a dictionary in place of the engine."""

import math

import numpy as np
import pytest

from simtoreal.robots import catalog
from simtoreal.robots.ballast import MovableMass
from simtoreal.robots.engine_fields import Fields, GroundFields, ballast, gravity_on_slope

ROBOT = catalog.a1()
TRUNK = {"trunk": MovableMass(ROBOT.model.inertial("trunk"), ROBOT.com_reach["trunk"])}
LINKS = {name: index for index, name in enumerate([*ROBOT.model.links, *ballast(ROBOT, TRUNK)], -1)}
JOINTS = {name: LINKS[ROBOT.model.joints[name].child] for name in ROBOT.drag}


@pytest.fixture
def fields():
    """Of an A1 each of whose links has 2 kg, and the trunk what its points leave of 4.713 kg."""
    masses = dict.fromkeys(ROBOT.model.links, 2.0) | {"trunk": TRUNK["trunk"].core.mass}
    masses |= dict.fromkeys(ballast(ROBOT, TRUNK), 0.0)
    return Fields(ROBOT, TRUNK, LINKS, JOINTS, {name: (mass, 1.0, (0.1, 0.2, 0.3)) for name, mass in masses.items()})


def test_what_is_written_is_read_back(fields):
    rng = np.random.default_rng(0)
    values = {p.name: float(rng.uniform(p.low, p.high)) for p in fields.parameters()}
    links = {index: [0.0, 1.0, (0.0, 0.0, 0.0)] for index in LINKS.values()}
    written = {}
    for what, link, numbers in fields.of(values):
        if what in ("mass", "massAndDamping"):
            links[link][0], links[link][2] = numbers[0], numbers[1:4]
        elif what == "lateralFriction":
            links[link][1] = numbers[0]
        assert written.setdefault((what, link), numbers) is numbers  # nothing is written twice
    ground = [*written["groundFriction", -1], *written["groundRestitution", -1]]
    ground += [*written["groundSpinning", -1], *written["groundRolling", -1]]
    held = fields.held(links, written["gravity", -1], GroundFields(*ground))
    silent = {name for name in values if name.startswith("joint.") or ".force." in name}  # PyBullet has no getter
    heights = [f"ground.{what}" for what in ("roughness", "step_height", "variant")]  # `test_terrain.py` asks by rays
    assert written["terrain", -1] == pytest.approx([*map(values.get, heights[:2]), int(values[heights[2]])])
    silent.update(heights)
    assert held.keys() == values.keys() - silent
    assert held == pytest.approx({name: values[name] for name in held}, abs=1e-12)


def test_a_joint_s_damping_goes_with_the_mass_of_its_link(fields):
    values = {p.name: p.nominal for p in fields.parameters()}
    values |= {"link.FR_lower.mass": 3.0, "joint.FR_lower_joint.damping": 0.5}
    written = {(what, link): numbers for what, link, numbers in fields.of(values)}
    assert written["massAndDamping", LINKS["FR_lower"]] == pytest.approx((3.0, 0.15, 0.3, 0.45, 0.5))
    assert written["mass", LINKS["FR_toe"]] == pytest.approx((2.0, 0.1, 0.2, 0.3))  # it is fixed to the lower leg
    assert not [what for what, _ in written if what == "jointDamping"]


def test_gravity_leans_as_the_ground_is_tilted():
    assert gravity_on_slope(0.0, 0.0) == pytest.approx((0.0, 0.0, -9.81))
    assert gravity_on_slope(math.radians(30), 0.0) == pytest.approx((-4.905, 0.0, -9.81 * math.sqrt(0.75)))
    assert gravity_on_slope(0.0, math.radians(30)) == pytest.approx((0.0, -4.905, -9.81 * math.sqrt(0.75)))
