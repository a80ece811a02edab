"""Broken commands and broken physics (FAULTS 26, 27, 29, 30), for every shipped task."""

import numpy as np
import pybullet as bullet
import pytest

from simtoreal.robots.mujoco_world import MuJoCoWorld
from simtoreal.robots.world import PhysicsFault, check_state


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_command_that_is_no_number_ends_the_episode_as_a_failure(make, act, rollout, bad):
    env, fresh = make(), make()
    before = rollout(env, 0, 3)[-1]
    numbers = [0.0] * (env.command_layout.size - 1) + [bad]
    obs, reward, terminated, truncated, info = env.step(act(env, numbers))
    assert (obs == before).all()
    assert reward == env.failure_reward + (env.horizon - 3) * env.lowest_reward
    assert (terminated, truncated) == (True, False)
    assert info["invalid_action"] is True
    assert info["is_success"] is False
    assert (rollout(env, 1, 10) == rollout(fresh, 1, 10)).all()


@pytest.mark.parametrize("way", ["still", "random", "one end", "both ends"])
def test_a_command_that_is_no_number_is_never_worth_more_than_any_other(make, act, way):
    env, rng = make(), np.random.default_rng(0)
    ways = {
        "still": lambda k: 0.0,
        "random": lambda k: rng.uniform(-1.0, 1.0, env.command_layout.size),
        "one end": lambda k: 1.0,
        "both ends": lambda k: (-1.0) ** k,
    }
    env.reset(seed=0)
    rewards, ended = [], False
    while not ended:
        _, reward, terminated, truncated, _ = env.step(act(env, ways[way](len(rewards))))
        rewards.append(reward)
        ended = terminated or truncated
    assert min(rewards) >= env.lowest_reward + (env.failure_reward if terminated else 0.0)
    env.reset(seed=0)
    refused = env.step(act(env, np.nan))[1]
    assert refused < sum(rewards)


def test_an_action_of_another_shape_is_refused(make):
    env = make()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="action must have shape"):
        env.step(np.zeros(env.command_layout.size + 1, np.float32))


def break_speed(env, speed):
    """Of a joint, of the base where there is no joint."""
    q, qd, *base = env.world.state()
    if qd:
        qd[0] = speed
    else:
        base[0][7] = speed
    env.world.reset(q, qd, *base)


@pytest.mark.parametrize("speed", [np.nan, np.inf, 1e6, -1e3])
def test_broken_physics_is_found_in_the_same_step_and_the_next_episode_is_clean(make, act, rollout, speed):
    env, fresh = make(), make()
    before = rollout(env, 0, 3)[-1]
    break_speed(env, speed)
    obs, reward, terminated, truncated, info = env.step(act(env, 0.0))
    assert info["physics_fault"] is True
    assert info["is_success"] is False
    assert (terminated, truncated) == (False, True)
    assert (obs == before).all()
    assert np.isfinite(reward)
    for seed in (1, 2):
        assert (rollout(env, seed, 20) == rollout(fresh, seed, 20)).all()


def test_a_broken_position_is_found_too(make, act, rollout):
    env, fresh = make(), make()
    rollout(env, 0, 3)
    q, qd, *base = env.world.state()
    place = q or base[0]
    place[-1 if q else 0] = np.nan
    env.world.reset(q, qd, *base)
    assert env.step(act(env, 0.0))[4]["physics_fault"] is True
    assert (rollout(env, 1, 20) == rollout(fresh, 1, 20)).all()


@pytest.mark.parametrize("bad", [np.nan, 1e6])
def test_a_reset_straight_after_broken_physics_is_clean(make, rollout, bad):
    env, fresh = make(), make()
    rollout(env, 0, 3)
    break_speed(env, bad)
    assert (rollout(env, 1, 20) == rollout(fresh, 1, 20)).all()


@pytest.mark.parametrize("place", range(4))
def test_no_place_hides_a_nan(place):
    numbers = [0.0] * 4
    numbers[place] = np.nan
    with pytest.raises(PhysicsFault):
        check_state((numbers[:2], numbers[2:]), 10.0)


def test_the_bound_itself_is_allowed():
    check_state(([1e6, 0.0], [10.0, -10.0]), 10.0)
    with pytest.raises(PhysicsFault, match=r"10\.1"):
        check_state(([0.0, 0.0], [0.0, -10.1]), 10.0)


def test_nothing_pending_crosses_a_reset(make, rollout):
    env = make()
    w = env.world
    reference = rollout(env, 5, 20)
    rollout(env, 6, 7, {name: parameter.high for name, parameter in env.parameters.items()})
    if isinstance(w, MuJoCoWorld):
        w._data.xfrc_applied[2:] = 50.0
        w._data.qfrc_applied[:] = 20.0
        w._data.qacc_warmstart[:] = 1e3
    else:
        joints = w._joint_indices or [-1]
        bullet.applyExternalForce(w._body, joints[0], [500, 300, 0], [0, 0, 0], bullet.WORLD_FRAME, w._client)
        bullet.applyExternalTorque(w._body, joints[-1], [50, 50, 50], bullet.WORLD_FRAME, w._client)
        torque = [20.0] * len(w.joints)
        bullet.setJointMotorControlArray(
            w._body, w._joint_indices, bullet.TORQUE_CONTROL, forces=torque, physicsClientId=w._client
        )
    assert (rollout(env, 5, 20) == reference).all()
