"""The demo and the progress bar, as a newcomer meets them."""

import io
import json
import shlex
import shutil
from pathlib import Path

import pytest
from rich.console import Console

import simtoreal.demo  # a module that is called as a verb; the fixture needs the module
from simtoreal import progress
from simtoreal.cli import make_parser

BUNDLE = Path(__file__).parents[2] / "examples" / "bundles" / "cartpoleswingup"


@pytest.fixture
def short(monkeypatch):
    """The demo of the cart-pole, cut to seconds."""
    monkeypatch.setitem(simtoreal.demo.PLANS, "CartPoleSwingUp", simtoreal.demo.Plan(1_200, 1))


@pytest.fixture
def broken_off(tmp_path):
    """What an earlier demo left that did not come to its end, but for its film."""
    folder = tmp_path / "my demo"
    for bundle in ("randomized", "plain"):
        shutil.copytree(BUNDLE, folder / bundle)
    (folder / "CartPoleSwingUp.mp4").write_text("half a film")
    (folder / "demo.json").write_text('{"task": "CartPoleSwingUp", "seed": 0, "finished": false}')
    return folder


def test_the_demo_goes_the_whole_way_over_an_earlier_one(short, broken_off, tmp_path, cli):
    out = broken_off
    asked = ("demo", "CartPoleSwingUp", "--out", out, "--engine", "mujoco")
    assert "exists" in cli(*asked).err
    done = cli(*asked, "--force")
    assert done.code == 0, done.err
    found = json.loads((out / "demo.json").read_text())
    assert found["finished"]
    assert 8 <= len(found["table"]) <= 12
    assert found["table"]["bundles verified against torch"] == "yes"
    for figure in (*found["table"], "heldout@mujoco/", "--engine mujoco", str(out / "verdict" / "report.html")):
        assert figure in done.out
    assert "robots never seen: randomized" in done.out
    assert (out / "verdict" / "report.html").stat().st_size > 10_000
    assert (out / "CartPoleSwingUp.mp4").stat().st_size > 1_000
    assert done.out[done.out.index("Try next") :].strip().splitlines()[1:] == [f"  {c}" for c in found["next_commands"]]
    assert len(found["next_commands"]) == 3
    for command in found["next_commands"]:
        program, *arguments = shlex.split(command)
        assert program == "simtoreal"
        make_parser().parse_args(arguments)
    replayed = shlex.split(found["next_commands"][0])
    replayed[replayed.index("--video") + 1] = str(tmp_path / "case.mp4")
    assert cli(*replayed[1:]).code == 0


def test_a_task_without_a_demo_is_refused(tmp_path, cli):
    cli("demo", "Pendulum-v1", "--out", tmp_path / "d").refused("no demo of Pendulum-v1; demos: PandaReach, CartPole")


def test_the_bar_shows_steps_rate_time_left_return_and_success(monkeypatch):
    console = Console(file=io.StringIO(), force_terminal=True, width=150, color_system=None)
    monkeypatch.setattr(progress, "Console", lambda **_: console)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with progress.training_progress("PandaReach sac") as bar:
        assert bar is not None
        bar.update(100, {"steps": 400, "return": -3.25, "success": 0.5})
        bar.update(200, {"steps": 400, "return": 7.5, "success": 0.75, "evaluation_success": 1.0})
    shown = console.file.getvalue()
    assert "PandaReach sac" in shown
    assert "200/400" in shown
    assert "steps/s" in shown
    assert "0:00:0" in shown
    assert "return 7.50  success 75%  evaluated 100%" in shown
