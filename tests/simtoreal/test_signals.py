"""Anyone's environment, randomized, judged and replayed as ours are."""

from __future__ import annotations

import csv

import gymnasium
import numpy as np
import pytest

import simtoreal
from simtoreal.randomization import Preset, write_suites
from simtoreal.runs import Run

PRESET = """\
task: Pendulum-v1
version: 1
entries:
  sensor.?.noise: {uniform: [0.0, 0.05]}
  actuator.latency: {choice: [0.0, 0.05]}
  actuator.noise: {uniform: [0.0, 0.2], every: 1.0}
"""
SUITE = """\
task: Pendulum-v1
name: late
version: 1
held_out: true
conditions:
  late: {actuator.latency: 0.15}
  walks: {sensor.2.bias: {uniform: [-1.0, 1.0], every: 0.5, schedule: random_walk}}
"""
SMALL = [
    "agent.hidden=[16]", "agent.learning_starts=50", "agent.updates_per_step=0.1", "agent.batch_size=32",
    "evaluate_every=400", "evaluate_episodes=1",
]  # fmt: skip
NEVER = ["curriculum={metric: return, high: 1, low: -1e6}"]  # is anything mastered


class BuiltLate(gymnasium.Env):
    """Builds its world in its first reset, and until its second knows no height to pay for."""

    observation_space = action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    height = built = None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.height, self.built = self.built, 0.5
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), float(self.height or 0.0), False, False, {}


gymnasium.register("BuiltLate-v0", BuiltLate, max_episode_steps=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With a preset, a suite, a run of two environments in two processes, its bundle and its verdict."""
    here = tmp_path_factory.mktemp("signals")
    (here / "preset.yaml").write_text(PRESET)
    (here / "late.yaml").write_text(SUITE)
    run = simtoreal.train(
        "Pendulum-v1", steps=400, envs=2, workers=2, out=here / "run", assignments=[*SMALL, *NEVER],
        randomization=str(here / "preset.yaml"), curriculum="success",
    ).run  # fmt: skip
    bundle = simtoreal.export(run, here / "bundle")
    assert simtoreal.verify(bundle).passed
    simtoreal.evaluate(bundle, out=here / "verdict", suites=[str(here / "late.yaml")], episodes=3)
    return here


def test_its_preset_is_in_the_run_and_its_ranges_in_the_bundle(folder):
    run = Run.load(folder / "run")
    assert run.config.curriculum.kind == "success"
    assert run.summary["training_ranges"]["actuator.latency"] == [0.0, 0.05]
    assert run.summary["training_ranges"]["sensor.2.noise"] == [0.0, 0.0], "nothing was mastered"
    assert len(run.summary["curriculum"]["boundaries"]) == 2


def test_its_cases_are_held_out_and_come_again(folder, cli):
    with (folder / "verdict" / "episodes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["held_out"] for row in rows] == ["1"] * 6
    assert {row["actuator.latency"] for row in rows if row["condition"] == "late"} == {"0.15"}
    assert all(row["changes"] for row in rows if row["condition"] == "walks")
    for case in ("late/late/0", "late/walks/2"):
        assert "identical" in cli("replay", folder / "verdict", case).out


def test_suites_follow_from_its_preset(folder, tmp_path):
    env = simtoreal.make_env("Pendulum-v1")
    table = env.get_wrapper_attr("parameters")
    env.close()
    made = write_suites(Preset.load(folder / "preset.yaml"), table, str(tmp_path / "suites"))
    verdict = simtoreal.evaluate(folder / "bundle", out=tmp_path / "verdict", suites=list(map(str, made)), episodes=1)
    heldout = next(s for s in verdict.summary.suites if s.held_out)
    assert [c.condition for c in heldout.conditions] == ["sensor._.noise", "actuator.latency", "actuator.noise", "all"]


def test_what_it_has_not_is_refused(folder, tmp_path, cli):
    out = ["--out", tmp_path / "verdict"]
    cli("evaluate", folder / "bundle", "--suite", "heldout", *out).refused(
        'no suite of Pendulum-v1 named "heldout"; choices: nominal'
    )
    (tmp_path / "wrong.yaml").write_text(PRESET.replace("sensor.?.noise", "sensor.speed.noise"))
    cli(
        "train", "Pendulum-v1", "--steps", 100, "--out", tmp_path / "run", "--randomization", tmp_path / "wrong.yaml"
    ).refused("wrong.yaml:4: sensor.speed.noise: no such parameter; did you mean")


def test_its_first_episode_is_like_any_other():
    env = simtoreal.make_env("BuiltLate-v0")
    paid = []
    for seed in (1, 2, 1):
        env.reset(seed=seed)
        paid.append(env.step(np.zeros(1, np.float32))[1])
    env.close()
    assert paid == [0.5] * 3
