"""What joints have to move: against PyBullet's own mass matrix, and by hand."""

from pathlib import Path

import numpy as np
import pybullet
import pytest

from simtoreal.robots.catalog import KUKA_JOINTS, cartpole, kuka, panda
from simtoreal.robots.dynamics import falling, holding, mass_matrix
from simtoreal.robots.model import RobotModel
from simtoreal.robots.pybullet_world import PyBulletWorld

FURUTA = RobotModel(Path(__file__).parents[1] / "simtoreal" / "assets" / "furuta.urdf")


def test_links_without_mass_count_for_nothing_whatever_inertia_they_claim():
    """The Panda's flange and grasp target have 0.1 kg m^2 each and no mass."""
    robot, q = panda(), [0.1, -0.5, 0.3, -1.9, 0.4, 1.5, 0.2]
    assert robot.model.inertial("panda_link8").inertia[0] == 0.1
    world = PyBulletWorld(robot, 0.001)
    theirs = pybullet.calculateMassMatrix(world._body, q, physicsClientId=world._client)
    joints = world.joints
    world.close()
    assert mass_matrix(robot.model, joints, q, robot.inertials) == pytest.approx(np.array(theirs), abs=1e-5)


def test_the_mass_matrix_is_pybullets():
    client = pybullet.connect(pybullet.DIRECT)
    flags = pybullet.URDF_USE_INERTIA_FROM_FILE
    try:
        body = pybullet.loadURDF(str(kuka().urdf), useFixedBase=True, flags=flags, physicsClientId=client)
        q = [0.3, -0.4, 0.5, -1.2, 0.2, 1.0, 0.1]
        theirs = pybullet.calculateMassMatrix(body, q, physicsClientId=client)
    finally:
        pybullet.disconnect(client)
    model = RobotModel(kuka().urdf)
    assert mass_matrix(model, KUKA_JOINTS, q) == pytest.approx(np.array(theirs), abs=1e-12)
    order = KUKA_JOINTS[::-1]
    assert mass_matrix(model, order, q[::-1]) == pytest.approx(np.array(theirs)[::-1, ::-1], abs=1e-12)


def test_gravity_pulls_a_pole_by_its_weight_and_lever():
    assert falling(FURUTA, ("turn", "swing"), (0.4, 0.0), 1) == pytest.approx(0.1 * 9.81 * 0.2, rel=1e-6)
    assert falling(FURUTA, ("turn", "swing"), (0.4, np.pi), 1) == pytest.approx(-0.1 * 9.81 * 0.2, rel=1e-6)
    assert falling(FURUTA, ("turn", "swing"), (0.4, 0.0), 0) == pytest.approx(0.0, abs=1e-6)


def test_what_holds_a_pole_on_a_cart_and_on_an_arm():
    """On a cart (M + m) g = 1.1 kg g; on an arm of 0.3 m (I + m r^2) g / r, I = 0.3 kg r^2 / 3 and the rod's own."""
    model, names = RobotModel(cartpole().urdf), ("slider", "hinge")
    assert holding(model, names, (0.2, 0.0), cartpole().inertials) == pytest.approx(1.1 * 9.81, rel=1e-3)
    arm = (0.3 * 0.09 / 3 + 0.1 * 0.09 + 0.00001) * 9.81 / 0.3
    assert holding(FURUTA, ("turn", "swing"), (0.0, 0.0)) == pytest.approx(arm, rel=1e-6)
