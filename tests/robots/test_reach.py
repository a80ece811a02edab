"""PandaReach: its goals, its success, its violations, and the payload by statics."""

import functools
import itertools

import numpy as np
import pybullet as bullet
import pytest
from scipy.optimize import least_squares

from simtoreal.robots import catalog
from simtoreal.robots.actuators import PDDrive
from simtoreal.robots.tasks.reach import KukaReach, PandaReach, XArmReach

G = 9.81  # [m/s^2]
NEUTRAL = [0.1, -0.4, 0.2, -2.0, 0.1, 1.6, 0.5]  # [rad]


@pytest.fixture
def reach():
    env = PandaReach()
    yield env
    env.close()


def test_a_payload_is_held_by_the_torques_of_its_weight(world, bullet_world):
    """Virtual work: p g dz/dq of the tool point, at rest against the springs of a drive that does not know of it."""
    p = 3.0
    w = world("panda", {"link.panda_hand.payload": p}, physics_dt=0.002)
    kp, kd = PandaReach.gains["kp"], PandaReach.gains["kd"]
    effort = [catalog.panda().model.joints[joint].effort for joint in w.joints]
    drive = PDDrive(kp, kd, effort)
    w.reset(NEUTRAL, [0.0] * 7)
    for _ in range(1500):
        state = w.state()
        w.step(drive.torque(state, NEUTRAL, w.gravity_torque(state[0])))
    q, qd = w.state()
    assert np.abs(qd).max() < 1e-4
    other = bullet_world("panda")
    index = other._link_index["panda_hand"]
    height = lambda q: _payload_height(other, index, q)  # noqa: E731
    weight = [p * G * (height(q + h) - height(q - h)) / 2e-4 for h in 1e-4 * np.eye(7)]
    spring = np.multiply(kp, np.subtract(NEUTRAL, q))
    assert spring == pytest.approx(weight, abs=0.05)
    assert np.abs(weight).max() > 5.0


def _payload_height(w, hand, q):
    for index, angle in zip(w._joint_indices, q, strict=True):
        bullet.resetJointState(w._body, index, angle, 0.0, w._client)
    state = bullet.getLinkState(w._body, hand, computeForwardKinematics=True, physicsClientId=w._client)
    return bullet.multiplyTransforms(state[4], state[5], [0.0, 0.0, 0.105], [0.0, 0.0, 0.0, 1.0])[0][2]


def test_the_tool_is_where_pybullet_has_it(reach, rollout):
    obs = rollout(reach, 0, 30)[-1]
    w = reach.world
    index = next(
        i for i in range(bullet.getNumJoints(w._body, w._client))
        if bullet.getJointInfo(w._body, i, w._client)[12] == b"panda_grasptarget"
    )  # fmt: skip
    state = bullet.getLinkState(w._body, index, computeForwardKinematics=True, physicsClientId=w._client)
    assert obs[reach.observation_layout.slices["tool_position"]] == pytest.approx(state[4], abs=1e-5)


@pytest.mark.parametrize(
    "task",
    [PandaReach, pytest.param(KukaReach, marks=pytest.mark.soak), pytest.param(XArmReach, marks=pytest.mark.soak)],
)
def test_every_corner_of_the_goals_is_in_reach_and_home_is_no_goal(task):
    """Within the joints' limits, by scipy's least squares from several starts."""
    arm, model = task.arm, task.robot.model
    chain = model.chain(arm.tool, arm.joints)
    bounds = [model.joints[joint].lower for joint in arm.joints], [model.joints[joint].upper for joint in arm.joints]
    rng = np.random.default_rng(0)
    for corner in itertools.product(*zip(arm.goal_low, arm.goal_high, strict=True)):
        starts = [arm.home, *(rng.uniform(*np.multiply(bounds, 0.9)) for _ in range(20))]
        away = functools.partial(lambda corner, q: np.subtract(chain.position(q), corner), corner)
        assert min(np.linalg.norm(least_squares(away, start, bounds=bounds).fun) for start in starts) < 1e-3, corner
    home = chain.position(arm.home)
    assert any(not low <= x <= high for x, low, high in zip(home, arm.goal_low, arm.goal_high, strict=True))


def test_goals_fill_their_box(reach):
    where = reach.observation_layout.slices
    goals = []
    for seed in range(300):
        obs, _ = reach.reset(seed=seed)
        goals.append(obs[where["tool_position"]] + obs[where["goal_from_tool"]])
    low, high = np.array([0.3, -0.35, 0.1]), np.array([0.65, 0.35, 0.6])
    unit = (np.array(goals) - low) / (high - low)
    assert (unit > -1e-5).all()
    assert (unit < 1 + 1e-5).all()
    assert unit.mean(0) == pytest.approx(0.5, abs=4 / np.sqrt(12 * 300))
    assert unit.std(0) == pytest.approx(1 / np.sqrt(12), rel=0.1)
    assert np.abs(np.corrcoef(unit.T) - np.eye(3)).max() < 0.25


@pytest.mark.parametrize(("away", "succeeds"), [(0.0, True), (0.017, True), (0.025, False)])
def test_success_is_two_centimetres_for_a_quarter_second(reach, away, succeeds):
    reach.reset(seed=0)
    tool = reach.signals(reach.world.state())["tool_position"]
    reach._goal = [tool[0], tool[1], tool[2] + away]
    won = [reach.step(np.zeros(7, np.float32))[4]["is_success"] for _ in range(8)]
    assert won == [False] * 4 + [succeeds] * 4


def test_leaving_the_goal_ends_the_success(reach):
    reach.reset(seed=0)
    reach._goal = list(reach.signals(reach.world.state())["tool_position"])
    for _ in range(6):
        info = reach.step(np.zeros(7, np.float32))[4]
    assert info["is_success"]
    for _ in range(10):
        info = reach.step(np.ones(7, np.float32))[4]
    assert not info["is_success"]
    distance = np.subtract(info["reward_signals"]["tool_position"], reach._goal)
    assert np.linalg.norm(distance) > 0.02


def test_pressing_on_the_table_is_a_violation_and_leaks_nothing(reach, rollout):
    reference = rollout(reach, 3, 30)
    violations = []

    def shoulder_forward(env):
        violations.append(env.violates())
        return np.array([0, 1, 0, 0, 0, 0, 0], np.float32)

    rollout(reach, 4, 50, policy=shoulder_forward)
    assert not violations[5]
    assert violations[-1]
    assert reach.world.in_contact()
    assert (rollout(reach, 3, 30) == reference).all()


def test_too_fast_a_joint_is_a_violation(reach):
    reach.reset(seed=0)
    assert not reach.step(np.zeros(7, np.float32))[4]["violation"]
    q, _ = reach.world.state()
    reach._state = q, [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.7]  # the seventh joint may do 2.61 rad/s
    assert reach.violates()


def test_a_biased_encoder_deceives_the_drive_and_the_policy_alike(reach):
    """Holding still, the arm feels nothing of it; only the reading is off."""
    reach.reset(seed=0)
    plain = reach.world.state()[0]
    bias = {f"sensor.joint_position.bias.{joint}": 0.04 for joint in catalog.PANDA_JOINTS}
    obs, _ = reach.reset(seed=0, options={"parameters": bias})
    assert obs[:7] == pytest.approx(np.add(plain, 0.04), abs=1e-6)
    for _ in range(10):
        obs = reach.step(np.zeros(7, np.float32))[0]
    assert reach.world.state()[0] == pytest.approx(plain, abs=1e-3)
    assert obs[:7] == pytest.approx(np.add(plain, 0.04), abs=1e-3)


def test_torques_stay_within_the_maker_s_limits(reach, monkeypatch):
    seen = []
    write = reach.world.calls.write

    def noted(forces):
        seen.append(list(forces))
        write(forces=forces)

    monkeypatch.setattr(reach.world, "calls", reach.world.calls._replace(write=noted))
    rng = np.random.default_rng(0)
    reach.reset(seed=0)
    reach._command = None
    for _ in range(20):
        reach._simulate(rng.uniform(-2.5, 2.5, 7).tolist())
    assert np.abs(seen).max(0) == pytest.approx([87, 87, 87, 87, 12, 12, 12])  # franka_description


def test_the_goal_is_seen_in_a_frame():
    env = PandaReach(render_mode="rgb_array")
    env.reset(seed=0)
    image = env.render().astype(int)
    env.close()
    green = (image[..., 1] > image[..., 0] + 40) & (image[..., 1] > image[..., 2] + 40)
    assert 20 < green.sum() < 5000
