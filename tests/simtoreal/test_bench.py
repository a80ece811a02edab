"""The benchmarks: that both sides do what the row says."""

import multiprocessing
import subprocess
import sys

import numpy as np
import pytest
import torch

from simtoreal import bench_gpu, bench_learners, bench_workers, benchmarks
from simtoreal.bench import BENCHMARKS
from simtoreal.build import make_env
from simtoreal.randomization import Preset, RandomizedEnv, Randomizer


def test_a_benchmark_compares_with_a_named_peer(cli):
    said = cli("bench", "inference", "--rounds", "1", "--json")
    assert said.code == 0
    rows = {row["peer_name"]: row for row in said.result["rows"]}
    assert set(rows) == {"torch", "Stable-Baselines3 predict"}
    for row in rows.values():
        assert row["ratio"] == pytest.approx(row["peer"] / row["ours"], rel=1e-6)
    cli("bench", "speed").refused("no benchmark")


def test_the_benchmark_of_a_gpu_runs_the_code_of_one_on_the_cpu(cli, monkeypatch):
    for name, value in {"DEVICE": "cpu", "UPDATES": 2, "PPO_ENVS": 1}.items():
        monkeypatch.setattr(bench_gpu, name, value)
    monkeypatch.setattr(bench_learners, "PPO_ENVS", 1)
    rows = bench_gpu.bench_gpu(rounds=1)
    units = ["updates/s", "updates/s", "steps/s", "steps/s"] * 2 + ["updates/s", "steps/s"]
    assert [row.unit for row in rows] == units
    for row in rows:
        assert row.ours > 0
        assert row.ratio == pytest.approx(row.ours / row.peer, rel=1e-6)
    if not torch.cuda.is_available():
        cli("bench", "gpu").refused("finds none")


def test_the_learners_are_measured_where_there_is_no_simulator():
    code = (
        "import sys; sys.modules['pybullet'] = None; from simtoreal import bench_learners; "
        "bench_learners.MODES = {('highest', False): 'fp32'}; "  # to compile takes minutes
        "from simtoreal.bench import bench; assert bench(['update'], rounds=1)['rows']"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize(
    ("task", "draw", "substeps"),
    [
        (
            "A1Walk",
            {"link.trunk.mass": 5.0, "ground.slope.pitch": 0.05, "actuator.latency": 0.013, "sensor.gyro.noise": 0.2},
            10,
        ),
        ("QuadrotorHover", {"link.body.mass": 0.03, "link.body.com.x": 0.002, "rotor.thrust.rear_left": 0.9}, 5),
    ],
)
def test_a_step_and_the_bare_engine_go_through_the_same_states(task, draw, substeps):
    """Else one of the two would have more contacts to solve than the other."""
    env, twin = make_env(f"simtoreal/{task}-v0"), make_env(f"simtoreal/{task}-v0")
    everything = {"parameters": draw}
    env.reset(seed=0, options=everything)
    given = benchmarks._given(env, [np.full(env.action_space.shape, 0.5, np.float32)] * 20)
    twin.reset(seed=0, options=everything)
    twin.unwrapped.world.bare_steps(given, gravity=False)
    assert len(given) == 20 * substeps
    assert twin.unwrapped.world.state() == env.unwrapped.world.state()
    env.close()
    twin.close()


def test_what_a_reset_writes_to_the_engine_is_all_that_its_peer_does():
    env = make_env("simtoreal/CartPoleSwingUp-v0")
    preset = Preset.loads("task: CartPoleSwingUp\nversion: 1\nentries:\n  link.pole.mass: {uniform: [0.05, 0.2]}\n")
    env = RandomizedEnv(env, Randomizer(preset, env.get_wrapper_attr("parameters")))
    writes = benchmarks._writes(env, resets=3)
    parts = ["changeDynamics"] * 5  # of the pole: its core, and two points on each of two axes
    assert [[write.func.__name__ for write in each] for each in writes] == [[*parts, "resetJointStatesMultiDof"]] * 3
    masses = {sum(write.keywords["mass"] for write in each[:5]) for each in writes}
    assert len(masses) == 3
    assert all(0.05 <= mass <= 0.2 for mass in masses)
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


def test_what_randomization_costs_is_told_of_resets_and_steps(cli, monkeypatch):
    monkeypatch.setattr(benchmarks, "ROBOTS", ("CartPoleSwingUp",))
    said = cli("bench", "randomization", "--rounds", "3", "--json")
    reset, step = said.result["rows"]
    assert (reset["unit"], step["unit"]) == ("ms", "us")
    assert 0.0 < reset["ours"] < reset["peer"] * 5
    assert step["ratio"] == pytest.approx(step["peer"] / step["ours"], rel=0.5)


def test_its_help_names_all(cli):
    said = " ".join(cli("bench", "--help").out.split())
    assert ", ".join(BENCHMARKS) in said


def test_what_is_left_out_for_want_of_a_peer_is_said(cli, monkeypatch):
    for module in ("bench", "bench_peers"):
        monkeypatch.setattr(f"simtoreal.{module}.find_spec", lambda name: None)
    said = cli("bench", "overhead", "--json")
    assert (said.code, said.result["rows"]) == (0, [])
    assert said.result["left_out"] == [
        "overhead against pybullet_envs_gymnasium, which is not installed (pip install pybullet_envs_gymnasium)",
        "overhead against panda_gym, which is not installed (pip install panda-gym)",
    ]
    assert cli("bench", "overhead").out == "".join(f"left out: {line}\n" for line in said.result["left_out"])
