"""From a teacher's run to a student's bundle."""

from __future__ import annotations

import json

import pytest

import simtoreal
from simtoreal.build import make_env
from simtoreal.runs import Run

SMALL = [
    "agent.hidden=[16, 8]", "agent.learning_starts=50", "agent.updates_per_step=0.2", "agent.batch_size=32",
    "evaluate_every=600", "evaluate_episodes=2",
]  # fmt: skip
TEACHER = ["teacher=true", "privileged=true"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    out = tmp_path_factory.mktemp("distill") / "teacher"
    return simtoreal.train("CartPoleSwingUp", steps=600, envs=2, out=out, assignments=[*SMALL, *TEACHER]).run


@pytest.fixture(scope="module")
def student(teacher):
    settings = ["history=5", "encoder=[12]", "batch_size=64", "updates_per_step=0.2"]
    return simtoreal.distill(teacher, out=teacher.parent / "student", steps=1200, seed=4, assignments=settings)


def test_a_teacher_learns_with_the_parameters_and_is_judged_with_them(teacher):
    run = Run.load(teacher)
    actor, _ = run.actor("last")
    assert actor.observation_size == 6 + len(parameters())
    assert run.summary["last"]["mean_return"] > 0.0


def parameters():
    env = make_env("simtoreal/CartPoleSwingUp-v0")
    try:
        return env.get_wrapper_attr("parameters")
    finally:
        env.close()


def test_it_cannot_leave(teacher, tmp_path, cli):
    cli("export", teacher, "--out", tmp_path / "bundle").refused("simtoreal distill makes a policy of it that can")
    target = tmp_path / "target.yaml"
    target.write_text("task: CartPoleSwingUp\nversion: 1\nentries: {}\n")
    cli("finetune", teacher, "--target", target, "--robot-seconds", 60, "--out", tmp_path / "tuned").refused(
        "cannot be fine-tuned; simtoreal distill"
    )
    assert not (tmp_path / "bundle").exists()


def test_a_teacher_goes_on_where_it_was_stopped(teacher, tmp_path):
    out = tmp_path / "run"
    simtoreal.train("CartPoleSwingUp", steps=300, envs=2, out=out, assignments=[*SMALL, *TEACHER])
    simtoreal.train("CartPoleSwingUp", steps=600, out=out, resume=True)
    whole, again = (Run.load(run).actor("last")[0].state_dict() for run in (teacher, out))
    assert all((value == again[name]).all() for name, value in whole.items())


def test_a_student_is_a_run_with_a_parent(student, teacher):
    run = Run.load(student.run)
    assert (run.summary["steps"], run.config.teacher, run.config.resumable) == (1200, False, False)
    assert run.summary["parent"]["run"] == "../teacher"
    assert run.summary["distill"]["history"] == 5
    assert run.summary["training_ranges"] == Run.load(teacher).summary["training_ranges"]
    assert student.teacher_return == Run.load(teacher).summary["best"]["mean_return"], "on the same robots"
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1000, 1200]
    assert lines[-1].keys() == {"step", "train/action_error", "train/latent_error"}
    simtoreal.distill(
        teacher, out=teacher.parent / "again", steps=1200, seed=4,
        assignments=["history=5", "encoder=[12]", "batch_size=64", "updates_per_step=0.2"],
    )  # fmt: skip
    one, two = (Run.load(path).actor("last")[0].state_dict() for path in (student.run, teacher.parent / "again"))
    assert all((value == two[name]).all() for name, value in one.items())


def test_its_bundle_needs_no_parameters_and_is_judged(student, tmp_path):
    bundle = simtoreal.export(student.run, tmp_path / "bundle")
    spec = json.loads((bundle / "spec.json").read_text())
    assert (spec["format_version"], spec["history"]) == (2, 5)
    assert simtoreal.verify(bundle).passed
    verdict = simtoreal.evaluate(bundle, out=tmp_path / "verdict", suites=["train"], episodes=2)
    assert len(verdict.episodes) == 2


def test_what_makes_no_teacher_is_refused(teacher, student, tmp_path, cli):
    train = ["train", "CartPoleSwingUp", "--steps", 100, "--out", tmp_path / "run", "--set", "teacher=true"]
    cli(*train).refused("teacher: a teacher sees the drawn parameters, so it needs privileged: true")
    train += ["--set", "privileged=true"]
    cli(*train, "--algorithm", "ppo").refused("teacher: ppo learns without; sac and td3 can be teachers")
    cli(*train, "--algorithm", "sb3-sac").refused("teacher: sb3-sac learns without")
    cli(*train, "--set", "agent.history=3").refused("a teacher has no need to remember")
    cli("distill", student.run, "--out", tmp_path / "out").refused("is no teacher's; train one with --set teacher=true")
    cli("distill", teacher, "--out", teacher, "--force").refused("is the run to start from")
    cli("distill", teacher, "--out", tmp_path / "out", "--set", "history=1").refused("distill: history must be from 2")
    cli("distill", teacher, "--out", tmp_path / "out", "--set", "speed=1").refused("no setting distill.speed; choices")
    assert not (tmp_path / "out").exists()
