from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from simtoreal.export import ClosedLoop, PolicyGraph, Runtime, SpecError, verify_bundle, write_bundle


def test_a_whole_bundle_passes_every_check(pristine):
    checks = verify_bundle(pristine)
    assert [check.name for check in checks] == ["integrity", "schema", "onnx", "golden", "batch", "latency"]
    assert all(check.passed for check in checks), checks
    values = {check.name: check.value for check in checks}
    assert values["golden"] < 1e-6
    assert values["latency"] > 0


def test_golden_vectors_of_another_policy_are_a_no(bundle, resign):
    with np.load(bundle / "golden.npz") as data:
        observation, command = data["observation"], data["command"].copy()
    command[3, 1] += 0.03  # of a range of 3 rad
    np.savez(bundle / "golden.npz", observation=observation, command=command)
    resign(bundle)
    checks = {check.name: check for check in verify_bundle(bundle)}
    assert not checks["golden"].passed
    assert checks["golden"].value == pytest.approx(0.01, rel=1e-3)
    assert not checks["batch"].passed
    assert checks["latency"].passed


def test_a_deadline_that_cannot_be_met_is_a_no(tmp_path, spec, actor, recorded, quick_export):
    hurried = replace(spec, control_dt=1e-7)
    out = write_bundle(tmp_path / "b", actor=actor, spec=hurried, recorded_observations=recorded)
    assert [check.name for check in verify_bundle(out) if not check.passed] == ["latency"]


def test_tampering_is_an_error_not_a_no(bundle):
    data = json.loads((bundle / "spec.json").read_text())
    data["control_dt"] = 0.03
    (bundle / "spec.json").write_text(json.dumps(data))
    with pytest.raises(SpecError, match="one was edited"):
        verify_bundle(bundle)


def test_nothing_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        verify_bundle(tmp_path)


def test_a_graph_that_onnx_refuses_is_an_error(bundle, resign):
    model = onnx.load(bundle / "policy.onnx")
    model.graph.node[0].domain = "example.elsewhere"
    (bundle / "policy.onnx").write_bytes(model.SerializeToString())
    resign(bundle)
    with pytest.raises(SpecError, match=r"policy.onnx"):
        verify_bundle(bundle)


def test_the_bundle_follows_its_network_wherever_the_loop_leads(pristine, actor, spec):
    loop = ClosedLoop(Runtime(pristine), PolicyGraph(actor, spec))
    q, qd = np.array([0.3, -0.4]), np.zeros(2)
    for _ in range(300):  # an integrator that goes to the commanded angle at 10/s
        qd = 10 * (loop.act(np.concatenate([q, qd, [q.sum()]])) - q)
        q = q + 0.02 * qd
    parity = loop.parity()
    assert parity.steps == 300
    assert parity.held
    assert parity.worst < 1e-6


def test_a_difference_in_the_loop_is_measured_as_a_share_of_the_range(pristine, actor, spec, recorded):
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.actor = actor

        def forward(self, observation):
            return self.actor(observation) + torch.tensor([0.04, 0.0])

    loop = ClosedLoop(Runtime(pristine), PolicyGraph(Shifted(), spec))
    loop.act(np.zeros(5, np.float32))
    parity = loop.parity()
    assert parity.worst == pytest.approx(0.01, rel=1e-3)  # .04 * scale .5 of a range of 2 rad
    assert not parity.held


def test_a_loop_of_no_step_is_no_parity(pristine, actor, spec):
    with pytest.raises(ValueError, match="at least one observation"):
        ClosedLoop(Runtime(pristine), PolicyGraph(actor, spec)).parity()
