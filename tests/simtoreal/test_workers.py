import pickle

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from simtoreal.config import RunConfig
from simtoreal.training_envs import TrainingEnvs
from simtoreal.workers import LocalVectorEnv, OpenEpisode


class Walk(gym.Env):
    """A random walk; it may write each observation into the same array, and breaks where it is told to."""

    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, *, privileged=False, broken_at=None, reuses=False):
        box = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.observation_space = spaces.Dict({"policy": box, "privileged": box}) if privileged else box
        self.privileged, self.broken_at, self.reuses = privileged, broken_at, reuses
        self.buffer = np.zeros(2, np.float32)

    def seen(self):
        policy = self.buffer if self.reuses else self.buffer.copy()
        return {"policy": policy, "privileged": -policy} if self.privileged else policy

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.buffer[:] = self.np_random.normal(size=2)
        self.at = 0
        return self.seen(), {}

    def step(self, action):
        self.buffer += self.np_random.normal(size=2) + action
        self.at += 1
        info = {"is_success": self.at > 3} | ({"physics_fault": True} if self.at == self.broken_at else {})
        return self.seen(), float(self.buffer[0]), bool(self.buffer[1] > 3), self.at >= 7, info


def actions(envs, steps):
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, (steps, envs.num_envs, 1)).astype(np.float32)


def test_it_equals_gymnasiums_own():
    ours = LocalVectorEnv([Walk] * 3)
    theirs = SyncVectorEnv([Walk] * 3, autoreset_mode=AutoresetMode.SAME_STEP)
    np.testing.assert_array_equal(ours.reset(seed=7)[0], theirs.reset(seed=7)[0])
    ended = 0
    for action in actions(ours, 60):
        mine, peer = ours.step(action), theirs.step(action)
        for a, b in zip(mine[:4], peer[:4], strict=True):
            np.testing.assert_array_equal(a, b)
        assert ("final_obs" in mine[4]) == ("final_obs" in peer[4])
        for i in np.flatnonzero(mine[2] | mine[3]):
            ended += 1
            np.testing.assert_array_equal(mine[4]["final_obs"][i], peer[4]["final_obs"][i])
            assert mine[4]["final_info"][i]["is_success"] == peer[4]["final_info"]["is_success"][i]
    assert ended > 20


def test_an_environment_may_write_over_its_last_observation():
    careful, careless = LocalVectorEnv([Walk]), LocalVectorEnv([lambda: Walk(reuses=True)])
    np.testing.assert_array_equal(careful.reset(seed=7)[0], careless.reset(seed=7)[0])
    for action in actions(careful, 30):
        a, b = careful.step(action), careless.step(action)
        np.testing.assert_array_equal(a[0], b[0])
        if "final_obs" in a[4]:
            np.testing.assert_array_equal(a[4]["final_obs"][0], b[4]["final_obs"][0])


def test_an_ended_episode_brings_its_return_and_length():
    envs = LocalVectorEnv([Walk] * 2)
    envs.reset(seed=1)
    running = [[], []]
    checked = 0
    for action in actions(envs, 40):
        _, rewards, terminated, truncated, infos = envs.step(action)
        for i in range(2):
            running[i].append(rewards[i])
            if terminated[i] or truncated[i]:
                episode = infos["final_info"][i]["episode"]
                assert episode == {"r": pytest.approx(sum(running[i])), "l": len(running[i])}
                running[i] = []
                checked += 1
            elif "final_info" in infos:
                assert infos["final_info"][i] is None
                assert infos["final_obs"][i] is None
    assert checked > 8


def test_valid_marks_what_physics_broke():
    envs = LocalVectorEnv([Walk, lambda: Walk(broken_at=2)])
    envs.reset(seed=0)
    seen = [envs.step(action)[4]["valid"].tolist() for action in actions(envs, 3)]
    assert seen == [[True, True], [True, False], [True, True]]


def test_both_parts_of_an_observation_are_stacked():
    envs = LocalVectorEnv([lambda: Walk(privileged=True)] * 2)
    obs, _ = envs.reset(seed=0)
    assert envs.observation_space.contains(obs)
    final = None
    for action in actions(envs, 7):
        obs, _, _, _, infos = envs.step(action)
        np.testing.assert_array_equal(obs["policy"], -obs["privileged"])
        final = infos.get("final_obs", final)
    ended = next(part for part in final if part is not None)
    np.testing.assert_array_equal(ended["policy"], -ended["privileged"])


def test_neighbours_change_nothing():
    alone, among = LocalVectorEnv([Walk]), LocalVectorEnv([Walk] * 4)
    first = alone.reset(seed=[5])[0][0]
    np.testing.assert_array_equal(first, among.reset(seed=[5, 6, 7, 8])[0][0])
    for action in actions(among, 20):
        np.testing.assert_array_equal(alone.step(action[:1])[0][0], among.step(action)[0][0])


def test_none_is_refused():
    with pytest.raises(ValueError, match="at least one environment"):
        LocalVectorEnv([])


def test_a_run_gives_each_environment_its_own_episodes_from_one_seed():
    envs = TrainingEnvs(RunConfig(task="CartPoleSwingUp", steps=1, envs=3, randomization="CartPoleSwingUp"))
    obs, info = envs.reset(seed=4)
    assert len({tuple(row) for row in obs.tolist()}) == 3
    assert [i["draw"]["env"] for i in info["reset_info"]] == [0, 1, 2]
    assert {i["draw"]["seed"] for i in info["reset_info"]} == {4}
    np.testing.assert_array_equal(envs.reset(seed=4)[0], obs)
    envs.close()


@pytest.mark.parametrize("task", ["A1Walk", "CartPoleSwingUp", "PandaReach", "Pendulum-v1"])
def test_open_episodes_come_back_bit_for_bit_in_fresh_environments(task):
    """After many episodes of other lengths, so nothing that an environment did before may matter."""
    randomization = "none" if task == "Pendulum-v1" else task
    config = RunConfig(task=task, steps=1, envs=3, randomization=randomization, privileged=randomization != "none")
    envs, again = TrainingEnvs(config), TrainingEnvs(config)
    rng = np.random.default_rng(0)
    m = envs.single_action_space.shape[0]
    envs.reset(seed=config.seed)
    for _ in range(830):
        obs, *_ = envs.step(rng.uniform(-1.5, 1.5, (3, m)).astype(np.float32))
    episodes = pickle.loads(pickle.dumps(envs.open_episodes()))  # as a worker process will send them
    assert all(isinstance(each.number, int) and each.actions.dtype == np.float32 for each in episodes)
    for each in (again, envs):  # in environments that are new, and in those that have gone on
        seen = each.reopen(episodes)
        np.testing.assert_equal(seen, obs)
    actions = rng.uniform(-1, 1, (250, 3, m)).astype(np.float32)
    ended = 0
    for action in actions:
        one, two = envs.step(action), again.step(action)
        for a, b in zip(one[:4], two[:4], strict=True):
            np.testing.assert_equal(a, b)
        for i in np.flatnonzero(one[2] | one[3]):
            ended += 1
            assert one[4]["final_info"][i]["episode"] == two[4]["final_info"][i]["episode"]
    assert ended >= 2
    envs.close()
    again.close()


def test_an_open_episode_that_does_not_come_back_is_refused():
    config = RunConfig(task="Pendulum-v1", steps=1, envs=2, randomization="none")
    envs = TrainingEnvs(config)
    envs.reset(seed=0)
    for _ in range(5):
        envs.step(np.zeros((2, 1), np.float32))
    first, second = envs.open_episodes()
    assert (first.number, len(second.actions)) == (0, 5)
    too_long = OpenEpisode(0, np.zeros((300, 1), np.float32))
    with pytest.raises(ValueError, match="episode 0 ended after 200 of its 300 recorded actions"):
        envs.reopen([first, too_long])
    with pytest.raises(ValueError, match="1 open episodes for 2 environments"):
        envs.reopen([first])
    envs.close()
