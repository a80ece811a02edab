from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace

import numpy as np
import onnx
import onnx.reference
import pytest
import torch
from onnx.external_data_helper import set_external_data
from torch import nn

from simtoreal.export import CommandError, ObservationError, Runtime, SpecError, write_bundle
from simtoreal.export.onboard import runtime as runtime_module
from simtoreal.export.onboard.model_file import read_metadata


@pytest.fixture(scope="module")
def runtime(pristine):
    return Runtime(pristine)


@pytest.fixture
def no_session(monkeypatch):
    def refuse(*args, **kwargs):
        pytest.fail("a session was opened")

    monkeypatch.setattr(runtime_module.onnxruntime, "InferenceSession", refuse)


def test_commands_are_those_of_the_onnx_reference_implementation(runtime, pristine):
    rows = np.random.default_rng(5).normal(size=(64, 5)).astype(np.float32)
    reference = onnx.reference.ReferenceEvaluator(onnx.load(pristine / "policy.onnx"))
    (expected,) = reference.run(None, {"observation": rows})
    np.testing.assert_allclose(runtime.act(rows), expected, atol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 7])
def test_any_batch_gives_each_row_its_own_command(runtime, recorded, size):
    together = runtime.act(recorded[:size])
    assert together.shape == (size, 2)
    assert together.dtype == np.float32
    for row, command in zip(recorded, together, strict=False):
        np.testing.assert_allclose(runtime.act(row), command, atol=1e-6)


def test_one_observation_gives_one_command(runtime, recorded):
    first = runtime.act(recorded[0])
    assert first.shape == (2,)
    kept = first.copy()
    runtime.act(recorded[1])
    np.testing.assert_array_equal(first, kept)


def test_float64_a_list_and_a_strided_view_are_taken(runtime, recorded):
    expected = runtime.act(recorded[0])
    np.testing.assert_array_equal(runtime.act(recorded[0].astype(np.float64)), expected)
    np.testing.assert_array_equal(runtime.act([float(value) for value in recorded[0]]), expected)
    np.testing.assert_array_equal(runtime.act(np.repeat(recorded[0], 2)[::2]), expected)


def test_fields_by_name_in_any_order(runtime, recorded):
    row = recorded[0]
    named = {"height": float(row[4]), "qd": row[2:4], "q": row[:2].astype(np.float64)}
    np.testing.assert_array_equal(runtime.act(named), runtime.act(row))
    batch = {"height": recorded[:7, 4:], "qd": recorded[:7, 2:4], "q": recorded[:7, :2]}
    np.testing.assert_array_equal(runtime.act(batch), runtime.act(recorded[:7]))


ROW = np.zeros(5, np.float32)


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        (np.zeros((0, 5), np.float32), '"observation" holds no observation: the batch is 0'),
        (np.zeros(4, np.float32), r'"observation" must be \[5\] or \[batch, 5\], got \[4\]'),
        (np.zeros((2, 6), np.float32), r"got \[2, 6\]"),
        (np.zeros((1, 1, 5), np.float32), r"got \[1, 1, 5\]"),
        (np.float32(1.0), r"got \[\]"),
        (np.zeros(5, np.int64), '"observation" must be float32 or float64, got int64'),
        (np.zeros(5, np.float16), "got float16"),
        (np.zeros(5, bool), "got bool"),
        (np.zeros(5, complex), "got complex128"),
        (np.array([None] * 5), "got object"),
        (["a"] * 5, "got <U1"),
        ([[0.0], [0.0, 1.0]], '"observation" is no array'),
        (np.array([0, np.nan, 0, 0, 0]), r'"observation" is not finite at q\[knee\] \(element 1\)'),
        (np.array([[0.0] * 5, [0, 0, 0, 0, np.inf]]), r"not finite at height\[0\] \(element 4\)"),
        (np.array([0, 0, 1e300, 0, 0]), r'"observation" holds 1e\+300, beyond float32'),
        ({"q": ROW[:2], "qd": ROW[:2]}, 'lacks the field "height"'),
        ({"q": ROW[:2], "qd": ROW[:2], "height": ROW[:1], "z": 0.0}, 'no observation field "z"; fields: q, qd, height'),
        ({"observations": ROW}, 'no observation field "observations"; fields: q, qd, height'),
        ({"q": ROW[:3], "qd": ROW[:2], "height": 0.0}, r'"q" must be \[2\] or \[batch, 2\], got \[3\]'),
        ({"q": ROW[:2], "qd": ROW[:2].reshape(1, 2), "height": 0.0}, '"qd" has another batch than "q"'),
        ({"q": ROW[:2], "qd": [1, 2], "height": 0.0}, '"qd" must be float32 or float64, got int64'),
        ({"q": np.zeros((0, 2)), "qd": np.zeros((0, 2)), "height": np.zeros((0, 1))}, "the batch is 0"),
    ],
)
def test_what_the_policy_cannot_take_is_refused_by_name(runtime, observation, message):
    with pytest.raises(ObservationError, match=message) as caught:
        runtime.act(observation)
    assert "\n" not in str(caught.value)


def test_a_command_that_overflows_never_leaves_the_runtime(tmp_path, spec, recorded):
    class Square(nn.Module):
        def forward(self, observation):
            big = observation[:, 2:4] ** 10
            return torch.tanh(big - big)  # inf - inf

    out = write_bundle(tmp_path / "b", actor=Square(), spec=spec, recorded_observations=recorded)
    with pytest.raises(CommandError, match='"command" is not finite'):
        Runtime(out).act(np.array([0.0, 0.0, 1e30, 0.0, 0.0]))


def test_reset_changes_nothing_of_a_feed_forward_policy(runtime, recorded):
    before = runtime.act(recorded)
    runtime.reset()
    np.testing.assert_array_equal(runtime.act(recorded), before)


def test_it_runs_on_one_thread(runtime):
    options = runtime._session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)


def test_latency_is_positive_and_ordered(runtime):
    latency = runtime.latency(200)
    assert 0 < latency.p50 <= latency.p99
    with pytest.raises(ValueError, match="at least 1 call"):
        runtime.latency(0)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(control_dt=0.01),
        lambda d: d["observation"].reverse(),
        lambda d: d["observation"][0].update(labels=["knee", "hip"]),
        lambda d: d["observation"][0].update(unit="deg"),
        lambda d: d["command_map"].update(high=[3.0, 3.0]),
        lambda d: d["gains"].update(kp=[90.0, 60.0]),
        lambda d: d["limits"].update(effort=[99.0, 99.0]),
        lambda d: d.update(quaternion_order="wxyz"),
        lambda d: d["training_ranges"].update({"ground.friction": [0.1, 2.0]}),
        lambda d: d.update(tolerance=1.0),
        lambda d: d["provenance"].update(steps=10_000_000),
    ],
)
def test_an_edited_contract_does_not_arm(bundle, no_session, change):
    data = json.loads((bundle / "spec.json").read_text())
    change(data)
    (bundle / "spec.json").write_text(json.dumps(data))
    with pytest.raises(SpecError, match=r"policy.onnx was exported with contract \w+…, spec.json holds"):
        Runtime(bundle)


def test_another_policy_does_not_arm_even_with_its_hash_written_in(bundle, tmp_path, spec, actor, recorded, resign):
    other = tmp_path / "other"
    write_bundle(other, actor=actor, spec=replace(spec, control_dt=0.01), recorded_observations=recorded)
    shutil.copy(other / "policy.onnx", bundle / "policy.onnx")
    with pytest.raises(SpecError, match=r"policy.onnx has changed"):
        Runtime(bundle)
    resign(bundle)
    with pytest.raises(SpecError, match="one was edited"):
        Runtime(bundle)


def test_a_model_without_a_contract_does_not_arm(bundle, resign, no_session):
    model = onnx.load(bundle / "policy.onnx")
    del model.metadata_props[:]
    onnx.save(model, bundle / "policy.onnx")
    resign(bundle)
    with pytest.raises(SpecError, match="exported with no contract"):
        Runtime(bundle)


@pytest.mark.parametrize("location", ["weights.bin", "../weights.bin", "/etc/passwd"])
@pytest.mark.parametrize("place", ["initializer", "attribute", "subgraph"])
def test_data_outside_the_model_is_refused_before_a_session(bundle, resign, no_session, location, place):
    model = onnx.load(bundle / "policy.onnx")
    tensor = onnx.numpy_helper.from_array(np.zeros((5, 5), np.float32), "stray")
    set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    if place == "initializer":
        model.graph.initializer.append(tensor)
    else:
        node = onnx.helper.make_node("Constant", [], ["c"], value=tensor)
        if place == "subgraph":
            branch = onnx.helper.make_graph([node], "branch", [], [])
            node = onnx.helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
        model.graph.node.append(node)
    (bundle / "policy.onnx").write_bytes(model.SerializeToString())
    resign(bundle)
    with pytest.raises(SpecError, match=r"policy.onnx: a tensor keeps its data outside the file"):
        Runtime(bundle)


def test_an_empty_model_is_refused_before_a_session(bundle, resign, no_session):
    (bundle / "policy.onnx").write_bytes(b"")
    with pytest.raises(SpecError, match=r"policy.onnx has changed"):
        Runtime(bundle)
    resign(bundle)
    with pytest.raises(SpecError, match=r"policy.onnx is empty"):
        Runtime(bundle)


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.9, 0.97, 0.999])
def test_a_truncated_model_is_refused_before_a_session(bundle, resign, no_session, share):
    data = (bundle / "policy.onnx").read_bytes()
    (bundle / "policy.onnx").write_bytes(data[: int(share * len(data))])
    resign(bundle)
    with pytest.raises(SpecError, match=r"policy.onnx"):
        Runtime(bundle)


def test_the_metadata_reader_agrees_with_onnx(pristine):
    model = onnx.load(pristine / "policy.onnx")
    expected = {entry.key: entry.value for entry in model.metadata_props}
    assert read_metadata((pristine / "policy.onnx").read_bytes(), "policy.onnx") == expected
    assert expected["task"] == "simtoreal/Leg-v0"


def test_the_metadata_reader_meets_junk_with_one_error(pristine):
    data = (pristine / "policy.onnx").read_bytes()
    rng, refused = random.Random(0), 0
    for _ in range(1000):
        junk = bytearray(data)
        for _ in range(rng.randint(1, 8)):
            junk[rng.randrange(len(junk))] = rng.randrange(256)
        try:
            read_metadata(bytes(junk[: rng.choice([rng.randint(1, len(junk)), len(junk)])]), "m")
        except SpecError:
            refused += 1
    assert 100 < refused < 1000, "some of it is junk to the reader, some leaves what it reads alone"


def fix_the_batch(graph):
    graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def rename_the_input(graph):
    graph.input[0].name = "obs"
    for node in graph.node:
        node.input[:] = ["obs" if name == "observation" else name for name in node.input]


def give_a_second_output(graph):
    graph.node.append(onnx.helper.make_node("Identity", ["observation"], ["echo"]))
    graph.output.append(onnx.helper.make_tensor_value_info("echo", onnx.TensorProto.FLOAT, [None, 5]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (fix_the_batch, '"observation" takes batches of 1 only'),
        (rename_the_input, r'one float tensor "observation" \[batch, 5\], got \[\(.obs.'),
        (give_a_second_output, r'one float tensor "command" \[batch, 2\]'),
    ],
)
def test_a_graph_that_does_not_keep_the_contract_does_not_arm(bundle, resign, change, message):
    model = onnx.load(bundle / "policy.onnx")
    change(model.graph)
    onnx.save(model, bundle / "policy.onnx")
    resign(bundle)
    with pytest.raises(SpecError, match=message):
        Runtime(bundle)


@pytest.mark.parametrize("damage", ["empty", "text", "pickle", "missing", "narrow"])
def test_golden_vectors_that_cannot_be_read_are_named(bundle, resign, damage):
    path = bundle / "golden.npz"
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_bytes(b"PK\x03\x04 not really")
    elif damage == "pickle":
        np.savez(path, observation=np.array([object()]), command=np.array([object()]))
    elif damage == "missing":
        np.savez(path, observation=np.zeros((3, 5), np.float32))
    else:
        np.savez(path, observation=np.zeros((3, 5), np.float32), command=np.zeros((2, 2), np.float32))
    resign(bundle)
    with pytest.raises(SpecError, match=r"golden.npz"):
        Runtime(bundle).golden()
