"""Every random number has a name: what is drawn depends on its key alone, wherever and beside whatever it is drawn."""

import hashlib
import json
import os
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch

import simtoreal
from simtoreal import build
from simtoreal.config import RunConfig
from simtoreal.policies.checkpoint import load_checkpoint
from simtoreal.policies.loops import off_policy
from simtoreal.policies.replay import Replay
from simtoreal.policies.sac import SAC, SACConfig
from simtoreal.randomization.randomizer import Preset, Randomizer
from simtoreal.randomization.shipped import preset_paths, suite_paths
from simtoreal.randomization.suites import heldout, nominal, train
from simtoreal.randomization.yaml_files import load_yaml
from simtoreal.training_envs import TrainingEnvs
from simtoreal.worker_vector import WorkerVectorEnv

TASKS = sorted(build.task_ids())
LIKE_ANOTHER = (
    *("AliengoWalk", "CartPoleBalance", "CartPoleSwingUp", "KukaReach"),
    *("PandaReach", "PixelCartPoleRGB", "QuadrotorHover", "XArmReach"),
)
SOAK = "SIMTOREAL_SOAK" in os.environ
STEPS = 60  # more than an episode of PandaReach


@pytest.fixture(params=TASKS)
def task(request):
    return request.param


@pytest.fixture(params=TASKS if SOAK else [t for t in TASKS if t not in LIKE_ANOTHER])
def one_of_a_kind(request):
    return request.param


@pytest.fixture
def table(task):
    env = build.make_env(build.task_id(task))
    yield build.parameters_of(env)
    env.close()


def rollouts(task, count, workers=0):
    """A digest of what each environment said; the same twice."""
    config = RunConfig(task=task, steps=1, seed=11, envs=count, workers=workers, randomization=task, privileged=True)
    envs = TrainingEnvs(config)
    m = envs.single_action_space.shape[0]
    digests = []
    for _ in range(2):
        obs, _ = envs.reset(seed=11)
        seen = [hashlib.sha256() for _ in range(count)]
        for step in range(STEPS):
            for i, one in enumerate(seen):
                for part in obs.values():
                    one.update(part[i].tobytes())
            obs = envs.step(np.stack([np.sin(np.arange(m) + step + i) for i in range(count)]).astype(np.float32))[0]
        digests.append([one.hexdigest() for one in seen])
    envs.close()
    assert digests[0] == digests[1]
    return digests[0]


def rollouts_elsewhere(environment, *arguments):
    """`rollouts` in a new process of this environment."""
    script = f"import json, test_randomness; print(json.dumps(test_randomness.rollouts(*{arguments})))"
    command = [sys.executable, "-P", "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_shipped_suites_are_those_of_the_shipped_preset(task, table):
    preset = Preset.load(preset_paths()[task])
    paths = suite_paths(task)
    assert load_yaml(paths["heldout"]) == heldout(preset, table)
    assert load_yaml(paths["train"]) == train(preset)
    assert load_yaml(paths["nominal"]) == nominal(task)


def test_an_environments_episodes_are_its_own_in_any_process_beside_any_number(one_of_a_kind, beside_this):
    task = one_of_a_kind
    alone, eight = rollouts(task, 1), rollouts_elsewhere(beside_this, task, 8)
    assert eight[0] == alone[0]
    assert len(set(eight)) == 8
    for workers in (1, 2) if SOAK else (2,):
        assert rollouts(task, 8, workers) == eight


def test_how_a_worker_is_started_changes_no_bit(one_of_a_kind):
    config = RunConfig(task=one_of_a_kind, steps=1, randomization=one_of_a_kind)
    make = [partial(build.make_training_env, config, i, 3) for i in range(3)]
    seen = []
    for method in ("fork", "spawn"):
        envs = WorkerVectorEnv(make, 2, start_method=method)
        actions = np.random.default_rng(0).uniform(-1, 1, (STEPS, *envs.action_space.shape)).astype(np.float32)
        seen.append([envs.reset(seed=[3, 3, 3])[0], *(envs.step(action)[0] for action in actions)])
        envs.close()
    np.testing.assert_array_equal(*seen)


def test_every_draw_is_in_the_info_and_applies(task, table):
    env = build.make_training_env(RunConfig(task=task, steps=1, seed=2, randomization=task), 3, 2)
    randomizer = Randomizer(Preset.load(preset_paths()[task]), table)
    for episode in range(2):
        _, info = env.reset()
        key = {"seed": 2, "env": 3, "episode": episode, "width": 1.0, "version": randomizer.version}
        assert info["draw"] == key
        drawn = randomizer.draw(2, 3, episode)
        assert set(info["parameters"]) == set(table)
        for name, parameter in table.items():
            assert info["parameters"][name] == pytest.approx(drawn.get(name, parameter.nominal), rel=1e-6, abs=1e-12)
        assert any(abs(drawn[name] - table[name].nominal) > 1e-9 for name in drawn)
    env.close()


def test_none_means_nominal_and_still_seeds_every_episode(task, table):
    env = build.make_training_env(RunConfig(task=task, steps=1, randomization="none"), 0, 0)
    starts = set()
    for _ in range(3):
        obs, info = env.reset()
        starts.add(obs.tobytes())
        for name, parameter in table.items():
            assert info["parameters"][name] == pytest.approx(parameter.nominal, rel=1e-6, abs=1e-12)
    assert len(starts) == 3
    env.close()


@pytest.mark.parametrize("learning", [True, False])
def test_robots_to_learn_on_may_begin_as_nominal_ones_those_to_be_judged_on_never(learning):
    config = RunConfig(task="CartPoleSwingUp", steps=1, randomization="CartPoleSwingUp", randomization_ramp=(0, 2))
    env = build.make_training_env(config, 0, 0, learning=learning)
    assert [env.reset()[1]["draw"]["width"] for _ in range(4)] == ([0.0, 0.5, 1.0, 1.0] if learning else [1.0] * 4)
    env.close()


def test_what_a_policy_is_judged_on_while_it_trains_is_not_what_it_trains_on():
    config = RunConfig(task="CartPoleSwingUp", steps=1, randomization="CartPoleSwingUp")
    starts = [
        [env.reset()[0].tobytes() for _ in range(5)]
        for env in (build.make_training_env(config, 0, seed) for seed in (0, build.EVALUATION_SEED))
    ]
    assert not set(starts[0]) & set(starts[1])


def test_the_replay_carries_the_privileged_part_of_this_very_moment():
    config = RunConfig(task="PandaReach", steps=1, seed=5, envs=2, randomization="PandaReach", privileged=True)
    envs = TrainingEnvs(config)
    space = envs.single_observation_space
    n, p, m = space["policy"].shape[0], space["privileged"].shape[0], envs.single_action_space.shape[0]
    replay = Replay(400, n, m, p)
    agent = SAC(n, m, p, SACConfig(hidden=(16,), batch_size=16, learning_starts=20), seed=0)
    list(off_policy(agent, envs, replay, steps=120, seed=5, learning_starts=20, updates_per_step=0.05, batch_size=16))
    assert len(replay) == 120
    batch = replay.sample(400, torch.Generator().manual_seed(0))
    assert batch.privileged.shape == (400, p)
    assert batch.next_privileged.shape == (400, p)
    parameters = slice(p - len(build.parameters_of(envs.prototype)), p)
    drawn = []
    for index in (0, 1):
        env = build.make_training_env(config, index, 5)
        drawn += [env.reset(seed=5 if k == 0 else None)[0]["privileged"][parameters] for k in range(3)]
        env.close()
    known = {row.tobytes() for row in drawn}
    assert {row.numpy().tobytes() for row in batch.privileged[:, parameters]} <= known
    same = batch.privileged[:, parameters] == batch.next_privileged[:, parameters]
    assert same.all()  # both ends of a transition are of one episode, the last of an episode too
    envs.close()


def test_a_policy_trained_with_privileged_critics_needs_none_of_it_to_act(tmp_path):
    settings = [
        "privileged=true", "evaluate_every=150", "evaluate_episodes=1", "agent.hidden=[16]", "agent.learning_starts=50",
        "agent.updates_per_step=0.1", "agent.batch_size=32",
    ]  # fmt: skip
    result = simtoreal.train("CartPoleSwingUp", steps=300, envs=2, out=tmp_path / "run", assignments=settings)
    tensors, meta = load_checkpoint(result.run / "checkpoints" / "300")
    env = build.make_env("simtoreal/CartPoleSwingUp-v0", privileged=True)
    p = env.observation_space["privileged"].shape[0]
    assert meta["actor"]["observation_size"] == 6
    widths = {shape for name, tensor in tensors.items() if "critic" in name for shape in tensor.shape}
    assert 6 + p + 1 in widths  # observation, privileged, action
    (scale,) = (each for name, each in tensors.items() if name.endswith("privileged_normalizer.scale"))
    parameters = env.unwrapped.privileged_layout.slices["parameters"]
    assert (scale[parameters] == 1).all()  # what is the same for an episode has no running statistics
    assert (scale[: parameters.start] != 1).any()
    bundle = simtoreal.export(result.run, tmp_path / "bundle")
    assert simtoreal.Runtime(bundle).act(np.zeros(6, np.float32)).shape == (1,)
    assert simtoreal.verify(bundle).passed
    env.close()


@pytest.mark.parametrize("terrain", [{}, {"ground.roughness": [0.01, 0.05], "ground.variant": [-999, 999]}])
def test_ten_thousand_resets_need_no_more_memory(terrain, tmp_path, resident):
    """On new ground each time a reset takes a thirtieth of a second: ten thousand in `make soak`."""
    preset = load_yaml(preset_paths()["A1Walk"])
    preset["entries"] |= {name: {"uniform": span} for name, span in terrain.items()}
    (tmp_path / "preset.yaml").write_text(json.dumps(preset))
    config = RunConfig(task="A1Walk", steps=1, randomization=str(tmp_path / "preset.yaml"))
    env = build.make_training_env(config, 0, 0)
    for _ in range(100 if terrain else 500):
        env.reset()
    before = resident()
    for _ in range(300 if terrain and not SOAK else 10_000):
        env.reset()
    assert resident() - before < (5e6 if terrain else 20e6)
    env.close()
