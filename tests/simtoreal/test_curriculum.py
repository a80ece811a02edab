"""Trainings whose ranges find themselves."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import simtoreal
from simtoreal.config import ConfigError, RunConfig
from simtoreal.randomization.randomizer import Preset, Randomizer
from simtoreal.runs import Run
from simtoreal.training_envs import TrainingEnvs

sys.path.insert(0, str(Path(__file__).parent))
from browser import CHROMIUM, chromium

SMALL = [
    "agent.hidden=[16]", "agent.learning_starts=50", "agent.updates_per_step=0.1", "agent.batch_size=32", "augment=0",
    "evaluate_every=500", "evaluate_episodes=1",
]  # fmt: skip
WIDENS = "curriculum={share: 1.0, queue: 1, metric: return, high: -1e6, low: -2e6, step: 0.5}"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Of twenty episodes, each at a boundary, which it widens by half of the preset's width."""
    out = tmp_path_factory.mktemp("curriculum") / "run"
    return Run.load(simtoreal.train("PandaReach", steps=1000, envs=2, out=out, assignments=[*SMALL, WIDENS]).run)


def test_what_moved_is_in_the_summary_and_the_metrics(run):
    found = run.summary["curriculum"]
    names = list(found["boundaries"])
    assert len(names) == 19
    assert "actuator.latency/high" in names
    assert "actuator.latency/low" not in names
    extents = dict.fromkeys(names, 0.0)
    for step, boundary, extent in found["moves"]:
        assert step % 100 == 0, "both environments end an episode every 50 steps of theirs"
        assert extent == extents[names[boundary]] + 0.5
        extents[names[boundary]] = extent
    assert extents == found["boundaries"]
    assert sum(extents.values()) == pytest.approx(10.0, abs=1.5)  # less what came to its limit
    last = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    tags = next(line for line in reversed(last) if "curriculum/entropy" in line)
    assert {name: tags[f"curriculum/{name}"] for name in names} == found["boundaries"]
    assert tags["curriculum/entropy"] == found["entropy"] < 0.0


def test_a_bundle_knows_the_widest_ranges_it_was_trained_on(run, tmp_path):
    spec = json.loads((simtoreal.export(run.path, tmp_path / "bundle") / "spec.json").read_text())
    envs = TrainingEnvs(RunConfig(task="PandaReach", steps=1, randomization="PandaReach", curriculum={}))
    extents = np.array(list(run.summary["curriculum"]["boundaries"].values()))
    expected = envs.curriculum.ranges.at(extents).ranges
    whole = Randomizer(Preset.load(run.path / "randomization.yaml"), envs.prototype.unwrapped.parameters).ranges
    envs.close()
    assert {name: tuple(ends) for name, ends in spec["training_ranges"].items()} == expected
    assert expected.keys() == whole.keys()
    assert all(whole[name][0] <= low <= high <= whole[name][1] for name, (low, high) in expected.items())
    assert expected != whole


def test_all_together_they_widen_with_success(tmp_path):
    settings = ["curriculum={kind: success, queue: 3, metric: return, high: -1e6, low: -2e6, step: 0.25}"]
    out = simtoreal.train("PandaReach", steps=400, out=tmp_path / "run", assignments=[*SMALL, *settings]).run
    found = Run.load(out).summary["curriculum"]
    assert set(found["boundaries"].values()) == {0.5}  # eight episodes
    assert [step for step, boundary, _ in found["moves"] if boundary == 0] == [150, 300]


def test_a_curriculum_takes_the_ramps_place(tmp_path):
    config = simtoreal.train(
        "CartPoleSwingUp", steps=100, out=tmp_path / "run", curriculum="adr",
        assignments=[*SMALL, "randomization_ramp=[2, 5]"],
    ).run  # fmt: skip
    assert Run.load(config).config.randomization_ramp == (0, 0)


def test_what_cannot_widen_is_refused(tmp_path, cli):
    train = ["train", "PandaReach", "--steps", 100, "--out", tmp_path / "run"]
    cli(*train, "--curriculum", "adr", "--randomization", "none").refused("give a preset by --randomization")
    cli(*train, "--set", "curriculum={speed: 1}").refused("curriculum: no setting speed; choices: high")
    cli(*train, "--set", "curriculum={step: -1}").refused(
        "curriculum: step must be from 0.001 to the limit, got step -1"
    )
    cli(*train, "--set", "curriculum={kind: fast}").refused("curriculum.kind: Input should be 'adr' or 'success'")
    cli(*train, "--set", "curriculum=adr").refused(
        "settings of a curriculum are needed (curriculum.kind=adr), got 'adr'"
    )
    cli(*train, "--set", "curriculum.share=true").refused("curriculum: share takes neither true nor false, got true")
    fixed = tmp_path / "fixed.yaml"
    fixed.write_text("task: PandaReach\nversion: 1\nentries:\n  actuator.latency: 0.01\n")
    cli(*train, "--curriculum", "adr", "--randomization", fixed).refused("no range that could widen")
    assert not (tmp_path / "run").exists()


def test_success_must_be_told(monkeypatch):
    config = RunConfig(task="PandaReach", steps=1, randomization="PandaReach", curriculum={"share": 1.0})
    envs = TrainingEnvs(config)
    envs.reset(seed=0)
    plain = envs.prototype.env.step  # within the wrapper that draws

    def untold(action):
        observation, reward, terminated, truncated, info = plain(action)
        return observation, reward, terminated, truncated, info | {"is_success": None}

    monkeypatch.setattr(envs.prototype.env, "step", untold)
    action = np.zeros((1, 7), np.float32)
    for _ in range(49):
        envs.step(action)
    with pytest.raises(ConfigError, match="the task reports no success; use the return"):
        envs.step(action)
    envs.close()


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_page_shows_every_boundary(run):
    page = run.path / "report.html"
    boundaries = run.summary["curriculum"]["boundaries"]
    entries = {name.rpartition("/")[0] for name in boundaries}
    whole = sum(extent == 1.0 for extent in boundaries.values())
    assert all(f">{entry}<" in page.read_text() for entry in entries)
    with chromium(CHROMIUM) as browser:
        browser.open(page, 1000, 1400)
        assert browser.complaints() == []
        assert browser.requests() == []
        assert browser.evaluate("document.querySelector('.lead').innerText").startswith(f"{whole} of 19 boundaries")
        assert browser.evaluate("document.querySelectorAll('figure svg').length") == 2
        colours = {
            pixel[:3] for pixel in Image.open(io.BytesIO(browser.screenshot())).convert("RGB").get_flattened_data()
        }
    assert {(213, 94, 0), (0, 114, 178)} <= colours, "upper and lower boundaries"


def test_the_page_goes_with_its_run(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run.path, copy)
    (copy / "report.html").unlink()
    assert simtoreal.train("PandaReach", steps=1000, out=copy, resume=True).was_finished
    assert (copy / "report.html").is_file(), "it was killed before it was written"
    plain = [*SMALL, "evaluate_every=100"]
    simtoreal.train("PandaReach", steps=100, out=copy, assignments=plain, force=True)
    assert not (copy / "report.html").exists()


def test_episodes_that_physics_breaks_off_speak_for_narrower_ranges(monkeypatch):
    config = RunConfig(
        task="PandaReach", steps=1, randomization="PandaReach", curriculum={"share": 1.0, "queue": 1, "step": 1.0}
    )
    envs = TrainingEnvs(config)
    envs.reset(seed=0)
    envs.curriculum.extents[:] = 1.0
    plain = envs.prototype.env.step

    def broken(action):
        observation, _, _, _, info = plain(action)
        return observation, 0.0, False, True, info | {"physics_fault": True, "is_success": False}

    monkeypatch.setattr(envs.prototype.env, "step", broken)
    envs.step(np.zeros((1, 7), np.float32))
    assert sorted(envs.curriculum.extents.tolist())[:2] == [0.0, 1.0]
    envs.close()


def test_ranges_that_would_come_to_what_the_integrator_does_not_bear_are_refused(tmp_path, cli):
    preset = tmp_path / "far.yaml"
    preset.write_text("task: A1Walk\nversion: 1\nentries:\n  joint.*.damping: {uniform: [0.0, 0.5]}\n"
                      "  link.*_*.mass: {scale: {uniform: [0.5, 1.0]}}\n")  # fmt: skip
    train = ["train", "A1Walk", "--steps", 100, "--out", tmp_path / "run", "--randomization", preset]
    far = ["--curriculum", "adr", "--set", "curriculum.limit=2"]
    cli(*train, *far).refused("far.yaml:4: joint.*.damping: joint")
