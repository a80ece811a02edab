"""Derived transitions say what would have been seen and earned: with another goal all along, or in a mirror."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import load_env_creator

from simtoreal.robots.tasks.cartpole import CartPoleSwingUp
from simtoreal.robots.tasks.reach import PandaReach


def _episode(env: PandaReach, goal: np.ndarray | None, steps: int = 20):
    rng = np.random.default_rng(3)
    obs, _ = env.reset(seed=5)
    if goal is not None:
        env._goal = goal.tolist()
        env._observation = env._make_observation()
        obs = env._as_space()
    rows: dict[str, list] = {"obs": [], "action": [], "reward": [], "next_obs": []}
    signals = []
    for _ in range(steps):
        action = rng.uniform(-1, 1, 7).astype(np.float32)
        next_obs, reward, _, _, info = env.step(action)
        for name, value in zip(rows, (obs, action, reward, next_obs), strict=True):
            rows[name].append(value)
        signals.append(info["reward_signals"])
        obs = next_obs
    return {name: np.array(values) for name, values in rows.items()}, signals


def test_a_relabelled_transition_is_the_one_that_the_other_goal_would_have_given():
    env = PandaReach()
    rows, signals = _episode(env, None)
    relabelled = PandaReach.augment(rows, signals, np.random.default_rng(0))
    tool, gap = (PandaReach.observation_layout.slices[name] for name in ("tool_position", "goal_from_tool"))
    goals = relabelled["obs"][:, gap] + relabelled["obs"][:, tool]
    for step in (0, 7, 19):
        again, _ = _episode(env, goals[step].astype(float))
        np.testing.assert_allclose(relabelled["obs"][step], again["obs"][step], atol=2e-7)
        np.testing.assert_allclose(relabelled["next_obs"][step], again["next_obs"][step], atol=2e-7)
        np.testing.assert_allclose(relabelled["reward"][step], again["reward"][step], atol=1e-5)
    env.close()


def test_relabelled_goals_are_near_the_tool_or_anywhere_a_reset_puts_them():
    env = PandaReach()
    rows, signals = _episode(env, None)
    tool = np.array([s["tool_position"] for s in signals])
    gaps = []
    for seed in range(50):
        relabelled = PandaReach.augment(rows, signals, np.random.default_rng(seed))
        gap = PandaReach.observation_layout.slices["goal_from_tool"]
        measured = PandaReach.observation_layout.slices["tool_position"]
        goals = relabelled["next_obs"][:, gap] + relabelled["next_obs"][:, measured]
        gaps.append(np.linalg.norm(goals - tool, axis=1))
    near = (np.concatenate(gaps) < 0.12).mean()  # three standard deviations of the spread, on each of three axes
    assert 0.45 < near < 0.65
    env.close()


@pytest.mark.parametrize("privileged", [True, "state"])
def test_a_mirrored_transition_is_what_the_mirrored_robot_does(privileged):
    env = CartPoleSwingUp(privileged=privileged)
    bias = {"sensor.pole_angle.bias": 0.05, "sensor.cart_velocity.bias": -0.03}
    late = {"sensor.pole_angle.latency": 0.013, "actuator.latency": 0.007, "joint.slider.friction": 0.2}

    def roll(side: float):
        """Ten steps of the robot (side 1) or of its mirror image (-1), from rest at an angle."""
        env.reset(seed=0, options={"parameters": late | {name: side * value for name, value in bias.items()}})
        env.world.reset([side * 0.05, np.pi + side * 0.3], [0.0, 0.0])
        env._state = env.world.state()
        env._ring.fill(env._state)
        env._observation = env._make_observation()
        obs = env._as_space()
        rows: dict[str, list] = {
            n: [] for n in ("obs", "privileged", "action", "reward", "next_obs", "next_privileged")
        }
        for action in np.linspace(-0.9, 1.0, 10):
            next_obs, reward, *_ = env.step(np.array([side * action], np.float32))
            values = (
                obs["policy"],
                obs["privileged"],
                [side * action],
                reward,
                next_obs["policy"],
                next_obs["privileged"],
            )
            for name, value in zip(rows, values, strict=True):
                rows[name].append(value)
            obs = next_obs
        return {name: np.array(values) for name, values in rows.items()}

    here, mirrored = roll(1.0), roll(-1.0)
    derived = env.augment(here, [], np.random.default_rng(0))
    for name, values in mirrored.items():
        np.testing.assert_allclose(derived[name], values, atol=2e-5, err_msg=name)
    env.close()


def test_a_stack_of_frames_is_derived_frame_by_frame(task_id):
    if not hasattr(load_env_creator(gym.spec(task_id).entry_point), "augment"):
        pytest.skip("it derives no further transitions")
    env = gym.make(task_id, privileged=True).unwrapped
    rng = np.random.default_rng(1)
    first, _ = env.reset(seed=0)
    size, m = env.observation_layout.size, env.action_space.shape[0]
    signals = [env.step(rng.uniform(-1, 1, m).astype(np.float32))[4]["reward_signals"] for _ in range(5)]
    rows = {
        "action": rng.uniform(-1, 1, (5, m)).astype(np.float32),
        "reward": rng.normal(size=5),
        "terminated": np.zeros(5, bool),
        "privileged": rng.normal(size=(5, len(first["privileged"]))).astype(np.float32),
    }
    stacks = {name: rng.normal(size=(5, 3 * size)).astype(np.float32) for name in ("obs", "next_obs")}
    derived = env.augment(rows | stacks, signals, np.random.default_rng(2))
    for frame in (slice(0, size), slice(size, 2 * size), slice(2 * size, 3 * size)):
        alone = rows | {name: stack[:, frame] for name, stack in stacks.items()}
        expected = env.augment(alone, signals, np.random.default_rng(2))
        for name, value in expected.items():
            found = derived[name][:, frame] if name in stacks else derived[name]
            np.testing.assert_array_equal(found, value, err_msg=name)
        assert not np.array_equal(derived["obs"][:, frame], stacks["obs"][:, frame])
    env.close()
