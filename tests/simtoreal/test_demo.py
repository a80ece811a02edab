"""The demo, the benchmarks and the progress bar, as a newcomer meets them."""

import io
import json
import multiprocessing
import shlex

import numpy as np
import pytest
from rich.console import Console

import simtoreal.demo  # a module that is called as a verb; the fixture needs the module
from simtoreal import bench_workers, benchmarks, progress
from simtoreal.build import make_env
from simtoreal.cli import make_parser
from simtoreal.randomization import Preset, RandomizedEnv, Randomizer


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
    second = cli("demo", "CartPoleSwingUp", "--out", out, "--force")
    assert second.code == 0
    assert str(out / "verdict" / "report.html") in second.out
    last_words = second.out[second.out.index("Try next") :].strip().splitlines()
    assert len(last_words) == 4


def test_a_task_without_a_demo_is_refused(tmp_path, cli):
    cli("demo", "Pendulum-v1", "--out", tmp_path / "d").refused("no demo of Pendulum-v1; demos: PandaReach, CartPole")


def test_a_benchmark_compares_with_a_named_peer(cli):
    said = cli("bench", "inference", "--rounds", "1", "--json")
    assert said.code == 0
    rows = {row["peer_name"]: row for row in said.result["rows"]}
    assert set(rows) == {"torch", "Stable-Baselines3 predict"}
    for row in rows.values():
        assert row["ratio"] == pytest.approx(row["peer"] / row["ours"], rel=1e-6)
    cli("bench", "speed").refused("no benchmark")


def test_a_step_and_the_bare_engine_go_through_the_same_states():
    """Else one of the two would have more contacts to solve than the other."""
    env, twin = make_env("simtoreal/A1Walk-v0"), make_env("simtoreal/A1Walk-v0")
    draw = {"link.trunk.mass": 5.0, "ground.slope.pitch": 0.05, "actuator.latency": 0.013, "sensor.gyro.noise": 0.2}
    everything = {"parameters": draw}
    env.reset(seed=0, options=everything)
    torques = benchmarks._torques(env, [np.full(12, 0.5, np.float32)] * 20)
    twin.reset(seed=0, options=everything)
    twin.unwrapped.world.bare_steps(torques, gravity=False)
    assert len(torques) == 200
    assert twin.unwrapped.world.state() == env.unwrapped.world.state()
    env.close()
    twin.close()


def test_what_a_reset_writes_to_the_engine_is_all_that_its_peer_does():
    env = make_env("simtoreal/CartPoleSwingUp-v0")
    preset = Preset.loads("task: CartPoleSwingUp\nversion: 1\nentries:\n  link.pole.mass: {uniform: [0.05, 0.2]}\n")
    env = RandomizedEnv(env, Randomizer(preset, env.get_wrapper_attr("parameters")))
    writes = benchmarks._writes(env, resets=3)
    assert [[write.func.__name__ for write in each] for each in writes] == [
        ["changeDynamics", "resetJointStatesMultiDof"]
    ] * 3
    assert len({write.keywords["mass"] for write, _ in writes}) == 3
    env.close()


def test_workers_are_compared_by_rate_and_by_cost(cli, monkeypatch):
    for name, value in {"PER_WORKER": (1,), "SCALED": 1, "TURN": 0.05, "WORKER_TASKS": ("CartPoleSwingUp",)}.items():
        monkeypatch.setattr(bench_workers, name, value)
    said = cli("bench", "workers", "--rounds", "3", "--json")
    assert said.code == 0, said.err
    peers = ("gymnasium AsyncVectorEnv", "Stable-Baselines3 SubprocVecEnv", "one worker of ours")
    assert [(row["peer_name"], row["unit"]) for row in said.result["rows"]] == [
        (peer, unit) for peer in peers for unit in ("steps/s", "CPU us/step")
    ]
    for row in said.result["rows"]:
        assert 0.02 < row["ratio"] < 50
        assert 10 < row["ours"] < 1e5
    assert not multiprocessing.active_children()


def test_the_bar_shows_steps_rate_time_left_return_and_success(monkeypatch):
    console = Console(file=io.StringIO(), force_terminal=True, width=150, color_system=None)
    monkeypatch.setattr(progress, "Console", lambda **_: console)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with progress.training_progress(400, "PandaReach sac") as bar:
        assert bar is not None
        bar.update(100, {"return": -3.25, "success": 0.5})
        bar.update(200, {"return": 7.5, "success": 0.75, "evaluation_success": 1.0})
    shown = console.file.getvalue()
    assert "PandaReach sac" in shown
    assert "200/400" in shown
    assert "steps/s" in shown
    assert "0:00:0" in shown
    assert "return 7.50  success 75%  evaluated 100%" in shown
