"""An object on a table against motions with an analytic answer, in both engines; and PandaPush."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from simtoreal.robots import catalog, rotation
from simtoreal.robots.kinematics import Plane
from simtoreal.robots.tasks.push import PandaPush, Push

G = 9.81  # [m/s^2]
AWAY = [0.0, -0.8, 0.0, -2.0, 0.0, 1.6, 0.785]  # [rad] the arm is nowhere near the table
TOOL, OBJECT = "panda_grasptarget", PandaPush.robot.object


def laid(x, y, heading=0.0, velocity=(0.0, 0.0), z=0.025, spin=(0.0, 0.0, 0.0)):
    turn = rotation.from_heading_and_lean(heading, 0.0, 0.0)
    return [x, y, z, *turn, *velocity, 0.0, *spin]


def left_alone(world, start, seconds):
    """The object's states of every step, the arm held away by its gravity compensation."""
    world.reset(AWAY, [0.0] * 7, start)
    found = []
    for _ in range(round(seconds / world.physics_dt)):
        found.append(world.step(world.gravity_torque(world.state()[0]))[2])
    return np.array(found)


@pytest.mark.parametrize("direction", [0.0, 0.7])
@pytest.mark.parametrize(("friction", "mass"), [(0.5, 0.2), (0.5, 0.6), (0.25, 0.06), (1.0, 0.2)])
def test_a_cube_slides_to_rest_after_v2_over_2_mu_g(world, friction, mass, direction):
    """Also along its diagonal, and whatever it weighs; it neither turns nor goes on."""
    w = world("panda with cube", {"object.friction": friction, "object.mass": mass}, physics_dt=0.0005)
    velocity = 0.5 * np.cos(direction), 0.5 * np.sin(direction)
    path = left_alone(w, laid(0.5, -0.1, velocity=velocity), 0.5 / (friction * G) + 0.1)
    way = path[-1][:2] - [0.5, -0.1]
    assert np.linalg.norm(way) == pytest.approx(0.25 / (2 * friction * G), rel=0.03)
    assert np.arctan2(way[1], way[0]) == pytest.approx(direction, abs=0.02)
    assert np.linalg.norm(path[-1][7:]) < 1e-3
    assert path[-1][2] == pytest.approx(0.025, abs=5e-4)
    assert rotation.heading(path[-1][3:7]) == pytest.approx(0.0, abs=0.02)


def test_an_object_in_the_air_falls_and_turns_freely(world):
    w = world("panda with cube")
    path = left_alone(w, laid(0.5, 0.0, velocity=(0.3, -0.1), z=1.0, spin=(0.0, 0.0, 2.0)), 0.3)
    assert path[-1][:3] == pytest.approx([0.59, -0.03, 1.0 - G * 0.3**2 / 2], abs=2e-3)
    assert path[-1][7:] == pytest.approx([0.3, -0.1, -G * 0.3, 0.0, 0.0, 2.0], abs=1e-6)
    assert rotation.heading(path[-1][3:7]) == pytest.approx(0.6, abs=1e-6)


def test_a_cube_tips_over_its_edge_at_the_speed_that_lifts_its_middle(world):
    """Turning about an edge of its bottom, I = 2/3 m a^2, the middle rises from a/2 to a/sqrt 2; that the inertia is a
    cube's decides it: energy m g a (sqrt 2 - 1) / 2 = I w^2 / 2."""
    a = 0.05
    enough = np.sqrt(3 * G * (np.sqrt(2) - 1) / (2 * a))  # [rad/s]
    w = world("panda with cube", {"object.friction": 2.0}, physics_dt=0.0005)
    for factor, falls in ((0.93, False), (1.07, True)):
        spin = factor * enough
        start = laid(0.5, 0.0, velocity=(spin * a / 2, 0.0), spin=(0.0, spin, 0.0))
        start[9] = spin * a / 2  # upwards: about the edge at x + a/2
        end = left_alone(w, start, 1.0)[-1]
        fallen = bool(abs(rotation.from_quaternion(end[3:7])[8]) < 0.5)  # its z is level now
        assert fallen is falls
        assert end[2] == pytest.approx(a / 2, abs=1e-3)


@pytest.mark.parametrize("factor", [0.3, 1.0, 3.0])
def test_inertia_is_a_filled_cube_s_and_follows_mass(world, factor):
    w = world("panda with cube", {"object.mass": factor * 0.2})
    assert w.inertia("object") == pytest.approx([factor * 0.2 * 0.05**2 / 6] * 3, rel=1e-9)
    assert w.read_back()["object.mass"] == factor * 0.2


def test_a_box_has_the_moments_of_a_box():
    box = catalog.Box((0.1, 0.2, 0.3), 1.0, 0.5)
    assert box.inertia(12.0) == pytest.approx((0.13, 0.10, 0.05))  # (b^2 + c^2) m / 12 and so on


def test_a_world_says_of_its_object_what_a_reset_puts_there(world):
    w = world("panda with cube")
    start = laid(0.45, 0.1, heading=0.4, velocity=(0.2, -0.3), z=0.4, spin=(0.5, -1.0, 2.0))
    w.reset(AWAY, [0.0] * 7, start)
    assert w.state()[2] == pytest.approx(start, abs=1e-6)
    pose = w.link_poses()["object"]
    assert [*pose.position, *pose.turn] == pytest.approx(start[:7], abs=1e-6)


def test_an_object_lying_on_the_table_is_no_contact_of_the_arm(world):
    w = world("panda with cube")
    left_alone(w, laid(0.5, 0.0), 0.1)
    assert not w.in_contact()


def test_an_object_wants_a_table():
    with pytest.raises(ValueError, match="racecar: an object lies on the table"):
        replace(catalog.racecar(), object=OBJECT)


@pytest.fixture
def push(engine):
    env = PandaPush(engine=engine)
    yield env
    env.close()


def put(env, thing, tool=(0.45, 0.0), velocity=(0.0, 0.0)):
    """Object and tool there, now."""
    env._plane.rest()
    q = env._plane.joints(tool)
    env.world.reset(q, [0.0] * 7, laid(*thing, velocity=velocity))
    env._state = env.world.state()
    env._ring.fill(env._state)
    env._command = list(tool)
    env._delay.fill(tool)
    env._observation = env._make_observation()


STILL = np.zeros(2, np.float32)


def test_motion_is_the_derivative_of_position_and_turn():
    chain, rng, h = PandaPush.robot.model.chain(TOOL, catalog.PANDA_JOINTS), np.random.default_rng(0), 1e-6
    for _ in range(3):
        q = rng.uniform(-1.0, 1.0, 7)
        position, turn, columns = chain.motion(q)
        assert position == pytest.approx(chain.position(q), abs=1e-12)
        for i, step in enumerate(h * np.eye(7)):
            there, back = chain.motion(q + step), chain.motion(q - step)
            assert columns[i][:3] == pytest.approx(np.subtract(there.position, back.position) / (2 * h), abs=1e-8)
            spin = np.reshape(np.subtract(there.turn, back.turn), (3, 3)) @ np.reshape(turn, (3, 3)).T / (2 * h)
            assert columns[i][3:] == pytest.approx([spin[2, 1], spin[0, 2], spin[1, 0]], abs=1e-8)


@pytest.mark.parametrize("task", [PandaPush])
def test_the_tool_can_be_sent_anywhere_in_its_rectangle(task):
    """From any corner to any other at once, as high and turned as at home, within the joints' limits."""
    arm = task.arm
    chain = task.robot.model.chain(arm.tool, arm.joints)
    plane = Plane(chain, arm.home, [arm.joints.index(joint) for joint in arm.held])
    home = chain.motion(arm.home)
    corners = list(itertools.product(*zip(arm.tool_low, arm.tool_high, strict=True)))
    for start, end in itertools.permutations(corners, 2):
        plane.rest()
        plane.joints(start)
        q = plane.joints(end)
        at, turn, _ = chain.motion(q)
        assert at == pytest.approx([*end, home.position[2]], abs=2e-6)
        assert turn == pytest.approx(home.turn, abs=2e-6)
        for joint, angle in zip(arm.joints, q, strict=True):
            low, high = task.robot.range(joint)
            assert low + 0.05 < angle < high - 0.05, joint
    down = home.turn[2::3]  # the tool's z
    assert down == pytest.approx((0.0, 0.0, -1.0), abs=1e-3)
    with pytest.raises(ValueError, match="the tool cannot be at 3, 0 m"):
        plane.joints((3.0, 0.0))


def test_a_plane_takes_six_joints():
    chain = PandaPush.robot.model.chain(TOOL, catalog.PANDA_JOINTS)
    with pytest.raises(ValueError, match="take six joints, got 7"):
        Plane(chain, PandaPush.arm.home)


def test_the_tool_goes_where_it_is_told(push):
    """A straight line of 16 cm at 0.2 m/s, 30 mm above the table, then to rest: 8 steps of half an action."""
    push.reset(seed=0)
    put(push, (0.6, 0.2), tool=(0.4, -0.1))
    for k in range(24):
        push.step(np.array([0.5, 0.5] if k < 16 else [0.0, 0.0], np.float32))
        x, y, z = push._tool.position(push.world.state()[0])
        assert z == pytest.approx(0.03, abs=0.006)
        assert y - x == pytest.approx(-0.5, abs=0.01)
    assert (x, y) == pytest.approx((0.56, 0.06), abs=0.002)


def test_it_pushes_the_same_way_in_both_engines():
    """Square, for 0.6 s at 0.2 m/s: the cube is carried along."""
    ends = []
    for engine in ("pybullet", "mujoco"):
        env = PandaPush(engine=engine)
        env.reset(seed=0)
        put(env, (0.5, 0.0), tool=(0.45, 0.0))
        for _ in range(12):
            *_, info = env.step(np.array([0.5, 0.0], np.float32))
            assert not info["violation"]
        ends.append(env.world.state()[2][:3])
        env.close()
    assert ends[0] == pytest.approx(ends[1], abs=3e-3)
    assert ends[0][0] == pytest.approx(0.45 + 0.12 + 0.036, abs=0.015)  # half a cube and half a finger before the tool


@pytest.mark.parametrize(
    ("away", "speed", "succeeds"), [(0.0, 0.0, True), (0.028, 0.0, True), (0.032, 0.0, False), (0.0, 0.03, False)]
)
def test_success_is_three_centimetres_at_rest_for_half_a_second(push, monkeypatch, away, speed, succeeds):
    push.reset(seed=0)
    put(push, (0.55, 0.1))
    push._goal = [0.55 + away, 0.1]
    if speed:
        moving = lambda state: Push.signals(push, state) | {"object_velocity": (speed, 0.0, 0.0)}  # noqa: E731
        monkeypatch.setattr(push, "signals", moving)
    won = [push.step(STILL)[4]["is_success"] for _ in range(12)]
    assert won == [False] * 9 + [succeeds] * 3


def test_episodes_begin_with_something_to_do(push):
    signals = []
    for seed in range(200):
        push.reset(seed=seed)
        signals.append(push.signals(push.world.state()))
    tool, thing, goal = (np.array([s[name] for s in signals]) for name in ("tool_place", "object_place", "goal"))
    assert np.linalg.norm(thing - goal, axis=1).min() >= 0.1 - 1e-6
    assert np.linalg.norm(thing - tool, axis=1).min() >= 0.08 - 1e-6
    for places in (tool, thing, goal):
        assert (places >= np.array([0.4, -0.2]) - 1e-6).all()
        assert (places <= np.array([0.6, 0.2]) + 1e-6).all()
        assert np.ptp(places, axis=0) == pytest.approx([0.2, 0.4], rel=0.05)


def test_the_policy_knows_the_object_by_its_sensors_alone(push):
    """A cube that slides at 0.4 m/s is seen where it was; a bias moves what is seen, nothing else."""
    where = push.observation_layout.slices
    late = {"sensor.object_place.latency": 0.04, "sensor.object_place.bias.x": 0.01, "object.friction": 0.05}
    push.reset(seed=0, options={"parameters": late})
    put(push, (0.5, 0.1), tool=(0.4, -0.15), velocity=(0.0, 0.4))
    push.step(STILL)
    obs = push.step(STILL)[0]
    thing = push.world.state()[2]
    x, y = thing[0] + 0.01, thing[1] - 0.04 * (thing[8] + 0.05 * G * 0.02)  # its mean speed in these 40 ms
    seen = obs[where["tool_place"]] + obs[where["object_from_tool"]]
    assert seen == pytest.approx([x, y], abs=1e-4)
    assert seen + obs[where["goal_from_object"]] == pytest.approx(push._goal, abs=1e-6)


def test_a_cube_s_heading_is_seen_up_to_quarter_turns(push):
    where, seen = push.observation_layout.slices["object_heading"], []
    push.reset(seed=0)
    for heading in (0.3, 0.3 + np.pi / 2, 0.3 - np.pi, 0.5):
        push.world.reset(list(push.arm.home), [0.0] * 7, laid(0.5, 0.1, heading=heading))
        push._ring.fill(push.world.state())
        seen.append(push._make_observation()[where])
    assert seen[0] == pytest.approx([np.sin(1.2), np.cos(1.2)], abs=1e-5)
    assert seen[1] == pytest.approx(seen[0], abs=1e-5)
    assert seen[2] == pytest.approx(seen[0], abs=1e-5)
    assert np.linalg.norm(seen[3] - seen[0]) > 0.5


def test_an_arm_that_sags_onto_the_table_is_a_violation(push):
    """A payload of 3 kg and weak gains: the tool sinks by more than the 2 cm that are under it."""
    push.reset(seed=0, options={"parameters": {"link.panda_hand.payload": 3.0, "actuator.kp": 0.4}})
    put(push, (0.6, 0.2), tool=(0.5, -0.1))
    assert [push.step(STILL)[4]["violation"] for _ in range(20)][-1]
    push.reset(seed=0)
    assert not any(push.step(STILL)[4]["violation"] for _ in range(20))


def test_a_relabelled_push_is_the_one_that_the_other_goal_would_have_given(push):
    rng = np.random.default_rng(3)

    def episode(goal):
        obs, _ = push.reset(seed=5)
        put(push, (0.5, 0.05), tool=(0.45, 0.04))
        push._goal = list(push._goal) if goal is None else goal.tolist()
        push._observation = obs = push._make_observation()
        rows, signals = {"obs": [], "action": [], "reward": [], "next_obs": []}, []
        for action in actions:
            following, reward, *_, info = push.step(action)
            for name, value in zip(rows, (obs, action, reward, following), strict=True):
                rows[name].append(value)
            signals.append(info["reward_signals"])
            obs = following
        return {name: np.array(values) for name, values in rows.items()}, signals

    actions = rng.uniform([-0.2, -0.5], [1.0, 0.5], (15, 2)).astype(np.float32)
    rows, signals = episode(None)
    assert np.linalg.norm(np.subtract(signals[-1]["object_place"], signals[0]["object_place"])) > 0.01
    derived = PandaPush.augment(rows, signals, rng)
    tool, thing, gap = (
        PandaPush.observation_layout.slices[name] for name in ("tool_place", "object_from_tool", "goal_from_object")
    )
    goals = (derived["obs"][:, gap] + derived["obs"][:, tool] + derived["obs"][:, thing]).astype(float)
    for step in (0, 7, 14):
        again, _ = episode(goals[step])
        for name in ("obs", "next_obs"):
            np.testing.assert_allclose(derived[name][step], again[name][step], atol=2e-7)
        np.testing.assert_allclose(derived["reward"][step], again["reward"][step], atol=1e-5)


def test_object_and_goal_are_seen_in_a_frame(engine):
    env = PandaPush(engine=engine, render_mode="rgb_array")
    env.reset(seed=0)
    put(env, (0.5, 0.15), tool=(0.45, -0.15))
    env._goal = [0.55, 0.0]
    red, green, blue = np.moveaxis(env.render().astype(int), -1, 0)
    env.close()
    assert 50 < ((green > red + 40) & (green > blue + 40)).sum() < 3000
    assert 100 < ((red > green + 40) & (green > blue + 20)).sum() < 5000
