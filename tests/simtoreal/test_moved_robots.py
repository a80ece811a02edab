"""A robot file that lies elsewhere since it was trained on: each verb goes on where it is told, with the same robot."""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

import simtoreal
import simtoreal.finetune  # a module that is called as a verb; the tests need the module
from simtoreal import robot_session
from simtoreal.randomization.yaml_files import dump_yaml
from simtoreal.runs import Run
from tests.simtoreal.robots import write_target

URDF = Path(__file__).parent / "assets" / "furuta.urdf"
FURUTA = {
    "robot": "furuta",
    "urdf": URDF.name,
    "joints": {"turn": {"at": 0.5, "effort": 0.4}, "swing": 0.0},
    "balance": {"driven": "turn", "pole": "swing", "room": 2.0},
}
SETTINGS = ("agent.hidden=[16, 16]", "agent.learning_starts=50", "agent.compile=false", "evaluate_episodes=1")


@dataclass(frozen=True)
class Moved:
    """A run, its bundle and its verdict, all of a robot file that was at `old` then and is at `new` now."""

    run: Path
    bundle: Path
    verdict: Path
    old: Path
    new: Path


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """No test may change it."""
    folder = tmp_path_factory.mktemp("lab")
    old, new = folder / "old" / "robot.yaml", folder / "new" / "robot.yaml"
    old.parent.mkdir()
    shutil.copy(URDF, old.parent)
    old.write_text(dump_yaml(FURUTA))
    out = {name: folder / name for name in ("run", "bundle", "verdict")}
    simtoreal.train("Balance", robot=str(old), steps=60, out=out["run"], checkpoint_every=30, assignments=SETTINGS)
    simtoreal.export(out["run"], out["bundle"])
    simtoreal.evaluate([out["bundle"]], suites=["nominal"], episodes=1, out=out["verdict"])
    old.parent.rename(new.parent)
    return Moved(old=old, new=new, **out)


@pytest.fixture
def moved(before, tmp_path):
    """One to change; bundle and verdict belong to the run and to the bundle that no test may change."""
    run, new = (shutil.copytree(path, tmp_path / path.name) for path in (before.run, before.new.parent))
    return Moved(run, before.bundle, before.verdict, before.old, new / "robot.yaml")


def verbs(moved, out):
    """Each that needs the robot, but for --robot."""
    return {
        "resume": ("train", "Balance", "--resume", "--steps", 90, "--out", moved.run),
        "export": ("export", moved.run, "--out", out),
        "verify": ("verify", moved.bundle, "--run", moved.run),
        "replay": ("replay", moved.verdict, "nominal/nominal/0"),
        "finetune": ("finetune", moved.run, "--target", "t.yaml", "--robot-seconds", 190, "--out", out),
    }


@pytest.mark.parametrize("verb", ["resume", "export", "verify", "replay", "finetune"])
def test_a_robot_that_is_gone_or_another_is_refused(moved, tmp_path, cli, verb):
    words = verbs(moved, tmp_path / "out")[verb]
    cli(*words).refused(f"{moved.old}: no such robot file; where it lies elsewhere now, name it with --robot FILE")
    made = f"{moved.verdict} was judged on" if verb == "replay" else f"{moved.run} was trained on"
    said = moved.new.read_text()
    moved.new.write_text(said.replace("room: 2.0", "room: 1.9"))
    cli(*words, "--robot", moved.new).refused(f"{made} another version of {moved.new}: the robot file differs")
    moved.new.write_text(said)
    urdf = moved.new.with_name(URDF.name)
    urdf.write_text(urdf.read_text().replace('mass value="0.1"', 'mass value="0.11"'))
    cli(*words, "--robot", moved.new).refused(f"{made} another version of {moved.new}: the URDF differs")
    moved.new.write_text(said.replace("room: 2.0", "room: 1.9"))
    cli(*words, "--robot", moved.new).refused(f"{moved.new}: the robot file and the URDF differ")
    assert not (tmp_path / "out").exists()
    assert Run.load(moved.run).summary["steps"] == 60


def test_a_run_goes_on_with_the_robot_where_it_is_now(moved, tmp_path, cli):
    """And remembers it; its earlier checkpoints are still its own."""
    assert cli(*verbs(moved, tmp_path)["resume"], "--robot", moved.new).code == 0
    assert Run.load(moved.run).config.task == f"{moved.new}:Balance"
    assert [Run.load(moved.run).actor(which)[1]["step"] for which in ("60", "last")] == [60, 90]


def test_a_bundle_is_made_checked_and_replayed_with_the_robot_where_it_is_now(moved, tmp_path, cli):
    out = tmp_path / "out"
    assert cli(*verbs(moved, out)["export"], "--robot", moved.new).code == 0
    assert json.loads((out / "spec.json").read_text())["task"] == f"{moved.new}:Balance"
    said = cli("verify", out)
    assert "closed loop" in said.out, "the bundle knows where the robot is, its run does not"
    assert said.code == 0
    said = cli(*verbs(moved, out)["verify"], "--robot", moved.new)
    assert (said.code, "skip" in said.out) == (0, False)
    assert "identical" in cli(*verbs(moved, out)["replay"], "--robot", moved.new).out
    cli("export", moved.run, "--robot", moved.new.with_name("nowhere.yaml"), "--out", tmp_path / "o").refused(
        "nowhere.yaml: no such robot file"
    )


def test_a_bundle_of_another_command_names_the_joint_that_differs(moved, tmp_path, cli):
    moved.new.write_text(moved.new.read_text().replace("effort: 0.4", "effort: 0.3"))
    words = "evaluate", moved.bundle, "--robot", moved.new, "--suite", "nominal", "--episodes", 1
    said = cli(*words, "--out", tmp_path / "v")
    said.refused(f"was made for another {moved.new}:Balance: command torque.turn: scale 0.4, now 0.3 N m")
    assert "CommandMap" not in said.err


@pytest.fixture
def short(monkeypatch):
    """What takes time in fine-tuning but the robot, cut to a moment."""
    for name, value in {"SIMULATED_STEPS": 120, "PRETRAINING": 20, "WARM_UP": 20, "UPDATES_PER_STEP": 0.2}.items():
        monkeypatch.setattr(robot_session, name, value)
    monkeypatch.setattr(simtoreal.finetune, "SIMULATED_STEPS", 120)
    monkeypatch.setattr(simtoreal.finetune, "LEVEL", 1.0)  # what was learned is kept, whatever it is worth


def test_a_robot_file_is_fine_tuned_on_a_robot_of_its_own_file(moved, tmp_path, short, cli):
    """The robot has its file where nobody else does: the learner knows the task by its own."""
    theirs = tmp_path / "robot"
    shutil.copytree(moved.new.parent, theirs)
    target = write_target(theirs, "robot.yaml:Balance", {"actuator.strength": 0.8}, reset_seconds=100.0)
    out = tmp_path / "tuned"
    learn = "finetune", moved.run, "--robot-seconds", 1900, "--robot", moved.new
    said = cli(*learn, "--target", target, "--out", out, "--json")
    assert said.code == 0, said.err
    assert said.result["rollouts"] >= 17
    tuned = Run.load(out)
    assert tuned.config.task == tuned.summary["task"] == f"{moved.new}:Balance"
    tuned.check_robot()
    assert tuned.actor("best")[1]["step"] == said.result["rollouts"]
    assert tuned.actor("0")[0].action_size == 1
    other = write_target(theirs, "PandaReach", {})
    cli(*learn, "--target", other, "--out", tmp_path / "x").refused(
        f"the robot has task simtoreal/PandaReach-v0, not {moved.new}:Balance"
    )
    gone = write_target(theirs, "gone.yaml:Balance", {})
    cli(*learn, "--target", gone, "--out", tmp_path / "x").refused(f"task: {theirs}/gone.yaml: no such robot file")
    nobody = write_target(theirs, "Balance", {})
    said = cli(*learn, "--target", nobody, "--out", tmp_path / "x")
    said.refused("task: Balance is what a robot file makes of a robot: write FILE:Balance")
    assert re.search(r"target-\d\.yaml:1: ", said.err)
