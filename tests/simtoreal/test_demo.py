"""The demo and the progress bar, as a newcomer meets them."""

import io
import json
import shlex

import pytest
from rich.console import Console

import simtoreal.demo  # a module that is called as a verb; the fixture needs the module
from simtoreal import progress
from simtoreal.cli import make_parser


@pytest.fixture
def short(monkeypatch):
    """The demo of the cart-pole, cut to seconds."""
    monkeypatch.setitem(simtoreal.demo.PLANS, "CartPoleSwingUp", simtoreal.demo.Plan(1_200, 1))


def test_the_demo_goes_the_whole_way_and_again_over_itself(short, tmp_path, cli):
    out = tmp_path / "my demo"
    first = cli("demo", "CartPoleSwingUp", "--out", out, "--json")
    assert first.code == 0, first.err
    assert json.loads((out / "demo.json").read_text())["finished"]
    assert 8 <= len(first.result["table"]) <= 12
    assert first.result["table"]["bundles verified against torch"] == "yes"
    assert (out / "verdict" / "report.html").stat().st_size > 10_000
    assert (out / "CartPoleSwingUp.mp4").stat().st_size > 1_000
    assert len(first.result["next_commands"]) == 3
    for command in first.result["next_commands"]:
        program, *arguments = shlex.split(command)
        assert program == "simtoreal"
        make_parser().parse_args(arguments)
    replayed = shlex.split(first.result["next_commands"][0])
    replayed[replayed.index("--video") + 1] = str(tmp_path / "case.mp4")
    assert cli(*replayed[1:]).code == 0
    assert "exists" in cli("demo", "CartPoleSwingUp", "--out", out).err
    second = cli("demo", "CartPoleSwingUp", "--out", out, "--engine", "mujoco", "--force")
    assert second.code == 0
    assert "robots never seen: randomized" in second.out
    assert "heldout@mujoco/" in second.out
    assert "--engine mujoco" in second.out
    assert str(out / "verdict" / "report.html") in second.out
    last_words = second.out[second.out.index("Try next") :].strip().splitlines()
    assert len(last_words) == 4


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
