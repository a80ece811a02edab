"""Stable-Baselines3's zips, brought in without unpickling anything."""

import base64
import copy
import io
import json
import math
import os
import pickle
import zipfile
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
import torch

import simtoreal
from simtoreal.policies.deterministic import DeterministicActor
from simtoreal.policies.pth_file import PthError, tensors_of
from simtoreal.policies.sb3_zip import Sb3ZipError, read_sb3
from simtoreal.runs import Run

NETS = {"net_arch": [16, 8]}


def saved(path: Path, kind: str, task: str, **settings) -> stable_baselines3.common.base_class.BaseAlgorithm:
    given = copy.deepcopy({"policy_kwargs": NETS, "seed": 0} | settings)  # SB3 writes into it
    model = getattr(stable_baselines3, kind)("MlpPolicy", task, **given)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))  # outputs that reach the bounds, and no two alike
    model.save(path)
    return model


CASES = [
    ("SAC", "Pendulum-v1", {}),
    ("TD3", "Pendulum-v1", {}),
    ("PPO", "Pendulum-v1", {}),
    ("PPO", "CartPole-v1", {}),
    ("DQN", "CartPole-v1", {}),
    ("PPO", "Pendulum-v1", {"policy_kwargs": NETS | {"activation_fn": torch.nn.ELU}}),
    ("PPO", "Pendulum-v1", {"use_sde": True, "policy_kwargs": NETS | {"squash_output": True}}),
    ("SAC", "Pendulum-v1", {"use_sde": True, "policy_kwargs": NETS | {"clip_mean": 0.0}}),
    ("SAC", "Pendulum-v1", {"use_sde": True, "policy_kwargs": NETS | {"clip_mean": 0.3}}),
    ("SAC", "Pendulum-v1", {"use_sde": True, "policy_kwargs": NETS | {"activation_fn": torch.nn.Tanh}}),
    ("SAC", "simtoreal/CartPoleSwingUp-v0", {}),
]


@pytest.mark.parametrize(("kind", "task", "settings"), CASES)
def test_the_bundle_of_a_zip_commands_what_sb3_predicts(kind, task, settings, tmp_path, cli):
    model = saved(tmp_path / "model.zip", kind, task, **settings)
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    said = cli("import", tmp_path / "model.zip", "--task", task, "--out", run, "--json")
    assert said.code == 0, said
    assert said.result["algorithm"] == f"sb3-{kind.lower()}"
    assert cli("export", run, "--out", bundle).code == 0
    assert cli("verify", bundle).code == 0
    policy = simtoreal.Runtime(bundle)
    space = model.observation_space
    rng = np.random.default_rng(0)
    high = np.minimum(space.high, 3.0)
    for obs in rng.uniform(-high, high, (200, *space.shape)).astype(np.float32):
        expected, _ = model.predict(obs, deterministic=True)
        unit = policy.spec.command_map.scale if task.startswith("simtoreal/") else 1.0  # SB3 saw [-1, 1], the robot N
        np.testing.assert_allclose(policy.act(obs), np.ravel(expected) * unit, atol=2e-5, rtol=1e-5)


def test_a_run_that_was_imported_says_where_it_comes_from_and_is_judged_like_any_other(tmp_path, cli):
    model = saved(tmp_path / "theirs.zip", "DQN", "CartPole-v1")
    model.learn(100)
    model.save(tmp_path / "theirs.zip")
    run = simtoreal.import_policy(tmp_path / "theirs.zip", task="CartPole-v1", out=tmp_path / "run").run
    parent = Run.load(run).summary["parent"]
    assert parent["model"] == "theirs.zip"
    assert parent["stable_baselines3"] == stable_baselines3.__version__
    assert Run.load(run).actor("last")[1]["step"] == 100
    bundle = simtoreal.export(run, tmp_path / "bundle")
    verdict = simtoreal.evaluate([bundle], suites=["nominal"], episodes=2, out=tmp_path / "verdict")
    env = gym.make("CartPole-v1")
    for episode in verdict.episodes:
        obs, _ = env.reset(seed=episode.seed)
        total, over = 0.0, False
        while not over:
            obs, reward, terminated, truncated, _ = env.step(model.predict(obs, deterministic=True)[0])
            total, over = total + reward, terminated or truncated
        assert total == episode.return_
    cli("import", tmp_path / "theirs.zip", "--task", "CartPole-v1", "--out", run).refused("exists; choose another")
    assert cli("import", tmp_path / "theirs.zip", "--task", "CartPole-v1", "--out", run, "--force").code == 0
    cli("train", "CartPole-v1", "--out", run, "--resume").refused("resumable false")


class Bomb:
    """Unpickled, it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def rewritten(path: Path, name: str, change) -> None:
    """The zip at `path` with `change` made to the file `name`: bytes to bytes, or to None to leave it out."""
    with zipfile.ZipFile(path) as archive:
        files = {entry: archive.read(entry) for entry in archive.namelist()}
    files[name] = change(files[name])
    with zipfile.ZipFile(path, "w") as archive:
        for entry, data in files.items():
            if data is not None:
                archive.writestr(entry, data)


def test_code_in_a_zip_never_runs(tmp_path, cli):
    """In place of the weights, and of what SB3 itself unpickles from `data`."""
    path, mark = tmp_path / "model.zip", tmp_path / "ran"
    saved(path, "SAC", "Pendulum-v1")
    bomb = base64.b64encode(pickle.dumps(Bomb(mark))).decode()
    rewritten(
        path, "data", lambda data: json.dumps(json.loads(data) | {"policy_class": {":serialized:": bomb}}).encode()
    )
    assert cli("import", path, "--task", "Pendulum-v1", "--out", tmp_path / "run").code == 0
    rewritten(path, "policy.pth", lambda _: torch_file({"actor.latent_pi.0.weight": Bomb(mark)}))
    said = cli("import", path, "--task", "Pendulum-v1", "--out", tmp_path / "other")
    said.refused("asks to call 'posix system'; it was not called")
    assert not mark.exists()
    assert not (tmp_path / "other").exists()


def torch_file(tensors) -> bytes:
    file = io.BytesIO()
    torch.save(tensors, file)
    return file.getvalue()


def edited(**changes):
    """A change of `data`."""
    return lambda data: json.dumps(json.loads(data) | changes).encode()


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("policy.pth", lambda _: None, "holds no policy.pth"),
        ("data", lambda _: None, "is no whole zip of Stable-Baselines3: it holds no data"),
        ("data", lambda _: b"\xff", "data is no JSON"),
        ("data", lambda _: b"[]", "data is no table"),
        ("data", edited(action_space=None), "data says no action_space"),
        ("data", edited(action_space={":type:": "<class 'gymnasium.spaces.box.Box'>"}), "the action space is"),
        ("data", edited(action_space={":type:": "MultiBinary"}), "not a Box or Discrete"),
        ("data", edited(policy_class={"__module__": "mine"}), "a policy of mine has no counterpart"),
        ("data", edited(policy_kwargs={"activation_fn": "<class 'torch.nn.GELU'>"}), "has no counterpart here"),
        ("policy.pth", lambda _: b"no zip", "policy.pth is no zip"),
        ("policy.pth", lambda _: torch_file([1]), "no state dict needs"),
        ("policy.pth", lambda _: torch_file({"a": 1}), "that is no tensor"),
        ("policy.pth", lambda _: torch_file({"a": torch.zeros(1)}), "no policy of sac, td3, ppo, dqn in it, but a"),
        ("policy.pth", lambda _: torch_file({"actor.latent_pi.0.weight": torch.zeros(2, 2)}), "no weight"),
        (
            "policy.pth",
            lambda _: torch_file(
                {f"actor.{n}.{p}": torch.full((3, 3) if p == "weight" else (3,), float("nan"))
                 for n in ("latent_pi.0", "mu") for p in ("weight", "bias")}
            ),
            "the action space is",
        ),
    ],
)  # fmt: skip
def test_a_damaged_or_foreign_zip_is_refused_with_one_line(name, change, words, tmp_path, cli):
    path = tmp_path / "model.zip"
    saved(path, "SAC", "Pendulum-v1")
    rewritten(path, name, change)
    cli("import", path, "--task", "Pendulum-v1", "--out", tmp_path / "run").refused(words)
    assert not (tmp_path / "run").exists()


def test_a_weight_that_is_no_number_is_refused(tmp_path):
    path = tmp_path / "model.zip"
    model = saved(path, "SAC", "Pendulum-v1")
    with torch.no_grad():
        model.policy.actor.mu.bias.fill_(float("nan"))
    model.save(path)
    with pytest.raises(Sb3ZipError, match="a weight is not finite"):
        read_sb3(path)


@pytest.mark.parametrize("cut", [0.2, 0.6, 0.95])
def test_a_zip_that_was_cut_short_is_refused(cut, tmp_path, cli):
    path = tmp_path / "model.zip"
    saved(path, "PPO", "Pendulum-v1")
    data = path.read_bytes()
    path.write_bytes(data[: int(cut * len(data))])
    cli("import", path, "--task", "Pendulum-v1", "--out", tmp_path / "run").refused("is no ")


@pytest.mark.parametrize(
    ("kind", "trained", "task", "words"),
    [
        ("SAC", "Pendulum-v1", "MountainCarContinuous-v0", "sees 3 numbers, MountainCarContinuous-v0 shows 2"),
        ("PPO", "CartPole-v1", "simtoreal/CartPoleSwingUp-v0", "sees 4 numbers"),
        ("PPO", "CartPole-v1", "Pendulum-v1", "sees 4 numbers"),
        ("DQN", "MountainCar-v0", "MountainCarContinuous-v0", "actions are one of 3 choices, those of"),
        ("SAC", "simtoreal/PandaReach-v0", "simtoreal/A1Walk-v0", "numbers"),
    ],
)
def test_a_policy_of_another_task_is_refused(kind, trained, task, words, tmp_path, cli):
    saved(tmp_path / "model.zip", kind, trained)
    cli("import", tmp_path / "model.zip", "--task", task, "--out", tmp_path / "run").refused(words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("kwargs", "clip"), [({}, 2.0), ({"clip_mean": 0.5}, 0.5), ({"clip_mean": 0.0}, 0.0)])
def test_gsdes_mean_is_clipped_as_the_zip_says(kwargs, clip, tmp_path):
    saved(tmp_path / "sde.zip", "SAC", "Pendulum-v1", use_sde=True, policy_kwargs=NETS | kwargs)
    actor = read_sb3(tmp_path / "sde.zip").actor
    assert actor.mean_clip == clip
    again = DeterministicActor.from_description(json.loads(json.dumps(actor.describe())))
    assert again.mean_clip == clip
    far = actor(torch.full((1, 3), 1e4)).abs().max().item()
    assert far == pytest.approx(math.tanh(clip) if clip else 1.0, abs=1e-6)


@pytest.mark.parametrize("said", ["much", -1.0, None, "nan"])
def test_a_clip_that_is_none_is_refused(said, tmp_path):
    saved(tmp_path / "sde.zip", "SAC", "Pendulum-v1", use_sde=True)

    def change(data):
        about = json.loads(data)
        about["policy_kwargs"]["clip_mean"] = said
        return json.dumps(about).encode()

    rewritten(tmp_path / "sde.zip", "data", change)
    with pytest.raises(Sb3ZipError, match="policy_kwargs says clip_mean"):
        read_sb3(tmp_path / "sde.zip")


def test_a_state_dict_is_read_as_torch_reads_it():
    """Views, other dtypes, an empty one, a big file: against torch's own restricted reader."""
    base = torch.arange(24.0).reshape(4, 6)
    given = {"whole": base, "view": base[1:3, ::2], "turned": base.T, "long": torch.arange(5), "half": base.half()}
    data = torch_file(given | {"scalar": torch.tensor(3.5), "many": torch.randn(300, 200)})
    theirs = torch.load(io.BytesIO(data), weights_only=True)
    found = tensors_of(data, "here")
    assert found.keys() == theirs.keys()
    assert all(torch.equal(found[name], theirs[name]) for name in found)


def test_a_tensor_that_reaches_beyond_its_numbers_is_refused():
    data = torch_file({"a": torch.zeros(4, 6)})
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    short = next(name for name in files if name.endswith("data/0"))
    for content, words in (
        (files[short][:40], "reaches beyond its 10 numbers"),
        (files[short][:41], "no whole number"),
    ):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for name, stored in files.items():
                archive.writestr(name, content if name == short else stored)
        with pytest.raises(PthError, match=words):
            tensors_of(file.getvalue(), "here")
