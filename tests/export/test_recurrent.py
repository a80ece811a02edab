"""Bundles of recurrent policies: the graph, the golden vectors, the hidden state that the runtime keeps."""

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
    Image,
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

UNITS = 4


class Remembers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(5, UNITS), nn.Linear(UNITS, 2)

    def forward(self, observation, hidden_state):
        following = self.cell(observation, hidden_state)
        return self.head(following).tanh(), following


@pytest.fixture(scope="module")
def recurrent_spec(spec):
    return replace(spec, recurrent=UNITS)


@pytest.fixture(scope="module")
def actor() -> nn.Module:
    torch.manual_seed(1)
    return Remembers()


@pytest.fixture(scope="module")
def recorded() -> np.ndarray:
    rows = np.random.default_rng(3).normal(size=(50, UNITS + 5)).astype(np.float32)
    rows[:, :UNITS] = np.tanh(rows[:, :UNITS])
    return rows


@pytest.fixture(scope="module")
def whole(tmp_path_factory, recurrent_spec, actor, recorded) -> Path:
    """A bundle that no test may change."""
    out = tmp_path_factory.mktemp("recurrent") / "bundle"
    return write_bundle(out, actor=actor, spec=recurrent_spec, recorded_observations=recorded)


@pytest.fixture
def copied(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "bundle"))


@pytest.fixture
def runtime(whole) -> Runtime:
    return Runtime(whole)


def observations(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(*shape, 5)).astype(np.float32)


def by_torch(actor, rows) -> np.ndarray:
    """The commands [T, 2] of an episode [T, 5], as the contract of the leg says: relative to its angles, clipped."""
    h, found = torch.zeros(1, UNITS), []
    with torch.no_grad():
        for row in rows:
            h = actor.cell(torch.from_numpy(row)[None], h)
            action = torch.tanh(actor.head(h))[0].numpy()
            found.append(np.clip([0.1, -0.2] + np.array([0.5, 1.0]) * action + row[:2], [-1.0, -1.5], [1.0, 1.5]))
    return np.array(found)


def test_only_the_contract_of_a_recurrent_policy_says_so(spec, recurrent_spec):
    written = json.loads(json.dumps(recurrent_spec.to_dict()))
    assert (written["format_version"], written["recurrent"]) == (4, UNITS)
    assert not {"history", "image"} & written.keys()
    assert "recurrent" not in spec.to_dict()
    assert "recurrent" not in replace(spec, history=2).to_dict()
    assert spec_from_dict(written) == recurrent_spec
    assert recurrent_spec.contract_sha256() != spec.contract_sha256()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"recurrent": -1}, "recurrent must be a whole number from 0, got -1"),
        ({"recurrent": True}, "recurrent must be a whole number from 0, got True"),
        ({"recurrent": 4.0}, "recurrent must be a whole number from 0, got 4.0"),
        ({"recurrent": 0}, "format version 4, what it says is of format 1"),
        ({"format_version": 3}, 'unknown key "recurrent"'),
        ({"format_version": 2}, 'unknown key "recurrent"'),
        ({"history": 2}, 'unknown key "history"'),
    ],
)
def test_a_contract_that_makes_no_sense_is_refused(recurrent_spec, change, words):
    with pytest.raises(SpecError, match=words):
        spec_from_dict(recurrent_spec.to_dict() | change)


def test_a_hidden_state_stands_beside_neither_history_nor_image(recurrent_spec):
    for more in ({"history": 2}, {"image": Image((1, 1, 5), "CHW")}):
        with pytest.raises(SpecError, match="a recurrent policy has neither history nor image"):
            replace(recurrent_spec, **more)


def test_an_older_runtime_refuses_it_by_its_number(whole, tmp_path):
    older = Path(shutil.copytree(whole / "onboard", tmp_path / "onboard"))
    text = (older / "spec.py").read_text()
    assert text.count("FORMAT_VERSION = 5") == 1
    (older / "spec.py").write_text(text.replace("FORMAT_VERSION = 5", "FORMAT_VERSION = 3"))
    command = [sys.executable, older, "--self-test", "--bundle", whole]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.returncode == 2
    (line,) = said.stderr.splitlines()
    assert line.endswith("the contract has format version 4; this runtime reads up to 3")


def test_the_model_takes_and_gives_the_hidden_state(whole):
    model = onnx.load(whole / "policy.onnx")
    entries = (*model.graph.input, *model.graph.output)
    found = [(entry.name, entry.type.tensor_type.shape.dim[1].dim_value) for entry in entries]
    assert found == [("observation", 5), ("hidden_state", UNITS), ("command", 2), ("next_hidden_state", UNITS)]
    assert all(entry.type.tensor_type.shape.dim[0].dim_param for entry in entries)


def test_every_check_passes(whole, copied):
    checks = verify_bundle(whole)
    assert all(check.passed for check in checks), checks
    assert {check.name: check.detail for check in checks}["schema"] == "format 4, 5 with 4 recurrent units -> 2"
    command = [sys.executable, copied / "onboard", "--self-test", "--json"]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (said.returncode, said.stderr) == (0, "")
    assert json.loads(said.stdout)["golden_error"] < 1e-6


def test_the_runtime_carries_the_hidden_state_through_an_episode_and_no_further(runtime, actor):
    rows = observations(30)
    expected = by_torch(actor, rows)
    for _ in range(2):
        np.testing.assert_allclose([runtime.act(row) for row in rows], expected, atol=1e-6)
        runtime.reset()
    assert np.abs(expected[-1] - by_torch(actor, rows[-1:])[0]).max() > 1e-3


def test_each_row_of_a_batch_has_a_hidden_state_of_its_own(runtime):
    steps = observations(6, 3)
    together = np.array([runtime.act(rows) for rows in steps])
    with pytest.raises(ObservationError, match=r"a batch of 1, this episode began with 3; call reset\(\)"):
        runtime.act(steps[0][0])
    for i in range(3):
        runtime.reset()
        np.testing.assert_allclose([runtime.act(rows[i]) for rows in steps], together[:, i], atol=1e-6)


def test_what_was_refused_or_only_checked_is_not_remembered(runtime):
    rows = observations(4)
    expected = [runtime.act(row) for row in rows]
    runtime.reset()
    for row, command in zip(rows, expected, strict=True):
        with pytest.raises(ObservationError, match=r"not finite at q\[hip\]"):
            runtime.act(row * np.nan)
        np.testing.assert_array_equal(runtime.act(row), command)
        assert runtime.golden_error() < 1e-6
        runtime.latency(3)


def test_the_loop_closes_over_many_episodes_unless_a_memory_is_wrong(whole, actor, recurrent_spec):
    def closed(change=lambda runtime: None):
        runtime = Runtime(whole)
        loop = ClosedLoop(runtime, PolicyGraph(actor, recurrent_spec))
        change(runtime)
        for step, row in enumerate(observations(200)):
            if step % 37 == 0:
                loop.reset()
            loop.act(row)
        return loop.parity()

    parity = closed()
    assert (parity.steps, parity.held) == (200, True)
    assert parity.worst < 1e-6
    assert not closed(lambda runtime: setattr(runtime, "reset", lambda: None)).held  # it never forgets


def test_golden_vectors_hold_hidden_states_within_their_range(whole, recurrent_spec, recorded):
    with np.load(whole / "golden.npz") as data:
        widths = {name: array.shape[1] for name, array in data.items()}
    assert widths == {"observation": 5, "hidden_state": UNITS, "command": 2, "next_hidden_state": UNITS}
    rows, answers = Runtime(whole).golden()
    np.testing.assert_array_equal(rows[: len(recorded)], recorded)
    assert answers.shape == (len(rows), 2 + UNITS)
    assert np.abs(rows[:, :UNITS]).max() == 1.0
    base = np.concatenate([np.zeros(UNITS), [1.0, 2.0, 3.0, 4.0, 5.0]])
    made = golden_observations(base + np.array([[1.0], [-1.0], [1.0], [-1.0]]) * (base > 0), recurrent_spec)
    for expected in ([1, 2, 3, 4, 15], [11, 12, 3, 4, 5], [1, 2, -7, -6, 5], [-9, -8, -7, -6, -5]):
        assert expected in made[-8:, UNITS:].tolist()


@pytest.mark.parametrize("damage", ["command", "hidden_state", "next_hidden_state", "missing", "not finite"])
def test_golden_vectors_that_were_tampered_with_are_caught(copied, resign, damage):
    with np.load(copied / "golden.npz") as data:
        arrays = dict(data)
    if damage == "missing":
        del arrays["next_hidden_state"]
    elif damage == "not finite":
        arrays["hidden_state"][3, 1] = np.nan
    else:
        arrays[damage][3] += 0.03
    np.savez(copied / "golden.npz", **arrays)
    resign(copied)
    if damage == "missing":
        with pytest.raises(SpecError, match=r"golden.npz"):
            verify_bundle(copied)
    elif damage == "not finite":
        with pytest.raises(ObservationError, match=r"not finite at hidden_state\[1\]"):
            verify_bundle(copied)
    else:
        assert [check.name for check in verify_bundle(copied) if not check.passed] == ["golden", "batch"]


def test_a_model_without_the_hidden_state_does_not_arm(copied, resign):
    model = onnx.load(copied / "policy.onnx")
    del model.graph.output[1]
    onnx.save(model, copied / "policy.onnx")
    resign(copied)
    wanted = r'one float tensor "command" \[batch, 2\] and one float tensor "next_hidden_state" \[batch, 4\], got'
    with pytest.raises(SpecError, match=wanted):
        Runtime(copied)


def test_a_model_that_remembers_something_else_is_not_written(
    whole, actor, recurrent_spec, recorded, tmp_path, monkeypatch
):
    def forgetful(graph, metadata):
        model = onnx.load(whole / "policy.onnx")
        for node in model.graph.node:
            node.output[:] = ["shadow" if name == "next_hidden_state" else name for name in node.output]
            node.input[:] = ["shadow" if name == "next_hidden_state" else name for name in node.input]
        model.graph.node.append(onnx.helper.make_node("Identity", ["hidden_state"], ["next_hidden_state"]))
        return model.SerializeToString()

    monkeypatch.setattr(bundle_module, "export_onnx", forgetful)
    with pytest.raises(ExportError, match="onnxruntime differs from torch"):
        write_bundle(tmp_path / "b", actor=actor, spec=recurrent_spec, recorded_observations=recorded)
    assert not list(tmp_path.iterdir())


class Forgets(Remembers):
    def forward(self, observation, hidden_state):
        return super().forward(observation, hidden_state)[0]


class Narrows(Remembers):
    def forward(self, observation, hidden_state):
        action, following = super().forward(observation, hidden_state)
        return action, following[:, 1:]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (nn.Linear(5, 2), r"the actor does not take observations \[1, 5\] and hidden states \[1, 4\]"),
        (Forgets(), r"must give actions \[1, 2\] and hidden states \[1, 4\], it gives \[1, 2\]"),
        (
            Narrows(),
            r"must give actions \[1, 2\] and hidden states \[1, 4\], it gives \[1, 2\] and hidden states \[1, 3\]",
        ),
    ],
)
def test_an_actor_without_the_hidden_state_is_refused(wrong, words, recurrent_spec, recorded, tmp_path):
    with pytest.raises(ExportError, match=words):
        write_bundle(tmp_path / "b", actor=wrong, spec=recurrent_spec, recorded_observations=recorded)
