import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import simtoreal
from simtoreal import build
from simtoreal.contract import Contract
from simtoreal.export.onboard.folder import read_spec
from simtoreal.export.onboard.runtime import Runtime
from simtoreal.policies.checkpoint import load_checkpoint, save_checkpoint
from simtoreal.policies.deterministic import DeterministicActor
from simtoreal.runs import Run


@pytest.fixture
def copied(randomized, tmp_path):
    """A bundle and its run beside it, to be damaged."""
    shutil.copytree(randomized.run, tmp_path / randomized.run.name)
    return Path(shutil.copytree(randomized.bundle, tmp_path / randomized.bundle.name))


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("kind", ["randomized", "baseline"])
def test_what_we_export_verifies(kind, request, cli):
    trained = request.getfixturevalue(kind)
    said = cli("verify", trained.bundle, "--json")
    assert said.code == 0
    checks = {check["name"]: check for check in said.result["checks"]}
    assert set(checks) == {"integrity", "schema", "onnx", "golden", "batch", "latency", "closed loop"}
    assert all(check["passed"] for check in checks.values())
    assert 0 <= checks["closed loop"]["value"] <= 1e-5
    assert "1000 control steps" in checks["closed loop"]["detail"]
    assert {path.name for path in trained.bundle.iterdir()} == {"policy.onnx", "spec.json", "golden.npz", "onboard"}


def test_the_bundle_gives_the_runs_command_in_si(randomized):
    run = Run.load(randomized.run)
    actor, _ = run.actor("best")
    runtime = simtoreal.Runtime(randomized.bundle)
    observations = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    with torch.inference_mode():
        action = actor(torch.from_numpy(observations)).numpy()
    np.testing.assert_allclose(runtime.act(observations), 10.0 * action, atol=2e-4)  # +-10 N on the cart
    assert np.abs(action).max() > 1e-3


def test_the_contract_says_where_it_comes_from(randomized, plain):
    spec = read_spec(randomized.bundle)
    run = Run.load(randomized.run)
    assert (spec.task, spec.algorithm, spec.control_dt) == ("simtoreal/CartPoleSwingUp-v0", "sac", 0.02)
    assert {name: list(bounds) for name, bounds in spec.training_ranges.items()} == run.summary["training_ranges"]
    assert spec.provenance["checkpoint"] == run.summary["best"]["step"]
    assert (randomized.bundle / spec.provenance["run"]).resolve() == randomized.run.resolve()
    assert read_spec(plain.bundle).training_ranges == {}


def test_any_checkpoint_can_be_exported(randomized, tmp_path, cli):
    assert cli("export", randomized.run, "--out", tmp_path / "b", "--checkpoint", 400, "--json").result
    assert read_spec(tmp_path / "b").provenance["checkpoint"] == 400
    assert simtoreal.verify(tmp_path / "b").passed


def test_a_bundle_of_someone_elses_task(tmp_path, cli):
    quick = ["--set", "evaluate_episodes=1", "--set", "agent.hidden=[8]", "--set", "agent.learning_starts=90"]
    assert cli("train", "Pendulum-v1", "--steps", 100, "--out", tmp_path / "run", *quick).code == 0
    assert cli("export", tmp_path / "run", "--out", tmp_path / "bundle").code == 0
    assert cli("verify", tmp_path / "bundle").code == 0
    command = Runtime(tmp_path / "bundle").act(np.random.default_rng(0).normal(size=(100, 3)))
    assert np.abs(command).max() <= 2.0  # N m
    env = build.make_env("Pendulum-v1")
    Contract.of("Pendulum-v1", env).check(read_spec(tmp_path / "bundle"), "bundle")


def test_it_refuses_to_overwrite_and_replaces_only_a_bundle(copied, randomized, cli):
    before = (copied / "policy.onnx").read_bytes()
    cli("export", randomized.run, "--out", copied).refused("exists")
    cli("export", randomized.run, "--out", "").refused("--out is an empty path; name the folder to write")
    (copied.parent / "notes").mkdir()
    cli("export", randomized.run, "--out", copied.parent / "notes", "--force").refused("is no bundle folder")
    assert (copied / "policy.onnx").read_bytes() == before
    assert cli("export", randomized.run, "--out", copied, "--checkpoint", "last", "--force").code == 0


@pytest.mark.parametrize("verb", ["verify", "evaluate", "play"])
def test_a_flipped_bit_is_refused(verb, copied, tmp_path, cli):
    flip(copied / "policy.onnx", 1000)
    out = tmp_path / "out.mp4"
    rest = {"evaluate": ["--out", out], "play": ["--video", out]}.get(verb, [])
    task = ["CartPoleSwingUp"] if verb == "play" else []
    cli(verb, *task, copied, *rest).refused("policy.onnx has changed")
    assert not out.exists()


def test_an_edited_contract_is_refused(copied, cli):
    text = (copied / "spec.json").read_text()
    data = json.loads(text)
    data["command_map"]["scale"] = [20.0]
    (copied / "spec.json").write_text(json.dumps(data))
    cli("verify", copied).refused("one was edited")
    (copied / "spec.json").write_text(text[:100])
    cli("verify", copied).refused("spec.json is not readable JSON")
    (copied / "spec.json").write_text(text.replace('"format_version": 1', '"format_version": 99'))
    cli("verify", copied).refused("format version 99")


def test_a_damaged_checkpoint_is_refused(copied, tmp_path, cli):
    run = next(path for path in tmp_path.iterdir() if path.name.startswith("run-"))
    best = Run.load(run).checkpoint("best")
    flip(best / "agent.safetensors", -1)
    cli("export", run, "--out", tmp_path / "new").refused("agent.safetensors: sha256")
    cli("verify", copied).refused("agent.safetensors: sha256")
    (best / "agent.safetensors").write_bytes(b"\x80\x04junk")
    cli("export", run, "--out", tmp_path / "new").refused("pickle or zip")
    assert not (tmp_path / "new").exists()


def test_a_checkpoint_of_another_task_is_refused(copied, tmp_path, cli):
    run = next(path for path in tmp_path.iterdir() if path.name.startswith("run-"))
    path = Run.load(run).checkpoint("best")
    tensors, meta = load_checkpoint(path)
    save_checkpoint(path, tensors, meta | {"task": "PandaReach"}, replace=True)
    cli("export", run, "--out", tmp_path / "new").refused("task 'PandaReach', expected 'CartPoleSwingUp'")


def test_another_run_than_it_came_from_is_refused(randomized, plain, baseline, cli):
    for other, what in ((plain, "its seed is 0, the run's 1"), (baseline, "its algorithm is sac, the run's sb3-sac")):
        cli("verify", randomized.bundle, "--run", other.run).refused(f"was not exported from {other.run}: {what}")


def test_another_checkpoint_in_the_place_of_its_own_is_refused(copied, tmp_path, cli):
    """As after a training anew: it has the same name, task and seed, but other weights, or another network."""
    run = next(path for path in tmp_path.iterdir() if path.name.startswith("run-"))
    folder = Run.load(run).checkpoint("best")
    tensors, meta = load_checkpoint(folder)
    assert cli("verify", copied).code == 0
    nudged = {name: tensor + 0.05 if name == "actor.head.bias" else tensor for name, tensor in tensors.items()}
    save_checkpoint(folder, nudged, meta, replace=True)
    words = f"was not exported from checkpoint {folder.name} of {run}: "
    for arguments in ([], ["--run", run]):
        cli("verify", copied, *arguments).refused("on the bundle's golden vectors that policy differs by")
    actor = DeterministicActor(5, 1, (8,))
    weights = {f"actor.{name}": tensor for name, tensor in actor.state_dict().items()}
    save_checkpoint(folder, weights, meta | {"actor": actor.describe()}, replace=True)
    cli("verify", copied, "--run", run).refused(words + "the actor does not take observations [1, 6]")
    shutil.rmtree(folder)
    cli("verify", copied).refused(f"has no checkpoint '{folder.name}'")


def test_a_bundle_far_from_its_run_says_so(randomized, tmp_path, cli):
    away = shutil.copytree(randomized.bundle, tmp_path / "away")
    said = cli("verify", away, "--json")
    assert said.code == 0
    assert "closed loop" not in {check["name"] for check in said.result["checks"]}
    (reason,) = said.result["skipped"]
    assert "name it with --run" in reason
    assert cli("verify", away, "--run", randomized.run).code == 0


@pytest.mark.parametrize(
    "arguments", [["export", "nowhere", "--out", "b"], ["verify", "nowhere"], ["verify", "x" * 300]]
)
def test_what_is_not_there_is_refused(arguments, tmp_path, monkeypatch, cli):
    monkeypatch.chdir(tmp_path)
    cli(*arguments).refused(arguments[1][:20])
    assert not list(tmp_path.iterdir())


def test_a_run_keeps_the_preset_it_was_trained_with(tmp_path, cli):
    preset = tmp_path / "mine.yaml"
    preset.write_text("task: CartPoleSwingUp\nversion: 3\nentries:\n  actuator.latency: {uniform: [0.0, 0.01]}\n")
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    quick = ("--set", "agent.learning_starts=100", "--set", "evaluate_episodes=1")
    arguments = ("--steps", 200, "--randomization", preset, "--out", run, *quick)
    assert cli("train", "CartPoleSwingUp", *arguments).code == 0
    preset.unlink()
    assert cli("export", run, "--out", bundle).code == 0
    assert cli("verify", bundle).code == 0
    assert Runtime(bundle).spec.training_ranges == {"actuator.latency": (0.0, 0.01)}


def test_an_actor_of_another_size_is_refused(copied, tmp_path, cli):
    run = next(path for path in tmp_path.iterdir() if path.name.startswith("run-"))
    folder = Run.load(run).checkpoint("best")
    actor = DeterministicActor(5, 1, (8,))
    weights = {f"actor.{name}": tensor for name, tensor in actor.state_dict().items()}
    meta = load_checkpoint(folder)[1] | {"actor": actor.describe()}
    save_checkpoint(folder, weights, meta, replace=True)
    cli("export", run, "--out", tmp_path / "new").refused("maps 5 observations to 1 actions")
