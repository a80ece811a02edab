from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from simtoreal.export import ExportError, PolicyGraph, Runtime, SpecError, export_onnx, read_spec, write_bundle
from simtoreal.export import bundle as bundle_module
from simtoreal.export.bundle import golden_observations
from simtoreal.export.onboard.runtime import CONTRACT_KEY


class Constant(nn.Module):
    """An actor that always gives the same action."""

    def __init__(self, *action: float) -> None:
        super().__init__()
        self.action = nn.Parameter(torch.tensor(action))

    def forward(self, observation):
        return self.action.expand(observation.shape[0], -1)


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_command_map_by_hand(spec):
    graph = PolicyGraph(Constant(0.5, -1.0), spec)
    rows = np.array([[0.2, 0.9, 7, 7, 7], [0.9, -0.9, 7, 7, 7]], np.float32)
    # .1 + .5 * .5 + .2 and -.2 - 1 + .9; then 1.25 and -2.1, clipped
    np.testing.assert_allclose(graph.answers(rows), [[0.55, -0.3], [1.0, -1.5]], atol=1e-6)


def test_no_command_passes_its_bound_by_a_rounding(spec):
    bounds = replace(spec.command_map, low=(-0.1, -0.7), high=(0.1, 0.7), relative_to=())
    graph = PolicyGraph(Constant(1.0, 1.0), replace(spec, command_map=replace(bounds, scale=(9.0, 9.0))))
    high = graph.answers(np.zeros((1, 5), np.float32)).astype(np.float64)
    graph = PolicyGraph(Constant(-1.0, -1.0), replace(spec, command_map=replace(bounds, scale=(9.0, 9.0))))
    low = graph.answers(np.zeros((1, 5), np.float32)).astype(np.float64)
    assert (high <= [0.1, 0.7]).all()
    assert (low >= [-0.1, -0.7]).all()
    np.testing.assert_allclose([high[0], low[0]], [[0.1, 0.7], [-0.1, -0.7]], rtol=1e-6)


def test_exporting_leaves_the_actor_as_it_was(spec, recorded, tmp_path):
    actor = nn.Sequential(nn.Linear(5, 4), nn.Dropout(0.5), nn.Linear(4, 2), nn.Tanh()).train()
    write_bundle(tmp_path / "b", actor=actor, spec=spec, recorded_observations=recorded)
    assert actor.training
    assert all(weight.requires_grad for weight in actor.parameters())
    observation = np.zeros((64, 5), np.float32)
    assert np.ptp(Runtime(tmp_path / "b").act(observation), axis=0).max() == 0  # no dropout in the bundle


def test_a_normalizer_in_double_precision_ends_as_a_float_command(spec, recorded, tmp_path):
    class Normalized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5], dtype=torch.float64))
            self.head = nn.Linear(5, 2).double()

        def forward(self, observation):
            return torch.tanh(self.head((observation - self.mean).clamp(-10, 10)))

    out = write_bundle(tmp_path / "b", actor=Normalized(), spec=spec, recorded_observations=recorded)
    assert Runtime(out).act(recorded).dtype == np.float32


def test_what_a_bundle_holds(pristine, spec, recorded):
    written = read_spec(pristine)
    assert left_in(pristine) == ["golden.npz", "onboard", "policy.onnx", "spec.json"]
    assert replace(written, files={}) == spec
    assert set(written.files) == {"policy.onnx", "golden.npz"} | {
        f"onboard/{name}" for name in left_in(pristine / "onboard")
    }
    assert written.tolerance == 1e-4
    observation, command = Runtime(pristine).golden()
    assert len(observation) == len(command) > 1000 + len(recorded)
    np.testing.assert_array_equal(observation[: len(recorded)], recorded)
    assert np.abs(observation).max() == 1000
    assert (observation == 0).all(axis=1).any()


def test_a_bundle_without_a_history_is_of_the_first_format(pristine):
    written = json.loads((pristine / "spec.json").read_text())
    assert (written["format_version"], "history" in written) == (1, False)
    with np.load(pristine / "golden.npz") as data:
        assert set(data) == {"observation", "command"}
    assert read_spec(pristine).history == 1


def test_a_model_says_nothing_of_the_machine_that_made_it(pristine):
    model = (pristine / "policy.onnx").read_bytes()
    assert b".py" not in model
    assert str(Path.home()).encode() + b"/" not in model
    assert os.getcwd().encode() not in model


def test_the_model_has_one_input_one_output_and_a_free_batch(pristine):
    model = onnx.load(pristine / "policy.onnx")
    assert [(entry.name, entry.type.tensor_type.shape.dim[1].dim_value) for entry in model.graph.input] == [
        ("observation", 5)
    ]
    assert [(entry.name, entry.type.tensor_type.shape.dim[1].dim_value) for entry in model.graph.output] == [
        ("command", 2)
    ]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert {entry.key: entry.value for entry in model.metadata_props}[CONTRACT_KEY] == read_spec(
        pristine
    ).contract_sha256()


def test_the_same_policy_gives_the_same_bytes_and_no_noise(actor, spec, capfd):
    graph = PolicyGraph(actor, spec)
    assert export_onnx(graph, {"a": "b"}) == export_onnx(graph, {"a": "b"})
    assert capfd.readouterr() == ("", "")


def test_extreme_rows_move_one_field_at_a_time(spec):
    recorded = np.tile([1.0, 2.0, 3.0, 4.0, 5.0], (4, 1)) + np.array([[1], [-1], [1], [-1]])  # std 1 each
    rows = golden_observations(recorded, spec)
    for expected in (
        [1, 2, 3, 4, 15],
        [11, 12, 3, 4, 5],
        [-9, -8, 3, 4, 5],
        [1, 2, 13, 14, 5],
        [1, 2, 3, 4, -5],
        [11, 12, 13, 14, 15],
    ):
        assert expected in rows[-8:].tolist()
    np.testing.assert_allclose(rows[4:1004].mean(axis=0), [1, 2, 3, 4, 5], atol=0.15)
    np.testing.assert_allclose(rows[4:1004].std(axis=0), 1, atol=0.1)


def test_a_quantity_that_never_moved_is_still_varied(spec):
    rows = golden_observations(np.full((10, 5), 0.25), spec)
    assert rows[10:1010].std(axis=0).min() > 0.5


def test_many_recorded_rows_are_thinned_evenly(spec):
    recorded = np.arange(10_001.0)[:, None].repeat(5, axis=1)
    kept = golden_observations(recorded, spec)[:2000, 0]
    assert (kept[0], kept[-1]) == (0, 10_000)
    assert set(np.diff(kept)) == {5.0, 6.0}


@pytest.mark.parametrize(
    ("recorded", "message"),
    [
        (np.zeros((0, 5)), r"must be \[N, 5\], got \[0, 5\]"),
        (np.zeros((3, 4)), r"must be \[N, 5\], got \[3, 4\]"),
        (np.zeros(5), r"must be \[N, 5\], got \[5\]"),
        (np.full((3, 5), np.nan), "must be finite floats"),
        (np.zeros((3, 5), int), "must be finite floats"),
    ],
)
def test_recorded_observations_that_cannot_be_are_refused(actor, spec, tmp_path, recorded, message):
    with pytest.raises(ExportError, match=message):
        write_bundle(tmp_path / "b", actor=actor, spec=spec, recorded_observations=recorded)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("shift", [1e-3, float("nan")])
def test_a_model_that_differs_from_torch_is_not_written(actor, spec, recorded, tmp_path, monkeypatch, pristine, shift):
    def shifted(graph, metadata):
        model = onnx.load(pristine / "policy.onnx")
        (offset,) = (tensor for tensor in model.graph.initializer if tensor.name == "offset")
        offset.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(offset) + np.float32(shift), "offset"))
        return model.SerializeToString()

    monkeypatch.setattr(bundle_module, "export_onnx", shifted)
    message = r"differs from torch by .* at golden vector \d+ of (\d+), in a batch of \1; the contract tolerates 1e-04"
    with pytest.raises(ExportError, match=message):
        write_bundle(tmp_path / "b", actor=actor, spec=spec, recorded_observations=recorded)
    assert left_in(tmp_path) == []
    if shift == shift:  # 1e-3 rad of a range of 2 rad: a contract that tolerates .1 % takes it, and says so
        loose = replace(spec, tolerance=1e-3)
        write_bundle(tmp_path / "b", actor=actor, spec=loose, recorded_observations=recorded)
        assert json.loads((tmp_path / "b/spec.json").read_text())["tolerance"] == 1e-3


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_policy_with_weights_that_are_not_finite_is_not_exported(spec, recorded, tmp_path, value):
    actor = nn.Sequential(nn.Linear(5, 2), nn.Tanh())
    with torch.no_grad():
        actor[0].weight[1, 2] = value
    with pytest.raises(ExportError, match=r'"actor.0.weight" of the policy holds a value that is not finite'):
        write_bundle(tmp_path / "b", actor=actor, spec=spec, recorded_observations=recorded)
    assert left_in(tmp_path) == []


def test_a_policy_whose_command_is_not_finite_is_not_exported(spec, recorded, tmp_path):
    class Ratio(nn.Module):
        def forward(self, observation):
            return observation[:, :2] / observation[:, 2:4]  # 0 / 0 at the zero row

    with pytest.raises(ExportError, match=r"command for golden vector \d+ of \d+ is not finite"):
        write_bundle(tmp_path / "b", actor=Ratio(), spec=spec, recorded_observations=recorded)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(
    ("actor", "message"),
    [
        (nn.Linear(4, 2), r"the actor does not take observations \[1, 5\]"),
        (nn.Linear(5, 3), r"must give actions \[1, 2\], it gives \[1, 3\]"),
        (nn.LSTM(5, 2), "it gives tuple"),
        (
            nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (1, 5)), nn.Linear(5, 2)),
            r"does not take observations \[2, 5\]",
        ),
    ],
)
def test_an_actor_that_does_not_fit_its_contract_is_refused(actor, spec, recorded, tmp_path, message):
    with pytest.raises(ExportError, match=message):
        write_bundle(tmp_path / "b", actor=actor, spec=spec, recorded_observations=recorded)


def test_an_actor_that_mixes_the_rows_of_a_batch_is_refused(spec, recorded, tmp_path):
    class Mixing(nn.Module):
        def forward(self, observation):
            return torch.tanh(observation[:, :2] - observation[:, 2:4].mean(dim=0))

    with pytest.raises(ExportError, match=r"differs from torch by .*, in a batch of [12];"):
        write_bundle(tmp_path / "b", actor=Mixing(), spec=spec, recorded_observations=recorded)
    assert left_in(tmp_path) == []


def test_an_actor_that_torch_cannot_translate_gives_one_line(spec, recorded, tmp_path):
    class Branching(nn.Module):
        def forward(self, observation):
            return observation[:, :2] if float(observation.sum()) > 0 else observation[:, 2:4]

    with pytest.raises(ExportError, match="torch cannot export this actor") as caught:
        write_bundle(tmp_path / "b", actor=Branching(), spec=spec, recorded_observations=recorded)
    assert "\n" not in str(caught.value)
    assert left_in(tmp_path) == []


def test_ctrl_c_that_torch_wrapped_is_ctrl_c(spec, recorded, tmp_path):
    """Where it comes while an operator is traced, torch makes it a RuntimeError."""

    class Stopped(nn.Module):
        def forward(self, observation):
            if torch.compiler.is_exporting():
                raise RuntimeError("an operator failed") from KeyboardInterrupt()
            return observation[:, :2]

    with pytest.raises(KeyboardInterrupt):
        write_bundle(tmp_path / "b", actor=Stopped(), spec=spec, recorded_observations=recorded)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("name", ["a b/c d", "größe/策略 🤖", "-dash/--out", "new\nline"])
def test_paths_with_spaces_and_unicode(actor, spec, recorded, tmp_path, quick_export, name):
    out = write_bundle(tmp_path / name, actor=actor, spec=spec, recorded_observations=recorded)
    assert out == tmp_path / name
    assert Runtime(out).act(recorded).shape == (50, 2)
    assert left_in(out.parent) == [out.name]


def test_an_existing_bundle_is_kept_unless_forced(actor, spec, recorded, bundle, quick_export):
    before = (bundle / "spec.json").read_bytes()
    with pytest.raises(ExportError, match="exists; choose another folder"):
        write_bundle(bundle, actor=actor, spec=spec, recorded_observations=recorded)
    assert (bundle / "spec.json").read_bytes() == before
    newer = replace(spec, provenance={"run": "second"})
    write_bundle(bundle, actor=actor, spec=newer, recorded_observations=recorded, force=True)
    assert Runtime(bundle).spec.provenance == {"run": "second"}
    assert left_in(bundle.parent) == ["bundle"]


@pytest.mark.parametrize("kind", ["file", "folder", "link to a bundle", "dangling link"])
@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_bundle_is_never_replaced(actor, spec, recorded, bundle, kind, force):
    out = bundle.parent / "out"
    if kind == "file":
        out.write_text("precious")
    elif kind == "folder":
        out.mkdir()
        (out / "precious").touch()
    else:
        out.symlink_to(bundle if kind == "link to a bundle" else bundle.parent / "nowhere")
    with pytest.raises(ExportError, match="dangling symbolic link" if kind == "dangling link" else "exists"):
        write_bundle(out, actor=actor, spec=spec, recorded_observations=recorded, force=force)
    assert left_in(bundle.parent) == ["bundle", "out"]
    assert out.is_symlink() == ("link" in kind)
    assert kind != "file" or out.read_text() == "precious"
    assert kind != "folder" or left_in(out) == ["precious"]


def test_a_parent_that_is_a_file_or_not_writable_gives_one_line(actor, spec, recorded, tmp_path, quick_export):
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match=r"cannot write the bundle .*file/b: "):
        write_bundle(tmp_path / "file" / "b", actor=actor, spec=spec, recorded_observations=recorded)
    assert left_in(tmp_path) == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_read_only_folder_gives_one_line(actor, spec, recorded, tmp_path, quick_export):
    tmp_path.chmod(0o500)
    with pytest.raises(ExportError, match="Permission denied"):
        write_bundle(tmp_path / "b", actor=actor, spec=spec, recorded_observations=recorded)
    tmp_path.chmod(0o700)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("failing_call", range(1, 12))
@pytest.mark.parametrize("force", [False, True])
def test_a_full_disk_at_any_flush_leaves_what_was_there(
    actor, spec, recorded, bundle, quick_export, monkeypatch, failing_call, force
):
    calls = iter(range(1, 100))
    real = os.fsync

    def full(descriptor):
        if next(calls) == failing_call:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    out = bundle if force else bundle.parent / "new"
    with pytest.raises(ExportError, match=r"cannot write the bundle .*: No space left on device"):
        write_bundle(out, actor=actor, spec=replace(spec, task="other"), recorded_observations=recorded, force=force)
    assert left_in(bundle.parent) == ["bundle"]
    assert Runtime(bundle).spec.task == "simtoreal/Leg-v0"


def test_a_failed_rename_puts_the_old_bundle_back(actor, spec, recorded, bundle, quick_export, monkeypatch):
    real = os.rename

    def refuse(source, target):
        if str(source).endswith(".new"):
            raise OSError(errno.EIO, "Input/output error")
        real(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(ExportError, match="Input/output error"):
        write_bundle(bundle, actor=actor, spec=spec, recorded_observations=recorded, force=True)
    assert left_in(bundle.parent) == ["bundle"]
    assert Runtime(bundle).spec.task == "simtoreal/Leg-v0"


def test_a_moved_or_copied_bundle_still_runs(pristine, tmp_path, recorded):
    copy = Path(shutil.copytree(pristine, tmp_path / "copy"))
    np.testing.assert_array_equal(Runtime(copy).act(recorded), Runtime(pristine).act(recorded))
    (tmp_path / "latest").symlink_to(copy)  # the folder itself may be reached by a link; nothing inside may be one
    assert Runtime(tmp_path / "latest").spec == Runtime(copy).spec


def test_every_error_is_one_the_command_line_knows():
    assert issubclass(ExportError, ValueError)
    assert issubclass(SpecError, ValueError)
