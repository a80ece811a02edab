"""Bundles of policies that see the last k observations: the graph, the golden vectors, the runtime's memory."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from simtoreal.export import (
    ClosedLoop,
    ExportError,
    ObservationError,
    PolicyGraph,
    Runtime,
    SpecError,
    verify_bundle,
    write_bundle,
)
from simtoreal.export import bundle as bundle_module
from simtoreal.export.bundle import golden_observations
from simtoreal.export.onboard.spec import spec_from_dict

HISTORY = 3


@pytest.fixture(scope="module")
def long_spec(spec):
    return replace(spec, history=HISTORY)


@pytest.fixture(scope="module")
def actor() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(HISTORY * 5, 32), nn.ReLU(), nn.Linear(32, 2), nn.Tanh())


@pytest.fixture(scope="module")
def recorded() -> np.ndarray:
    return np.random.default_rng(3).normal(size=(50, HISTORY * 5)).astype(np.float32)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, long_spec, actor, recorded) -> Path:
    """A bundle that no test may change."""
    out = tmp_path_factory.mktemp("history") / "bundle"
    return write_bundle(out, actor=actor, spec=long_spec, recorded_observations=recorded)


@pytest.fixture
def copied(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "bundle"))


@pytest.fixture
def runtime(whole) -> Runtime:
    return Runtime(whole)


def observations(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(*shape, 5)).astype(np.float32)


def test_only_a_contract_with_a_history_says_so(spec, long_spec):
    plain, long = spec.to_dict(), long_spec.to_dict()
    assert (plain["format_version"], "history" in plain) == (1, False)
    assert (long["format_version"], long["history"]) == (2, 3)
    assert {name: value for name, value in long.items() if name not in ("format_version", "history")} == {
        name: value for name, value in plain.items() if name != "format_version"
    }
    assert spec_from_dict(json.loads(json.dumps(long))) == long_spec
    assert long_spec.contract_sha256() != spec.contract_sha256()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"history": 0}, "history must be a whole number from 1, got 0"),
        ({"history": True}, "history must be a whole number from 1, got True"),
        ({"history": 3.0}, "history must be a whole number from 1, got 3.0"),
        ({"history": 1}, "format version 2, what it says is of format 1"),
        ({"format_version": 1}, 'unknown key "history"'),
        ({"history": None}, "history must be a whole number"),
    ],
)
def test_a_history_that_cannot_be_is_refused(long_spec, change, message):
    with pytest.raises(SpecError, match=message):
        spec_from_dict(long_spec.to_dict() | change)
    data = long_spec.to_dict()
    del data["history"]
    with pytest.raises(SpecError, match='lacks "history"'):
        spec_from_dict(data)


def test_the_graph_by_hand(long_spec):
    class OldestAngles(nn.Module):
        def forward(self, stack):
            return stack[:, :2]

    graph = PolicyGraph(OldestAngles(), long_spec)
    history = torch.tensor([[0.2, -0.4, 9, 9, 9, 7, 7, 7, 7, 7]])
    command, following = graph(torch.tensor([[0.5, 0.1, 1, 2, 3]]), history)
    # .1 + .5 * .2 + .5 and -.2 - 1 * .4 + .1: the oldest angles' action on top of the newest
    torch.testing.assert_close(command, torch.tensor([[0.7, -0.5]]))
    assert following.tolist() == [[7, 7, 7, 7, 7, 0.5, 0.10000000149011612, 1, 2, 3]]


def test_the_model_takes_and_gives_the_history(whole):
    model = onnx.load(whole / "policy.onnx")
    found = [
        (entry.name, entry.type.tensor_type.shape.dim[1].dim_value)
        for entry in (*model.graph.input, *model.graph.output)
    ]
    assert found == [("observation", 5), ("history", 10), ("command", 2), ("next_history", 10)]
    assert all(entry.type.tensor_type.shape.dim[0].dim_param for entry in (*model.graph.input, *model.graph.output))


def test_every_check_passes(whole):
    checks = verify_bundle(whole)
    assert all(check.passed for check in checks), checks
    assert {check.name: check.detail for check in checks}["schema"] == "format 2, 5 x 3 -> 2"


def test_the_runtime_shows_the_policy_the_episode_so_far(runtime, actor, long_spec):
    a, b, c, d = rows = observations(4)
    stacks = np.array([[*a, *a, *a], [*a, *a, *b], [*a, *b, *c], [*b, *c, *d]])
    expected = PolicyGraph(actor, long_spec).answers(stacks)
    for _ in range(2):
        np.testing.assert_allclose([runtime.act(row) for row in rows], expected, atol=1e-6)
        runtime.reset()
    np.testing.assert_allclose(runtime.answers(stacks), expected, atol=1e-6)


def test_each_row_of_a_batch_has_a_history_of_its_own(runtime):
    steps = observations(6, 4)  # [step, row, field]
    together = np.array([runtime.act(rows) for rows in steps])
    for i in range(4):
        runtime.reset()
        np.testing.assert_allclose([runtime.act(rows[i]) for rows in steps], together[:, i], atol=1e-6)


def test_another_batch_within_an_episode_is_refused(runtime):
    rows = observations(3)
    runtime.act(rows)
    with pytest.raises(ObservationError, match=r"a batch of 1, this episode began with 3; call reset\(\)"):
        runtime.act(rows[0])
    runtime.act(rows)
    runtime.reset()
    first = runtime.act(rows[0])
    assert runtime.act(rows[:1]).shape == (1, 2)
    runtime.reset()
    np.testing.assert_array_equal(runtime.act(rows[:1])[0], first)


def test_what_was_refused_is_not_remembered(runtime):
    rows = observations(3)
    expected = [runtime.act(row) for row in rows]
    runtime.reset()
    for row, command in zip(rows, expected, strict=True):
        with pytest.raises(ObservationError):
            runtime.act(row * np.nan)
        np.testing.assert_array_equal(runtime.act(row), command)


def test_a_check_in_mid_episode_changes_nothing_of_it(runtime):
    rows = observations(4)
    expected = [runtime.act(row) for row in rows]
    runtime.reset()
    for row, command in zip(rows, expected, strict=True):
        np.testing.assert_array_equal(runtime.act(row), command)
        assert runtime.golden_error() < 1e-6
        runtime.latency(3)


def test_the_loop_closes_over_many_episodes(whole, actor, long_spec):
    loop = ClosedLoop(Runtime(whole), PolicyGraph(actor, long_spec))
    rng = np.random.default_rng(0)
    for step in range(1000):
        if step % 37 == 0:  # an integrator that goes to the commanded angle at 10/s, anew
            q, qd = rng.normal(size=2), np.zeros(2)
            loop.reset()
        qd = 10 * (loop.act(np.concatenate([q, qd, [q.sum()]])) - q)
        q = q + 0.02 * qd
    parity = loop.parity()
    assert (parity.steps, parity.held) == (1000, True)
    assert parity.worst < 1e-6


@pytest.mark.parametrize("fault", ["forgets", "never forgets"])
def test_a_runtime_whose_memory_is_wrong_does_not_hold(runtime, actor, long_spec, fault):
    loop = ClosedLoop(runtime, PolicyGraph(actor, long_spec))
    if fault == "never forgets":
        runtime.reset = lambda: None
    for row in observations(3):
        loop.act(row)
        if fault == "forgets":
            runtime.reset()
    assert loop.parity().held == (fault == "never forgets")
    loop.reset()
    for row in observations(2):
        loop.act(row * 2)
    assert not loop.parity().held


def test_golden_vectors_hold_the_history_and_move_a_field_throughout_it(whole, long_spec, recorded):
    with np.load(whole / "golden.npz") as data:
        assert {name: array.shape[1] for name, array in data.items()} == {"observation": 5, "history": 10, "command": 2}
    stacks, command = Runtime(whole).golden()
    assert len(stacks) == len(command)
    np.testing.assert_array_equal(stacks[: len(recorded)], recorded)
    base = np.tile([1.0, 2.0, 3.0, 4.0, 5.0], 3)
    rows = golden_observations(np.tile(base, (4, 1)) + np.array([[1], [-1], [1], [-1]]), long_spec)  # std 1 each
    for expected in ([1, 2, 3, 4, 15], [11, 12, 3, 4, 5], [1, 2, -7, -6, 5], [-9, -8, -7, -6, -5]):
        assert expected * 3 in rows[-8:].tolist()


@pytest.mark.parametrize("damage", ["command", "history", "missing", "narrow", "not finite"])
def test_golden_vectors_that_were_tampered_with_are_caught(copied, resign, damage):
    with np.load(copied / "golden.npz") as data:
        arrays = dict(data)
    if damage == "missing":
        del arrays["history"]
    elif damage == "narrow":
        arrays["history"] = arrays["history"][:, :5]
    elif damage == "not finite":
        arrays["history"][3, 1] = np.nan
    else:
        arrays[damage][3] += 0.03
    np.savez(copied / "golden.npz", **arrays)
    with pytest.raises(SpecError, match=r"golden.npz has changed"):
        Runtime(copied)
    resign(copied)
    if damage in ("missing", "narrow"):
        with pytest.raises(SpecError, match=r"golden.npz"):
            verify_bundle(copied)
    elif damage == "not finite":
        with pytest.raises(ObservationError, match=r"not finite at q\[knee\]"):
            verify_bundle(copied)
    else:
        assert [check.name for check in verify_bundle(copied) if not check.passed] == ["golden", "batch"]


def test_a_model_without_the_history_does_not_arm(copied, resign):
    model = onnx.load(copied / "policy.onnx")
    del model.graph.output[1]
    onnx.save(model, copied / "policy.onnx")
    resign(copied)
    wanted = r'one float tensor "command" \[batch, 2\] and one float tensor "next_history" \[batch, 10\], got'
    with pytest.raises(SpecError, match=wanted):
        Runtime(copied)


def test_an_actor_without_the_history_is_refused(long_spec, recorded, tmp_path):
    with pytest.raises(ExportError, match=r"the actor does not take observations \[1, 15\]"):
        write_bundle(tmp_path / "b", actor=nn.Linear(5, 2), spec=long_spec, recorded_observations=recorded)


def test_a_model_that_remembers_something_else_is_not_written(whole, actor, long_spec, recorded, tmp_path, monkeypatch):
    def forgetful(graph, metadata):
        model = onnx.load(whole / "policy.onnx")
        for node in model.graph.node:
            node.output[:] = ["shadow" if name == "next_history" else name for name in node.output]
        model.graph.node.append(onnx.helper.make_node("Identity", ["history"], ["next_history"]))
        return model.SerializeToString()

    monkeypatch.setattr(bundle_module, "export_onnx", forgetful)
    with pytest.raises(ExportError, match="next_history is not its inputs without the oldest frame"):
        write_bundle(tmp_path / "b", actor=actor, spec=long_spec, recorded_observations=recorded)
    assert not list(tmp_path.iterdir())


def test_the_onboard_self_test_passes_and_says_no_to_other_commands(copied, resign):
    def self_test():
        command = [sys.executable, copied / "onboard", "--self-test", "--json"]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    said = self_test()
    assert (said.returncode, said.stderr) == (0, "")
    assert json.loads(said.stdout)["golden_error"] < 1e-6
    with np.load(copied / "golden.npz") as data:
        arrays = dict(data)
    np.savez(copied / "golden.npz", **arrays | {"history": arrays["history"] + np.float32(0.1)})
    resign(copied)
    assert self_test().returncode == 1
