"""What may be changed in mid-episode beside the parameters: goals and pushes; and what lies beyond the time limit."""

import gymnasium as gym
import numpy as np
import pytest


@pytest.fixture
def env(request, engine):
    name = request.param if request.param in gym.registry else f"simtoreal/{request.param}-v0"
    made = gym.make(name, disable_env_checker=True, engine=engine).unwrapped
    yield made
    made.close()


def still(env):
    return np.zeros(env.action_space.shape, np.float32)


@pytest.mark.parametrize("env", ["PandaReach"], indirect=True)
def test_a_goal_moved_in_mid_episode_is_seen_and_rewarded(env):
    env.reset(seed=0)
    env.step(still(env))
    env.set_goal({"tool_position": (0.4, 0.1, 0.3)})
    assert list(env.goal["tool_position"]) == [0.4, 0.1, 0.3]
    assert list(env.marker[0]) == [0.4, 0.1, 0.3]
    obs, _, _, _, info = env.step(still(env))
    assert list(info["reward_signals"]["goal"]) == [0.4, 0.1, 0.3]
    where = env.observation_layout.slices
    assert obs[where["tool_position"]] + obs[where["goal_from_tool"]] == pytest.approx([0.4, 0.1, 0.3], abs=1e-6)


@pytest.mark.parametrize("env", ["A1Walk"], indirect=True)
def test_a_command_given_in_mid_episode_is_followed_from_the_next_step(env):
    env.reset(seed=0, options={"goal": {"yaw_rate_command": [0.3]}})
    forward = env.goal["velocity_command"][0]
    env.step(still(env))
    env.set_goal({"velocity_command": [0.7]})
    assert env.goal == {"velocity_command": (0.7,), "yaw_rate_command": (0.3,)}
    obs, *_ = env.step(still(env))
    assert forward != 0.7
    assert obs[env.observation_layout.slices["velocity_command"]] == pytest.approx(0.7)
    *_, info = env.step(still(env))
    assert info["reward_signals"]["velocity_command"] == (0.7,)


@pytest.mark.parametrize("env", [name for name in gym.registry if name.startswith("simtoreal/")], indirect=True)
def test_every_goal_is_told_and_can_be_set(env):
    env.reset(seed=0)
    assert env.goal.keys() == env.goals.keys()
    for name, bounds in env.goals.items():
        low, high = map(np.array, bounds)
        assert (low <= env.goal[name]).all()
        assert (env.goal[name] <= high).all()
        for corner in (low, high):
            env.set_goal({name: corner})
            assert (env.goal[name] == corner).all()


@pytest.mark.parametrize("env", ["A1Walk"], indirect=True)
@pytest.mark.parametrize(
    ("goal", "words"),
    [
        ({"velocity_command": [2.0]}, "goal velocity_command must be from"),
        ({"velocity_command": [float("nan")]}, "goal velocity_command must be from"),
        ({"height": [1.0]}, "no goal 'height'"),
        ({"velocity_command": [0.3, 0.3]}, "takes 1 numbers, got 2"),
    ],
)
def test_a_goal_that_cannot_be_changes_nothing(env, goal, words):
    env.reset(seed=0)
    before = env.goal
    with pytest.raises(ValueError, match=words):
        env.set_goal(goal)
    assert env.goal == before


@pytest.mark.parametrize("env", ["A1Walk"], indirect=True)
def test_a_push_changes_the_base_s_velocity_by_as_much(env):
    env.reset(seed=0)
    env.step(still(env))
    before = env.world.state()[2]
    env.push((0.6, -0.3, 0.0))
    after = env.world.state()[2]
    assert np.subtract(after[7:10], before[7:10]) == pytest.approx([0.6, -0.3, 0.0], abs=1e-6)
    assert after[:7] == pytest.approx(before[:7])
    for bad in ((1.0, 2.0), (float("nan"), 0.0, 0.0)):
        with pytest.raises(ValueError, match="a push is three finite numbers"):
            env.push(bad)


@pytest.mark.parametrize("env", ["PandaReach", "CartPoleSwingUp"], indirect=True)
def test_what_is_fixed_to_the_world_cannot_be_pushed(env):
    env.reset(seed=0)
    before = env.world.state()
    with pytest.raises(ValueError, match="a robot with a fixed base cannot be pushed"):
        env.push((1.0, 0.0, 0.0))
    assert env.world.state() == before


@pytest.mark.parametrize("env", ["A1Walk"], indirect=True)
def test_what_is_played_on_beyond_the_time_limit_is_not_judged(env):
    env.reset(seed=0)
    said = []
    for _ in range(env.horizon + 300):
        *_, terminated, truncated, info = env.step(still(env))
        said.append((truncated, info["is_success"], info.get("unmet")))
        assert not terminated  # it stands
    assert [truncated for truncated, *_ in said] == [False] * (env.horizon - 1) + [True] * 301
    assert said[env.horizon - 1][2].startswith("command 1: ")
    assert set(said[env.horizon - 1 :]) == {said[env.horizon - 1]}
