"""What an engine bears of viscous damping, and what it does beyond."""

from __future__ import annotations

import pybullet
import pytest
from pybullet_utils.bullet_client import BulletClient

from simtoreal.robots.dynamics import mass_matrix
from simtoreal.robots.stability import hardest
from simtoreal.robots.tasks.cartpole import CartPoleSwingUp
from simtoreal.robots.tasks.quadrotor import QuadrotorHover
from simtoreal.robots.tasks.walk import A1Walk

DT = CartPoleSwingUp.physics_dt


def hinge_inertia():
    """Of the pole about its hinge [kg m^2], the cart held: the mass matrix's own element."""
    model = CartPoleSwingUp.robot.model
    return mass_matrix(model, ("slider", "hinge"), (0.0, 0.0), CartPoleSwingUp.robot.inertials)[1, 1]


@pytest.mark.parametrize("share", [0.5, 1.0, 1.5, 2.5])
def test_bullet_makes_new_velocities_by_the_formula(share):
    bullet = BulletClient(pybullet.DIRECT)
    bullet.setTimeStep(DT)
    robot = bullet.loadURDF(str(CartPoleSwingUp.robot.urdf), useFixedBase=True, flags=bullet.URDF_USE_INERTIA_FROM_FILE)
    slider, hinge = range(bullet.getNumJoints(robot))
    inertia = hinge_inertia()
    for joint in (slider, hinge):
        bullet.setJointMotorControl2(robot, joint, bullet.VELOCITY_CONTROL, force=0.0)
        bullet.changeDynamics(robot, joint, linearDamping=0.0, angularDamping=0.0, jointDamping=0.0)
    bullet.changeDynamics(robot, slider, mass=1e9, localInertiaDiagonal=(1e9, 1e9, 1e9))
    bullet.changeDynamics(robot, hinge, jointDamping=share * inertia / DT)
    bullet.resetJointState(robot, hinge, 0.0, 0.01)
    speeds = [0.01]
    for _ in range(4):
        bullet.stepSimulation()
        speeds.append(bullet.getJointState(robot, hinge)[1])
    bullet.disconnect()
    expected = [0.01 * (1.0 - share) ** k for k in range(5)]
    assert speeds == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_what_is_hardest_by_hand():
    task = CartPoleSwingUp()
    found = hardest(task, {"joint.slider.damping": (0.0, 3.0), "link.cart.mass": (0.5, 1.5)})
    cart, pole = task.parameters["link.cart.mass"].nominal, task.parameters["link.pole.mass"].nominal
    task.close()
    # a thin pole of mass m, free to turn, adds m / 4 to the cart it hangs from: m - (m l / 2)^2 / (m l^2 / 3)
    moved = cart * 0.5 / cart + pole / 4
    assert found.joint == "slider"
    assert found.share == pytest.approx(3.0 * DT / moved, rel=0.02)
    assert found.most == pytest.approx(moved / DT, rel=0.02)


def test_lighter_links_bear_less():
    task = A1Walk()
    damping = {"joint.RR_lower_joint.damping": (0.0, 0.5)}
    heavy = hardest(task, damping)
    light = hardest(task, damping | {"link.RR_lower.mass": (0.5 * task.parameters["link.RR_lower.mass"].nominal, 1.0)})
    task.close()
    assert heavy.joint == light.joint == "RR_lower_joint"
    assert light.share > 1.3 * heavy.share


def test_without_joints_there_is_nothing_to_bear():
    task = QuadrotorHover()
    assert hardest(task, {}) is None
    task.close()
