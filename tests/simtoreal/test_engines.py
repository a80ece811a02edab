"""Training in another physics engine."""

import json
import shutil
import sys
from pathlib import Path
from typing import get_args

import pytest

import simtoreal
from simtoreal.config import RunConfig
from simtoreal.policies.checkpoint import checkpoints
from simtoreal.robots.engines import ENGINES

sys.path.insert(0, str(Path(__file__).parent))
from killing import checkpoint, odd

SMALL = (
    "agent.hidden=[16]", "agent.learning_starts=100", "agent.batch_size=16", "evaluate_every=400",
    "evaluate_episodes=1", "save_every=200",
)  # fmt: skip


def test_a_configuration_knows_every_engine():
    assert get_args(RunConfig.model_fields["engine"].annotation) == ENGINES


@pytest.mark.parametrize("workers", [0, 2])
def test_a_training_in_mujoco_goes_on_bit_for_bit_and_says_where_it_was(workers, tmp_path, cli):
    settings = [f"--set={text}" for text in SMALL]
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    command = ("train", "PandaReach", "--steps", 400, "--envs", 2, "--workers", workers, "--checkpoint-every", 200)
    assert cli(*command, "--engine", "mujoco", "--out", run, *settings).code == 0
    assert "engine: mujoco" in (run / "config.yaml").read_text()

    cut = shutil.copytree(run, tmp_path / "cut")
    for path in checkpoints(cut / "checkpoints")[1:]:
        shutil.rmtree(path)
    assert simtoreal.train("PandaReach", out=cut, resume=True, workers=0).resumed_at == (200,)
    assert odd(checkpoint(run, 400)[0], checkpoint(cut, 400)[0]) == []
    other = simtoreal.train("PandaReach", steps=400, envs=2, out=tmp_path / "bullet", assignments=SMALL).run
    assert odd(checkpoint(run, 400)[0], checkpoint(other, 400)[0]) != []

    assert cli("export", run, "--out", bundle).code == 0
    assert json.loads((bundle / "spec.json").read_text())["provenance"]["engine"] == "mujoco"
    assert cli("verify", bundle).code == 0


@pytest.mark.parametrize(
    ("task", "engine", "words"),
    [
        ("PandaReach", "ode", "engine: Input should be 'pybullet', 'mujoco' or 'mujoco-shipped'"),
        ("Pendulum-v1", "mujoco", "task Pendulum-v1 brings its own physics"),
    ],
)
def test_an_engine_that_cannot_be_is_one_line_and_writes_nothing(task, engine, words, tmp_path, cli):
    command = ("train", task, "--steps", 10, "--engine", engine, "--out", tmp_path / "run")
    cli(*command).refused(words)
    assert not (tmp_path / "run").exists()
