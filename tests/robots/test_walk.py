"""The walk's judge on hand-made gaits, its mirror, its IMU and its torque limit."""

import math
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest

from simtoreal.robots.disturbances import Pushes
from simtoreal.robots.gait import WalkLimits, WalkScorer
from simtoreal.robots.mirror import make_mirror
from simtoreal.robots.tasks.walk import A1Walk

DT = 0.02


def tread(k, lag, *, frequency=2.5, height=0.05, duty=0.5):
    """Contact and clearance at step k of a foot that stands in the first `duty` of each period, `lag` periods ahead."""
    phase = (k * DT * frequency + lag) % 1.0
    return (1.0, 0.0) if phase < duty else (0.0, height * math.sin(math.pi * (phase - duty) / (1.0 - duty)))


def gait(k, *, speed=0.5, turn=0.2, slip=0.05, power=60.0, change=0.5, odd=None, **feet):
    """Signals of step k of a trot: feet 0 and 3 stand first, 1 and 2 half a period later; all tread as `feet` says, but
    for foot 2 as `odd` says."""
    age = ((k - 1) % 250 + 1) * DT
    treads = [tread(k, lag, **(odd if odd and foot == 2 else feet)) for foot, lag in enumerate((0.0, 0.5, 0.5, 0.0))]
    contact, clearance = zip(*treads, strict=True)
    return {
        "velocity_command": (0.5,),
        "yaw_rate_command": (0.2,),
        "command_age": (age,),
        "base_velocity": (speed, 0.0, 0.0),
        "base_angular_velocity": (0.0, 0.0, turn),
        "foot_contact": contact,
        "foot_clearance": clearance,
        "foot_slip": [slip * c for c in contact],
        "power": (power,),
        "action_change": (change,),
    }


def judge(steps=500, **changed):
    scorer = WalkScorer(WalkLimits(), 4, 12, DT, 5.0)
    seen = [scorer.see(gait(k, **changed)) for k in range(1, steps + 1)]
    return seen, sorted({text.partition(": ")[2] for text in scorer.unmet})


def test_a_trot_on_command_is_a_success_once_a_command_has_ended():
    seen, failures = judge()
    assert failures == []
    assert seen == [False] * 249 + [True] * 251


@pytest.mark.parametrize(
    ("changed", "failure"),
    [
        ({"speed": 0.61}, "velocity"),
        ({"turn": 0.04}, "yaw_rate"),
        ({"power": 151.0}, "power"),
        ({"change": 12 * 0.36**2}, "action_change"),
        ({"slip": 0.21}, "slip"),
        ({"frequency": 4.5}, "touchdowns"),
        ({"frequency": 1.2}, "touchdowns"),
        ({"height": 0.014}, "swing_height"),
        ({"duty": 0.82}, "duty"),
    ],
)
def test_each_fault_of_a_gait_is_named(changed, failure):
    seen, failures = judge(**changed)
    assert failure in failures
    assert not any(seen)


@pytest.mark.parametrize(
    ("odd", "failures"),
    [
        ({"duty": 0.85}, ["duty"]),  # hardly lifted
        ({"duty": 1.0}, ["duty", "swing_height", "touchdowns"]),  # never lifted
        ({"duty": 0.0}, ["swing_height", "touchdowns"]),  # carried
        ({"height": 0.005}, ["swing_height"]),  # dragged
        ({"frequency": 5.0}, ["touchdowns"]),
        ({"frequency": 1.0}, ["touchdowns"]),
    ],
)
def test_one_bad_foot_of_four_is_named(odd, failures):
    seen, found = judge(odd=odd)
    assert found == failures
    assert not any(seen)


def test_figures_of_a_known_gait():
    """From 1 s on, 4 s of a 2.5 Hz trot of 5 cm: 10 touchdowns a foot, half the time on the ground."""
    scorer = WalkScorer(WalkLimits(), 4, 12, DT, 5.0)
    for k in range(1, 250):
        scorer.see(gait(k))
    found = scorer.figures()
    assert found["touchdowns"] == pytest.approx([2.5] * 4, abs=0.26)
    assert found["duty"] == pytest.approx([0.5] * 4, abs=0.03)
    assert found["swing_height"] == pytest.approx([0.05] * 4, rel=0.02)
    assert found["action_change"] == pytest.approx([math.sqrt(0.5 / 12)])
    assert found["slip"] == pytest.approx([0.05])  # of a foot while it stands, however many do


def test_a_foot_that_alone_slips_counts_by_its_share_of_the_standing():
    """One foot stands all the time and slides at 0.3 m/s, the three others half of it and do not: 0.3 / 2.5 m/s."""
    scorer = WalkScorer(WalkLimits(), 4, 12, DT, 5.0)
    for k in range(1, 250):
        scorer.see(gait(k, odd={"duty": 1.0}) | {"foot_slip": [0.0, 0.0, 0.3, 0.0]})
    assert scorer.figures()["slip"] == pytest.approx([0.12], rel=0.02)


def test_the_first_second_of_a_command_is_not_judged():
    scorer = WalkScorer(WalkLimits(), 4, 12, DT, 5.0)
    for k in range(1, 501):
        last = scorer.see(gait(k, speed=9.0 if (k - 1) % 250 < 50 else 0.5))
    assert last


def test_one_command_not_followed_fails_the_episode():
    scorer = WalkScorer(WalkLimits(), 4, 12, DT, 5.0)
    for k in range(1, 501):
        last = scorer.see(gait(k, speed=0.5 if k > 250 else 0.0))
    assert not last
    scorer.start()
    for k in range(1, 251):
        last = scorer.see(gait(k))
    assert last


@pytest.fixture
def walk():
    made = []

    def build(task="A1Walk", **options):
        made.append(gym.make(f"simtoreal/{task}-v0", disable_env_checker=True, **options).unwrapped)
        return made[-1]

    yield build
    for env in made:
        env.close()


@pytest.mark.parametrize("task", ["A1Walk", "AliengoWalk"])
def test_the_mirror_image_of_a_motion_is_the_motion_of_the_mirrored_robot(walk, task):
    """Seen from behind a mirror, a robot with mirrored parameters, start and actions does what the other one does."""
    env, twin = walk(task, privileged=True), walk(task, privileged=True)
    seen, true, act = env._mirrors
    values = {
        "link.FR_lower.mass": 0.25, "link.trunk.com.y": 0.01, "ground.slope.roll": 0.1,
        "sensor.joint_position.bias.RL_hip_joint": 0.05, "sensor.gyro.bias.x": 0.1, "sensor.imu.tilt.roll": 0.05,
    }  # fmt: skip
    mirrored = {
        "link.FL_lower.mass": 0.25, "link.trunk.com.y": -0.01, "ground.slope.roll": -0.1,
        "sensor.joint_position.bias.RR_hip_joint": -0.05, "sensor.gyro.bias.x": -0.1, "sensor.imu.tilt.roll": -0.05,
    }  # fmt: skip
    a, _ = env.reset(seed=4, options={"parameters": values})
    twin.reset(seed=4, options={"parameters": mirrored})
    # the trunk's own centre of mass and inertia are not quite symmetric: both robots get it from the same file
    q, qd, _ = env.world.state()
    order, sign = act
    start = (0.0, 0.0, env.legs.height, 0.0, 0.0, 0.0, 1.0, *(0.0,) * 6)
    env.world.reset(q, qd, start)
    twin.world.reset((np.array(q)[order] * sign).tolist(), qd, start)
    for each in (env, twin):
        each._state = each.world.state()
        each._ring.fill(each._state)
        each._signals = each.signals(each._state)
    twin._phase = env._phase + math.pi
    twin._commands = [(v, -w) for v, w in env._commands]
    rng = np.random.default_rng(0)
    for _ in range(5):
        action = rng.uniform(-0.3, 0.3, 12).astype(np.float32)
        a, reward, *_ = env.step(action)
        b, image, *_ = twin.step(action[order] * sign)
    assert b["policy"] == pytest.approx(a["policy"][seen[0]] * seen[1], abs=0.05)
    assert b["privileged"] == pytest.approx(a["privileged"][true[0]] * true[1], abs=0.05)
    assert image == pytest.approx(reward, abs=0.05)
    moved = a["policy"][seen[0]] * seen[1] - a["policy"]
    assert np.abs(moved).max() > 0.3  # and it is not its own mirror image


@pytest.mark.parametrize(
    ("yaw", "forward"), [(0.0, (1.0, 0.0)), (math.pi / 2, (0.0, 1.0)), (math.pi, (-1.0, 0.0)), (-0.6, None)]
)
def test_velocities_are_in_the_robots_own_axes(yaw, forward, walk):
    """Turned to the left by a quarter, what moves along the world's y moves forward."""
    env = walk()
    env.reset(seed=0)
    x, y = forward or (math.cos(yaw), math.sin(yaw))
    turn = (0.0, 0.0, math.sin(yaw / 2), math.cos(yaw / 2))
    linear = (0.5 * x - 0.1 * y, 0.5 * y + 0.1 * x, 0.02)  # 0.5 m/s forward, 0.1 to the left
    angular = (0.3 * x - 0.4 * y, 0.3 * y + 0.4 * x, 0.2)
    q, qd, _ = env.world.state()
    env.world.reset(q, qd, (0.0, 0.0, 0.262, *turn, *linear, *angular))
    signals = env.signals(env.world.state())
    assert signals["base_velocity"] == pytest.approx([0.5, 0.1, 0.02], abs=1e-5)
    assert signals["base_angular_velocity"] == pytest.approx([0.3, 0.4, 0.2], abs=1e-5)


@pytest.mark.parametrize("privileged", [True, "state"])
def test_mirroring_twice_changes_nothing(walk, privileged, monkeypatch):
    monkeypatch.setattr("simtoreal.robots.tasks.walk.RELABELLED", 0.0)
    env = walk(privileged=privileged)
    env.reset(seed=0)
    signals = [env.step(np.zeros(12, np.float32))[-1]["reward_signals"]] * 3
    rng = np.random.default_rng(0)
    true = env.privileged_layout.size
    sizes = {"obs": 46, "next_obs": 46, "action": 12, "privileged": true, "next_privileged": true, "reward": 0}
    rows = {name: rng.standard_normal((3, n) if n else 3).astype(np.float32) for name, n in sizes.items()}
    once = env.augment(rows, signals, rng)
    twice = env.augment(once, signals, rng)
    for name, value in rows.items():
        assert (twice[name] == value).all()
        assert name == "reward" or not (once[name] == value).all()


def test_a_name_without_an_image_is_refused():
    with pytest.raises(ValueError, match="FL_knee is the mirror image"):
        make_mirror(["q.FR_knee"], {"FR_knee": "FL_knee", "FL_knee": "FR_knee"}, [])


@pytest.mark.parametrize(
    ("tilt", "gravity"),
    [((0.1, 0.0), (0.0, -math.sin(0.1), -math.cos(0.1))), ((0.0, 0.1), (math.sin(0.1), 0.0, -math.cos(0.1)))],
)
def test_a_tilted_imu_reads_gravity_and_rotation_in_its_own_axes(walk, tilt, gravity):
    """A sensor rolled by 0.1 rad sees the vertical turned back by it: R_x(-0.1) (0, 0, -1) = (0, -sin, -cos)."""
    env = walk()
    roll, pitch = tilt
    env.reset(seed=0, options={"parameters": {"sensor.imu.tilt.roll": roll, "sensor.imu.tilt.pitch": pitch}})
    reader = env._readers["imu"]
    base = [0.0, 0.0, 0.3, *env.world._base_turn, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0]  # the link upright, turning to the left
    state = ([], [], base)
    env._ring.fill(state)
    assert reader.ideal(state) == pytest.approx([0, 0, -1, 0, 0, 2], abs=1e-6)
    seen = reader.read(env._ring, 0)
    assert seen[:3] == pytest.approx(gravity, abs=1e-6)
    assert seen[3:] == pytest.approx([-2.0 * x for x in gravity], abs=1e-6)


def test_a_relabelled_step_is_the_one_that_the_other_command_would_have_given(walk):
    """Commands move no physics, so the same actions under the other command go through the same states."""
    rng = np.random.default_rng(3)
    actions = rng.uniform(-0.3, 0.3, (41, 12)).astype(np.float32)

    def play(goal):
        env = walk()
        seen = [env.reset(seed=5, options={"goal": goal})[0]]
        for action in actions:
            obs, reward, *_, info = env.step(action)
            seen.append(obs)
        row = {"obs": seen[-2][None], "next_obs": seen[-1][None], "action": actions[-1:], "reward": np.array([reward])}
        return row | {"terminated": np.zeros(1)}, info["reward_signals"]

    row, signals = play({"velocity_command": [0.3], "yaw_rate_command": [-0.4]})
    found = A1Walk.relabel(row, [signals], rng)
    forward, turn = found["obs"][0, -2:].tolist()
    assert (forward, turn) != pytest.approx((0.3, -0.4), abs=0.01)
    other, _ = play({"velocity_command": [forward], "yaw_rate_command": [turn]})
    for name in row:
        np.testing.assert_allclose(found[name], other[name], atol=1e-6, err_msg=name)
    assert found["reward"][0] != pytest.approx(row["reward"][0], abs=1e-3)


def test_relabelled_commands_stay_in_their_range_and_a_change_of_command_stays_as_it_was(walk):
    env = walk()
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    obs, rows, signals = env._observation, [], []
    for _ in range(260):
        action = np.zeros(12, np.float32)
        after, reward, _, _, info = env.step(action)
        rows.append((obs, action, reward, after))
        signals.append(info["reward_signals"])
        obs = after
    parts = [np.array(part) for part in zip(*rows, strict=True)]
    batch = dict(zip(("obs", "action", "reward", "next_obs"), parts, strict=True)) | {"terminated": np.zeros(260)}
    found = A1Walk.relabel(batch, signals, rng)
    changed = (batch["obs"][:, -2:] != batch["next_obs"][:, -2:]).any(axis=1)
    assert changed.sum() == 1
    for name in batch:
        assert (found[name][changed] == batch[name][changed]).all()
    commands = found["obs"][~changed, -2:]
    assert (commands == found["next_obs"][~changed, -2:]).all()
    assert (commands.min(axis=0) >= np.float32([0.2, -0.6])).all()
    assert (commands.max(axis=0) <= np.float32([0.8, 0.6])).all()
    assert commands.std(axis=0) == pytest.approx([0.19, 0.28], rel=0.4)
    assert (found["obs"][:, :-2] == batch["obs"][:, :-2]).all()
    stacked = batch | {name: np.tile(batch[name], 3) for name in ("obs", "next_obs")}
    again = A1Walk.relabel(stacked, signals, np.random.default_rng(0))
    np.testing.assert_array_equal(again["reward"], found["reward"])
    np.testing.assert_array_equal(again["next_obs"], np.tile(found["next_obs"], 3))


def test_half_of_the_mirrored_steps_are_under_another_command_which_the_critics_see_too(walk):
    env = walk(privileged="state")
    seen, rows, signals = env.reset(seed=0)[0], [], []
    for _ in range(200):
        action = np.zeros(12, np.float32)
        after, reward, _, _, info = env.step(action)
        rows.append((seen["policy"], action, reward, after["policy"], seen["privileged"], after["privileged"], False))
        signals.append(info["reward_signals"])
        seen = after
    names = ("obs", "action", "reward", "next_obs", "privileged", "next_privileged", "terminated")
    batch = dict(zip(names, (np.array(part) for part in zip(*rows, strict=True)), strict=True))
    found = env.augment(batch, signals, np.random.default_rng(0))
    true = [env.privileged_layout.slices[f"true_{name}"].start for name in ("velocity_command", "yaw_rate_command")]
    for policy, critics in (("obs", "privileged"), ("next_obs", "next_privileged")):
        np.testing.assert_array_equal(found[policy][:, -2:], found[critics][:, true])
    kept = (found["obs"][:, -2:] == batch["obs"][:, -2:] * [1, -1]).all(axis=1)
    assert 0.4 < kept.mean() < 0.6
    np.testing.assert_allclose(found["reward"][kept], batch["reward"][kept])
    assert np.mean(found["reward"][~kept] != batch["reward"][~kept]) > 0.9


@pytest.mark.parametrize("latency", [0.0, 0.003, 0.01, 0.0166, 0.02, 0.0999, 0.1])
def test_the_base_is_read_where_the_imu_needs_it(walk, latency):
    """Nothing differs from a robot whose base is read in every substep."""
    env, every = walk(), walk()
    for each in (env, every):
        each.reset(seed=0, options={"parameters": {"sensor.imu.latency": latency}})
    every._kept = [(True, True)] * 10
    rng = np.random.default_rng(0)
    for _ in range(15):
        action = rng.uniform(-0.5, 0.5, 12).astype(np.float32)
        assert (env.step(action)[0] == every.step(action)[0]).all()


def test_an_imu_that_becomes_later_goes_on_reading(walk):
    """Until then the base was read at the end of control steps alone; 33 ms ago is between the last two but one."""
    env = walk()
    env.reset(seed=0)
    for _ in range(10):
        env.step(np.full(12, 0.3, np.float32))
    env.set_parameters({"sensor.imu.latency": 0.033})
    ring, reader = env._ring, env._readers["imu"]
    newer, older = (reader.ideal(ring._states[-1 - age]) for age in (10, 20))
    assert newer != older
    assert reader.read(ring, 10) == pytest.approx(0.35 * np.array(newer) + 0.65 * np.array(older), abs=1e-3)


def test_the_gyro_has_its_bias_and_the_gravity_none(walk):
    env = walk()
    env.reset(seed=0, options={"parameters": {"sensor.gyro.bias.y": 0.25}})
    ideal = env._readers["imu"].ideal(env.world.state())
    assert env._readers["imu"].read(env._ring, 0) == pytest.approx([*ideal[:4], ideal[4] + 0.25, ideal[5]])


def test_the_torque_limit_is_a_share_of_the_drive_s(walk):
    env = walk()
    for share in (1.0, 0.4):
        env.reset(seed=0, options={"parameters": {"actuator.torque_limit": share}})
        torque = env.drive.torque(([9.0] * 12, [0.0] * 12), env._command, ())
        assert torque == [-33.5 * share] * 12


def test_pushes_come_in_time_and_in_every_direction():
    pushes = Pushes(DT)
    pushes.apply({"push.speed": 0.7, "push.interval": 1.0})
    angles = []
    for seed in range(40):
        pushes.start(seed)
        blows = {k: blow for k in range(151) if (blow := pushes.due(k))}
        assert list(blows) == [50, 100, 150]
        for x, y, z in blows.values():
            assert (math.hypot(x, y), z) == (pytest.approx(0.7), 0.0)
            angles.append(math.atan2(y, x))
    counts, _ = np.histogram(angles, bins=4, range=(-math.pi, math.pi))
    assert counts.min() > 15
    pushes.apply({"push.speed": 0.0, "push.interval": 1.0})
    assert pushes.due(50) is None


@pytest.mark.parametrize("policy", ["zero", "random", "hold"])
def test_whoever_does_not_walk_does_not_succeed(walk, policy):
    env = walk()
    rng = np.random.default_rng(0)
    for seed in range(3):
        env.reset(seed=seed)
        held = rng.uniform(-0.2, 0.2, 12).astype(np.float32)
        ended = False
        while not ended:
            random = rng.uniform(-1, 1, 12).astype(np.float32)
            action = {"zero": np.zeros(12, np.float32), "random": random, "hold": held}[policy]
            _, _, terminated, truncated, info = env.step(action)
            ended = terminated or truncated
        assert info["is_success"] is False


def test_commands_change_after_five_seconds_and_lie_in_their_ranges(walk):
    env = walk()
    given = set()
    for seed in range(4):
        obs, _ = env.reset(seed=seed)
        for k in range(1, 301):
            command = tuple(obs[44:46].tolist())
            assert 0.2 <= command[0] <= 0.8
            assert -0.6 <= command[1] <= 0.6
            obs, _, terminated, _, info = env.step(np.zeros(12, np.float32))
            answered = (info["reward_signals"]["velocity_command"][0], info["reward_signals"]["yaw_rate_command"][0])
            assert command == pytest.approx(answered, abs=1e-6)
            assert info["reward_signals"]["command_age"][0] == pytest.approx(((k - 1) % 250 + 1) * DT)
            given.add(command)
            assert not terminated
    assert len(given) == 8


def test_limits_are_those_of_the_issue():
    limits = A1Walk.walk_limits
    assert (limits.velocity, limits.yaw_rate, limits.settle) == (0.1, 0.15, 1.0)
    assert (limits.touchdowns, limits.swing_height, limits.duty) == ((1.5, 4.0), 0.015, 0.8)
    assert replace(limits) == WalkLimits()


def test_a_joint_that_the_file_leaves_endless_has_the_range_of_the_robots_description(walk):
    env = walk("AliengoWalk")
    thighs = [i for i, joint in enumerate(env.commanded_joints) if "upper" in joint]
    assert [env.limits["position_high"][i] for i in thighs] == [math.pi] * 4
    assert np.abs(env.command_layout.low[thighs]) == pytest.approx(math.pi)
    assert env.limits["position_low"][0] == pytest.approx(-1.2217304764)  # the file's own


def test_a_foot_lands_as_fast_as_the_robot_falls():
    """Thrown up at 1.5 m/s it comes down at as much; of the step in which it meets the ground that is the mean or more
    than half of it."""
    env = gym.make("simtoreal/A1Walk-v0").unwrapped
    env.reset(seed=0)
    for _ in range(25):
        before = env.step(np.zeros(12, np.float32))[-1]["reward_signals"]["foot_landing"]
    assert before == [0.0] * 4  # it has stood since it landed
    env.push((0.0, 0.0, 1.5))
    landed = []
    for _ in range(30):
        info = env.step(np.zeros(12, np.float32))[-1]
        found = info["reward_signals"]["foot_landing"]
        assert info["reward_terms"]["landing"] == pytest.approx(-5.0 * sum(min(v, 2.0) ** 2 for v in found) / 4)
        landed += [v for v in found if v]
    env.close()
    assert len(landed) >= 4
    assert 0.7 < max(landed[:4]) < 1.7


def test_a_foot_earns_by_its_height_as_far_as_the_clock_wants_it():
    signals = {
        name: (0.0,) * size for name, size in (("base_velocity", 3), ("base_angular_velocity", 3), ("gravity", 3))
    }
    signals |= {name: (0.0,) for name in ("velocity_command", "yaw_rate_command", "action_change", "power")}
    signals |= {name: (0.0,) * 4 for name in ("foot_contact", "foot_slip", "foot_landing")}

    def lift(height, clock):
        return A1Walk.reward_terms(
            {**signals, "foot_clearance": (height, 0.0, 0.0, 0.0), "gait_clock": (clock, 0.0)}, [0.0] * 12
        )["lift"]

    up = [1.0 - 1.0 / (1.0 + math.exp(-8.0 * clock)) for clock in (-1.0, -0.5)]  # of FR, which stands first
    assert lift(0.09, -1.0) == pytest.approx(4.5 / 4 * up[0])
    assert lift(0.02, -1.0) == pytest.approx(4.5 / 4 * up[0] * 0.4)
    assert lift(0.02, -0.5) == pytest.approx(4.5 / 4 * up[1] * 0.25)
    assert lift(0.01, -0.5) == pytest.approx(4.5 / 4 * up[1] * 0.2)
