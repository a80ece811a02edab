"""Tasks of floating robots without legs: what they promise beyond test_tasks.py."""

import math

import gymnasium as gym
import numpy as np
import pytest

from simtoreal.robots import catalog
from simtoreal.robots.engines import make_world
from simtoreal.robots.scoring import MeanScorer
from simtoreal.robots.tasks.quadrotor import QuadrotorHover, QuadrotorTrajectory
from simtoreal.robots.tasks.racecar import RacecarPath

FLIGHTS = (QuadrotorHover, QuadrotorTrajectory)


@pytest.fixture(params=(*FLIGHTS, RacecarPath))
def task(request):
    env = request.param()
    yield env
    env.close()


def autopilot(env, obs):
    """A textbook cascade, from the observation alone: position to acceleration, tilt to body rates."""
    part = {name: obs[where].astype(float) for name, where in env.observation_layout.slices.items()}
    goal = part["goal_from_base"]
    soon, later, _ = np.reshape(part.get("goal_ahead", np.tile(goal, 3)), (3, 3))  # in 0.2, 0.4, 0.6 s
    velocity, acceleration = (4.0 * soon - later - 3.0 * goal) / 0.4, (later - 2.0 * soon + goal) / 0.04
    wanted = 6.0 * goal + 4.0 * (velocity - part["velocity"]) + acceleration + np.array([0.0, 0.0, 9.81])
    up = -part["gravity"]  # of the level frame, in the body's axes
    x, y, z = wanted
    pitch_axis = np.array([up[2], 0.0, -up[0]])  # of the level frame's x, about, in the body's axes
    aim = x * pitch_axis + y * np.array([0.0, up[2], -up[1]]) + z * up
    aim = aim / np.linalg.norm(aim)
    roll, pitch = -8.0 * aim[1], 8.0 * aim[0]
    heading = math.atan2(*part["heading"])
    command = np.array([0.028 * np.linalg.norm(wanted), roll, pitch, -2.0 * heading])
    return env.command_layout.action(command, obs, env.observation_layout)


def follower(env, obs):
    """Steers by the curvature ahead and by what is off; goes as fast as it is told."""
    part = {name: obs[where].astype(float) for name, where in env.observation_layout.slices.items()}
    bend = part["curvature_ahead"][1] - 2.0 * part["cross_track_error"][0] - 1.5 * part["heading_error"][0]
    command = np.array([math.atan(1.1 * 0.325 * bend), part["speed_command"][0]])
    return env.command_layout.action(command, obs, env.observation_layout)


@pytest.mark.parametrize("name", ["QuadrotorHover", "QuadrotorTrajectory", "RacecarPath"])
def test_a_textbook_controller_succeeds_by_the_observation_alone(name, engine):
    env = gym.make(f"simtoreal/{name}-v0", engine=engine, disable_env_checker=True).unwrapped
    control = follower if name == "RacecarPath" else autopilot
    for seed in range(3):
        obs, _ = env.reset(seed=seed)
        ended = False
        while not ended:
            obs, _, terminated, truncated, info = env.step(control(env, obs))
            ended = terminated or truncated
        assert info["is_success"], (seed, info["unmet"], env._scorer.means())
    env.close()


def test_twice_in_a_mirror_it_is_as_it_was(task):
    rng = np.random.default_rng(0)
    n = task.observation_layout.size
    rows = {"obs": rng.normal(size=(4, n)), "action": rng.normal(size=(4, task.command_layout.size))}
    once = task.mirror_image(rows)
    twice = task.mirror_image(once)
    for name, row in rows.items():
        np.testing.assert_allclose(twice[name], row)
        assert (once[name] != row).any()


@pytest.mark.parametrize("flight", FLIGHTS)
def test_a_mirrored_flight_is_the_flight_of_the_mirrored_start(flight):
    """Start, goal and actions are mirrored by hand at the ground's x-z plane, all observations by `mirror_image`."""
    env, twin = flight(), flight()
    seen, actions = [], np.random.default_rng(1).uniform(-0.3, 0.3, (20, 4))
    for one, side in ((env, 1.0), (twin, -1.0)):
        begin, goal_at = one.start, one.goal_at

        def goal(time, goal_at=goal_at, side=side):
            (x, y, z), (u, v, w) = goal_at(time)
            return (x, side * y, z), (u, side * v, w)

        def start(rng, one=one, begin=begin, goal=goal, side=side):
            drawn = begin(rng)  # of which the goal is part, not yet mirrored
            one.goal_at = goal
            x, y, z, i, j, k, w, a, b, c, d, e, f = drawn.base
            base = (x, side * y, z, side * i, j, side * k, w, a, side * b, c, side * d, e, side * f)
            return type(drawn)(drawn.position, drawn.velocity, drawn.command, base)

        one.start = start
        obs, _ = one.reset(seed=3)
        seen.append([obs])
        for action in actions * [1.0, side, 1.0, side]:
            seen[-1].append(one.step(action)[0])
    plain, other = map(np.array, seen)
    expected = env.mirror_image({"obs": plain, "action": np.zeros((21, 4))})["obs"]
    np.testing.assert_allclose(other, expected, atol=2e-4)
    env.close()
    twin.close()


@pytest.mark.parametrize("flight", FLIGHTS)
def test_a_flight_towards_another_goal_is_the_flight_that_it_would_have_been(flight):
    """The same commands under a goal that is elsewhere, flown again: observations and reward of that are those of
    `augment`, which is asked until it shows none in a mirror."""
    env = flight(privileged="state")
    rng, actions = np.random.default_rng(2), np.random.default_rng(1).uniform(-0.3, 0.3, (12, 4)).astype(np.float32)

    def fly():
        before, _ = env.reset(seed=3)
        for action in actions[:-1]:
            before, *_ = env.step(action)
        after, reward, *_, info = env.step(actions[-1])
        rows = {"obs": before["policy"], "next_obs": after["policy"], "privileged": before["privileged"]}
        rows |= {"next_privileged": after["privileged"], "action": actions[-1]}
        arrays = {name: value[None].astype(float) for name, value in rows.items()}
        return arrays | {"reward": np.array([reward]), "terminated": np.array([False])}, info["reward_signals"]

    rows, signals = fly()
    other = rows
    while not np.allclose(other["obs"][0, -3:], rows["obs"][0, -3:]) or other is rows:
        other = env.augment(rows, [signals], rng)
    heading = math.atan2(*rows["obs"][0, env.observation_layout.slices["heading"]])
    x, y, z = (other["obs"] - rows["obs"])[0, :3]
    c, s = math.cos(heading), math.sin(heading)
    shift = (c * x - s * y, s * x + c * y, z)
    goal_at = env.goal_at
    env.goal_at = lambda time: ([g + d for g, d in zip(goal_at(time)[0], shift, strict=True)], goal_at(time)[1])
    if flight is QuadrotorTrajectory:
        begin = env.begin
        env.begin = lambda rng: [p - d for p, d in zip(begin(rng), shift, strict=True)]  # it starts where it did
    flown, _ = fly()
    assert np.linalg.norm(shift) > 0.02
    for name, row in flown.items():
        np.testing.assert_allclose(other[name], row, atol=2e-5, err_msg=name)
    stays = env.augment(rows | {"terminated": np.array([True])}, [signals], rng)
    assert stays["reward"] == pytest.approx(rows["reward"])
    env.close()


def test_a_flying_robot_has_nothing_of_the_ground():
    env = QuadrotorHover()
    assert not [name for name in env.parameters if "ground" in name or name.endswith(".friction")]
    env.close()


def test_the_room_is_left_by_falling_flying_off_and_turning_over():
    signals = {"position": (0.0, 0.0, 1.0), "goal": (0.0, 0.0, 1.0), "gravity": (0.0, 0.0, -1.0)}
    assert not QuadrotorHover.fails(signals)
    assert QuadrotorHover.fails(signals | {"position": (0.0, 0.0, 0.05)})
    assert QuadrotorHover.fails(signals | {"goal": (4.1, 0.0, 1.0)})
    assert QuadrotorHover.fails(signals | {"gravity": (0.0, 0.9, 0.1)})


def test_the_goal_of_a_trajectory_moves_as_fast_as_it_says():
    env = QuadrotorTrajectory()
    env.reset(seed=0)
    for t in (0.0, 1.3, 7.0):
        before, after = (np.array(env.goal_at(t + h)[0]) for h in (-1e-4, 1e-4))
        assert env.goal_at(t)[1] == pytest.approx((after - before) / 2e-4, abs=1e-5)
    env.close()


def test_another_figure_goes_on_from_where_the_goal_is():
    env = QuadrotorTrajectory()
    env.reset(seed=0, options={"goal": {"amplitude": [0.9, 0.8, 0.2], "frequency": [0.1, 0.2, 0.15]}})
    assert env.goal == {"amplitude": [0.9, 0.8, 0.2], "frequency": [0.1, 0.2, 0.15]}
    assert math.dist(env.goal_at(0.0)[0], env.world.state()[2][:3]) < 0.2 * math.sqrt(3) + 1e-6
    for _ in range(70):
        env.step(np.zeros(4, np.float32))
    before, moving = env.goal_at(1.4)
    env.set_goal({"amplitude": [1.0, 1.0, 0.3], "frequency": [0.2, 0.1, 0.25]})
    after, now = env.goal_at(1.4)
    assert after == pytest.approx(before, abs=1e-12)
    assert (np.sign(now) == np.sign(moving)).all()
    times = np.linspace(0.0, 20.0, 4_001)
    ways = np.array([env.goal_at(t)[0] for t in times]) - QuadrotorTrajectory.middle
    assert ways.max(axis=0) == pytest.approx([1.0, 1.0, 0.3], abs=1e-3)
    assert ((np.diff(np.sign(ways), axis=0) != 0).sum(axis=0) == np.array([8, 4, 10])).all()
    env.close()


def test_means_are_judged_after_the_settling():
    scorer = MeanScorer(lambda signals: {"error": signals["x"][0]}, {"error": 0.5}, settle=2)
    said = [scorer.see({"x": (x,)}) for x in (9.0, 9.0, 0.4, 0.6, 0.8)]
    assert said == [False, False, True, True, False]  # of 0.4, of their mean 0.5, of 0.6
    assert scorer.unmet == ["error"]
    assert scorer.means() == {"error": pytest.approx(0.6)}
    scorer.start()
    assert not scorer.see({"x": (0.0,)})


@pytest.mark.parametrize("engine", ["pybullet", "mujoco"])
@pytest.mark.parametrize("place", [(0.5, -0.3, 0.9), (-0.7, 0.2, 1.7)])
def test_a_film_keeps_what_flies_in_its_middle(engine, place):
    world = make_world(engine, catalog.crazyflie(), 0.004, rendering=True)
    world.reset((), (), (*place, 0.0, 0.0, 0.0, 1.0, *(0.0,) * 6))
    red, green, blue = np.moveaxis(world.render(QuadrotorHover.camera).astype(int), 2, 0)
    world.close()
    rows, columns = np.nonzero((red > 100) & (green < 0.5 * red) & (blue < 0.5 * red))  # two of its rotors
    assert rows.size > 20
    assert abs(rows.mean() / red.shape[0] - 0.5) < 0.05
    assert abs(columns.mean() / red.shape[1] - 0.5) < 0.05
