"""PyBulletWorld against motions with an analytic answer, and against PyBullet's own numbers."""

import numpy as np
import pybullet as bullet
import pytest

from simtoreal.robots import catalog
from simtoreal.robots.catalog import Drag, Robot
from simtoreal.robots.model import ModelError
from simtoreal.robots.mujoco_world import MuJoCoWorld
from simtoreal.robots.pybullet_world import PyBulletWorld

G = 9.81  # [m/s^2]


def advance(world, seconds, torque=None):
    for _ in range(round(seconds / world.physics_dt)):
        world.step(torque or [0.0] * len(world.joints))
    return world.state()


def period(world, start=0.02):
    """Of a small swing about hanging [s]: twice the time between its first two passages through the middle."""
    world.reset([np.pi + start], [0.0])
    passages, previous = [], start
    for k in range(1, 5000):
        world.step([0.0])
        now = world.state()[0][0] - np.pi
        if now * previous < 0.0:
            passages.append((k - 1 + previous / (previous - now)) * world.physics_dt)
        if len(passages) == 3:
            return passages[2] - passages[0]
        previous = now
    raise AssertionError("the pendulum does not swing")


def test_a_cart_with_its_pole_locked_is_one_mass(world):
    w = world("cart with locked pole", {"joint.slider.damping": 0.0})
    w.reset([0.0], [0.0])
    assert advance(w, 0.1, [10.0])[1][0] == pytest.approx(10.0 / 1.1 * 0.1, rel=1e-6)  # F t / (M + m)


def test_a_hanging_pole_holds_a_quarter_of_its_mass_back(world):
    """(M + m) x'' + m L/2 theta'' = F and m L^2/3 theta'' + m L/2 x'' = 0: x'' = F / (M + m/4), theta'' = -3 x'' / 2L.
    The box of 4 cm by 1 m is a rod to 0.2 %."""
    w = world("cartpole", {"joint.slider.damping": 0.0, "joint.hinge.damping": 0.0})
    w.reset([0.0, np.pi], [0.0, 0.0])
    x, spin = advance(w, 0.001, [10.0, 0.0])[1]
    assert x / 0.001 == pytest.approx(10.0 / 1.025, rel=1e-4)
    assert abs(spin) / 0.001 == pytest.approx(1.5 * 10.0 / 1.025, rel=1e-3)


def test_a_rod_swings_as_a_rod(world):
    w = world("pendulum", {"joint.hinge.damping": 0.0})
    assert period(w) == pytest.approx(2 * np.pi * np.sqrt(2 / (3 * G)), rel=1e-3)  # L = 1 m


def test_inertia_follows_mass_in_a_measured_motion(world):
    """A denser rod has the same period; had the inertia stayed or vanished, it would be 1.49 s or 1.42 s."""
    w = world("pendulum", {"joint.hinge.damping": 0.0, "link.pole.mass": 0.3})
    assert period(w) == pytest.approx(2 * np.pi * np.sqrt(2 / (3 * G)), rel=1e-3)


@pytest.mark.parametrize("shift", [0.09, -0.09])
def test_a_rod_whose_ballast_moved_swings_about_its_centre(world, shift):
    """m L^2/12 about the nominal centre, whatever is moved from one end to the other."""
    w = world("pendulum", {"joint.hinge.damping": 0.0, "link.pole.com.z": shift})
    assert not any(p.name == "link.pole.com.y" for p in w.parameters), "along the hinge nothing moves"
    assert period(w) == pytest.approx(2 * np.pi * np.sqrt((1 / 3 + shift) / (G * (0.5 + shift))), rel=1e-3)
    assert w.read_back()["link.pole.com.z"] == pytest.approx(shift, rel=1e-9)


@pytest.mark.parametrize("shift", [0.1, -0.1])
def test_a_rod_whose_centre_of_mass_is_elsewhere_swings_about_it(world, shift):
    """m L^2/12 about the centre, which is L/2 + d below the hinge; PyBullet has no setter for it."""
    w = world("pendulum without ballast", {"joint.hinge.damping": 0.0})
    if isinstance(w, PyBulletWorld):
        assert not any(".com." in p.name for p in w.parameters)
        return
    assert not any(p.name == "link.pole.com.y" for p in w.parameters), "along the hinge nothing moves"
    w = world("pendulum without ballast", {"joint.hinge.damping": 0.0, "link.pole.com.z": shift})
    arm = 0.5 + shift
    assert period(w) == pytest.approx(2 * np.pi * np.sqrt((1 / 12 + arm**2) / (G * arm)), rel=1e-3)


def test_a_payload_on_a_rod_is_a_point_mass_at_its_place(world):
    m, p = 0.1, 0.2
    w = world("pendulum", {"joint.hinge.damping": 0.0, "link.pole.payload": p})
    assert period(w) == pytest.approx(2 * np.pi * np.sqrt((m / 3 + p) / (G * (m / 2 + p))), rel=1e-3)


@pytest.mark.parametrize("factor", [0.3, 0.7, 1.0, 3.0])
def test_inertia_follows_mass_in_the_engine(bullet_world, factor):
    w = bullet_world("panda")
    before = {name: w.inertia(name) for name in catalog.PANDA_INERTIALS}
    w.apply({p.name: factor * p.nominal if p.name.endswith(".mass") else p.nominal for p in w.parameters})
    for name, inertia in before.items():
        index = next(
            i
            for i in range(bullet.getNumJoints(w._body, w._client))
            if bullet.getJointInfo(w._body, i, w._client)[12].decode() == name
        )
        info = bullet.getDynamicsInfo(w._body, index, w._client)
        assert info[0] == pytest.approx(factor * catalog.PANDA_INERTIALS[name].mass, rel=1e-9)
        assert info[2] == pytest.approx([factor * i for i in inertia], rel=1e-9)


def test_nominal_inertias_are_those_of_the_catalog(world):
    w = world("panda")
    for name, body in catalog.PANDA_INERTIALS.items():
        xx, yy, zz, xy, xz, yz = body.inertia
        principal = np.linalg.eigvalsh([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
        assert sorted(w.inertia(name)) == pytest.approx(principal, rel=1e-4), name
        assert principal[2] <= principal[0] + principal[1], name  # else it is no body's


def test_writing_one_link_changes_no_other(bullet_world):
    w = bullet_world("panda")
    indices = range(-1, bullet.getNumJoints(w._body, w._client))
    before = {i: bullet.getDynamicsInfo(w._body, i, w._client) for i in indices}
    nominal = {p.name: p.nominal for p in w.parameters}
    w.apply(nominal | {"link.panda_link4.mass": 5.0, "link.panda_link4.friction": 1.7})
    after = {i: bullet.getDynamicsInfo(w._body, i, w._client) for i in indices}
    assert [i for i in indices if before[i] != after[i]] == [w._link_index["panda_link4"]]
    assert w.read_back() == nominal | {"link.panda_link4.mass": 5.0, "link.panda_link4.friction": 1.7}


@pytest.mark.parametrize("damping", [0.0, 0.5, 2.0])
def test_joint_damping_is_an_exponential_decay(world, damping):
    """At 0 it also says that Bullet's default damping of 0.04 is off."""
    w = world("cart with locked pole", {"joint.slider.damping": damping})
    w.reset([-1.0], [1.0])
    assert advance(w, 0.5)[1][0] == pytest.approx(np.exp(-damping * 0.5 / 1.1), rel=2e-3 if damping else 1e-12)


@pytest.mark.parametrize("friction", [0.5, 2.0])
def test_joint_friction_is_a_constant_deceleration_then_rest(world, friction):
    w = world("cart with locked pole", {"joint.slider.damping": 0.0, "joint.slider.friction": friction})
    w.reset([-1.0], [1.0])
    assert advance(w, 0.2)[1][0] == pytest.approx(1.0 - friction / 1.1 * 0.2, rel=1e-3)
    assert advance(w, 3.0)[1][0] == pytest.approx(0.0, abs=1e-9)
    assert advance(w, 0.5, [0.9 * friction])[1][0] == pytest.approx(0.0, abs=1e-9)  # it sticks
    assert advance(w, 0.5, [friction + 1.1])[1][0] == pytest.approx(0.5, rel=1e-2)  # the rest accelerates: 1 m/s^2


@pytest.mark.parametrize("robot", ["block", "block on the diagonal"])
@pytest.mark.parametrize("friction", [0.0, 0.3, 0.8])
def test_link_friction_is_the_pair_s_coefficient_in_every_direction(world, robot, friction):
    """Only the block's 2 of 3 kg press on the table: it slows by 2/3 mu g; a friction pyramid would take 1.41 of it."""
    w = world(robot, {"link.block.friction": friction})
    w.reset([0.0, 0.0], [0.0, 0.0])
    advance(w, 0.1)
    assert w.in_contact()
    height = w.state()[0][1]
    w.reset([0.0, height], [1.0, 0.0])
    start = advance(w, 0.02)[1][0]
    assert start - advance(w, 0.1)[1][0] == pytest.approx(
        2 / 3 * friction * G * 0.1, rel=0.02, abs=1e-5
    )  # MuJoCo's least


def test_contact_is_with_the_table_only(world):
    w = world("block")
    w.reset([0.0, 0.5], [0.0, 0.0])
    w.step([0.0, 0.0])
    assert not w.in_contact()


def test_a_reload_keeps_gravity_and_time_step(bullet_world):
    """`resetSimulation` drops the former."""
    w = bullet_world("block")
    before = bullet.getPhysicsEngineParameters(w._client)
    assert before["gravityAccelerationZ"] == -9.81
    assert before["fixedTimeStep"] == 0.001
    w.reload()
    assert bullet.getPhysicsEngineParameters(w._client) == before


def test_gravity_compensation_is_the_gradient_of_potential_energy(world):
    """Heights of the centres of mass come from another client's forward kinematics, differences from the definition."""
    w = world("panda")
    client = bullet.connect(bullet.DIRECT)
    text = catalog.panda().model.resolved(lock=catalog.panda().locked, inertials=catalog.PANDA_INERTIALS, visuals=False)
    try:
        body = load(text, client)
        links = range(bullet.getNumJoints(body, client))
        moving = [i for i in links if bullet.getJointInfo(body, i, client)[2] != bullet.JOINT_FIXED]
        masses = [bullet.getDynamicsInfo(body, i, client)[0] for i in links]

        def potential(q):
            for i, angle in zip(moving, q, strict=True):
                bullet.resetJointState(body, i, angle, 0.0, client)
            states = bullet.getLinkStates(body, links, computeForwardKinematics=1, physicsClientId=client)
            return G * sum(m * s[0][2] for m, s in zip(masses, states, strict=True))

        rng = np.random.default_rng(0)
        for _ in range(5):
            q = rng.uniform(-1.5, 1.5, 7)
            steps = 1e-4 * np.eye(7)
            gradient = [(potential(q + h) - potential(q - h)) / 2e-4 for h in steps]
            assert w.gravity_torque(q.tolist()) == pytest.approx(gradient, abs=2e-3)
    finally:
        bullet.disconnect(client)


def load(text, client):
    import tempfile

    with tempfile.NamedTemporaryFile("w", suffix=".urdf") as file:
        file.write(text)
        file.flush()
        return bullet.loadURDF(
            file.name, useFixedBase=True, flags=bullet.URDF_USE_INERTIA_FROM_FILE, physicsClientId=client
        )


def test_gravity_compensation_stays_that_of_the_nominal_robot(world):
    """The real robot's controller does not know of its payload either; PyBullet's own is stale after a mass change."""
    q = [0.1, -0.4, 0.2, -2.0, 0.1, 1.6, 0.5]
    w = world("panda")
    nominal = list(w.gravity_torque(q))
    w.apply({p.name: p.high for p in w.parameters})
    assert list(w.gravity_torque(q)) == nominal
    for _ in range(3):
        w.step([0.0] * 7)
    assert list(w.gravity_torque(q)) == nominal
    w.reload()
    assert list(w.gravity_torque(q)) == nominal


def test_the_nominal_panda_floats_on_its_gravity_compensation(world):
    w = world("panda", physics_dt=0.002)
    q = [0.1, -0.4, 0.2, -2.0, 0.1, 1.6, 0.5]
    w.reset(q, [0.0] * 7)
    for _ in range(100):
        w.step(w.gravity_torque(w.state()[0]))
    assert w.state()[0] == pytest.approx(q, abs=1e-6)


def test_a_reset_leaves_no_force_behind(bullet_world):
    w = bullet_world("slider")
    bullet.applyExternalForce(w._body, 0, [100, 0, 0], [0, 0, 0], bullet.WORLD_FRAME, w._client)
    w.reset([0.0], [0.0])
    assert advance(w, 0.01) == ([0.0], [0.0])


def test_apply_writes_the_same_state_whatever_was_before(world):
    w = world("block", {"link.block.mass": 5.0, "joint.along.friction": 9.0, "joint.up.damping": 3.0})
    w.apply({p.name: p.nominal for p in w.parameters})
    fresh = world("block")
    for each in (w, fresh):
        each.reset([0.0, 0.3], [1.0, 0.0])
    assert advance(w, 0.5) == advance(fresh, 0.5)


def test_reload_is_as_new(world):
    w, fresh = world("block"), world("block")
    w.reset([np.nan, np.nan], [np.nan, np.nan])
    w.step([0.0, 0.0])
    w.reload()
    w.apply({p.name: p.nominal for p in w.parameters})
    for each in (w, fresh):
        each.reset([0.0, 0.05], [1.0, 0.0])
    assert advance(w, 0.5) == advance(fresh, 0.5)


def test_what_an_engine_cannot_set_is_absent(world):
    panda = world("panda")
    names = [p.name for p in panda.parameters]
    for what in ("armature", ".com."):
        assert any(what in name for name in names) == isinstance(panda, MuJoCoWorld)


def test_loading_says_nothing_on_stdout(capfd, world):
    world("panda")
    assert capfd.readouterr().out == ""


def test_an_inertia_of_no_real_body_is_refused(tmp_path):
    bad = tmp_path / "bad.urdf"
    bad.write_text(
        '<robot name="bad"><link name="base"/><link name="arm"><inertial><mass value="1"/>'
        '<inertia ixx="1" ixy="0" ixz="0" iyy="0.1" iyz="0" izz="0.1"/></inertial></link>'
        '<joint name="j" type="revolute"><parent link="base"/><child link="arm"/><axis xyz="0 0 1"/>'
        '<limit effort="1" lower="-1" upper="1" velocity="1"/></joint></robot>'
    )
    with pytest.raises(ModelError, match="link arm"):
        PyBulletWorld(Robot("bad", bad, {"j": Drag(0, 1, 0, 1)}), 0.01)


def test_a_window_without_a_display_is_one_line(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(ValueError, match="needs a display"):
        PyBulletWorld(catalog.cartpole(), 0.004, gui=True)
