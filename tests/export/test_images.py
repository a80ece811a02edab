"""Bundles of policies that see images: what the contract says, what the graph and its runtime take."""

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
    Field,
    Image,
    ObservationError,
    PolicyGraph,
    Runtime,
    SpecError,
    verify_bundle,
    write_bundle,
)
from simtoreal.export.bundle import golden_observations
from simtoreal.export.onboard.spec import spec_from_dict

SHAPE = (9, 8, 3)  # rows, columns, channels


class Seen(nn.Module):
    """How bright the upper half is, and the last channel."""

    def forward(self, observation):
        x = observation.to(torch.float32) / 255
        return torch.stack([x[:, :4].mean(dim=(1, 2, 3)), x[..., 2].mean(dim=(1, 2))], dim=1) * 2 - 1


@pytest.fixture(scope="module")
def image_spec(spec):
    absolute = replace(spec.command_map, offset=(0.0, 0.0), scale=(1.0, 1.0), relative_to=())
    return replace(
        spec, observation=(Field("image", 216, "1/255"),), command_map=absolute, image=Image(SHAPE, layout="HWC")
    )


@pytest.fixture(scope="module")
def recorded():
    return np.random.default_rng(3).integers(256, size=(200, *SHAPE), dtype=np.uint8)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, image_spec, recorded) -> Path:
    """A bundle that no test may change."""
    out = tmp_path_factory.mktemp("images") / "bundle"
    return write_bundle(out, actor=Seen(), spec=image_spec, recorded_observations=recorded)


@pytest.fixture
def runtime(whole) -> Runtime:
    return Runtime(whole)


def test_the_contract_says_what_a_camera_must_give(whole, image_spec, spec):
    written = json.loads((whole / "spec.json").read_text())
    assert written["format_version"] == 3
    assert written["image"] == {"shape": [9, 8, 3], "layout": "HWC", "dtype": "uint8", "low": 0, "high": 255}
    assert "history" not in written
    assert spec_from_dict(json.loads(json.dumps(image_spec.to_dict()))) == image_spec
    assert "image" not in spec.to_dict()
    assert "image" not in replace(spec, history=2).to_dict()


def test_the_graph_takes_the_image_itself(whole):
    model = onnx.load(whole / "policy.onnx")
    (seen,) = model.graph.input
    assert (seen.name, seen.type.tensor_type.elem_type) == ("observation", onnx.TensorProto.UINT8)
    assert [dim.dim_value for dim in seen.type.tensor_type.shape.dim][1:] == list(SHAPE)
    assert seen.type.tensor_type.shape.dim[0].dim_param


def test_a_command_by_hand(runtime):
    image = np.zeros(SHAPE, np.uint8)
    image[:4] = 255  # 4 of the 9 rows
    np.testing.assert_allclose(runtime.act(image), [1.0, 2 * 4 / 9 - 1], atol=1e-6)
    both = runtime.act(np.stack([image, np.zeros_like(image)]))
    np.testing.assert_allclose(both, [[1.0, 2 * 4 / 9 - 1], [-1.0, -1.0]], atol=1e-6)


@pytest.mark.parametrize(
    ("observation", "words"),
    [
        (np.zeros(SHAPE, np.float32), '"observation" must be an image of uint8, got float32'),
        (np.zeros((3, 9, 8), np.uint8), r'"observation" must be \[9, 8, 3\] or \[batch, 9, 8, 3\], got \[3, 9, 8\]'),
        (np.zeros(216, np.uint8), r"got \[216\]"),
        (np.zeros((0, *SHAPE), np.uint8), "the batch is 0"),
        ({"image": np.zeros(SHAPE, np.uint8)}, "must be an image of uint8, got object"),
    ],
)
def test_what_is_no_such_image_is_refused(runtime, observation, words):
    with pytest.raises(ObservationError, match=words):
        runtime.act(observation)


def test_golden_images_are_recorded_random_and_extreme(runtime, image_spec, recorded):
    golden, command = runtime.golden()
    assert (golden.dtype, len(golden), len(command)) == (np.uint8, 64 + 16 + 3 + 2, 85)
    assert (golden[0] == recorded[0]).all()
    assert (golden[63] == recorded[-1]).all()
    means = golden[-5:].mean(axis=(1, 2))
    np.testing.assert_array_equal(means, [[255, 0, 0], [0, 255, 0], [0, 0, 255], [0, 0, 0], [255, 255, 255]])
    first = replace(image_spec, image=Image((3, 9, 8), "CHW"))
    turned = golden_observations(np.moveaxis(recorded, 3, 1), first)
    np.testing.assert_array_equal(turned[-5:].mean(axis=(2, 3)), means)


@pytest.mark.parametrize("change", [lambda r: r.astype(np.float32), lambda r: r[0], lambda r: r[:0]])
def test_golden_images_are_made_of_images(image_spec, recorded, change):
    with pytest.raises(ExportError, match=r"recorded observations must be images of uint8 \[9, 8, 3\]"):
        golden_observations(change(recorded), image_spec)


def test_it_is_verified_alone_and_in_a_closed_loop(whole, runtime, image_spec, recorded):
    checks = {check.name: check for check in verify_bundle(whole)}
    assert all(check.passed for check in checks.values()), checks
    assert checks["schema"].detail == "format 3, 9 x 8 x 3 -> 2"
    loop = ClosedLoop(runtime, PolicyGraph(Seen(), image_spec))
    for image in recorded[:20]:
        loop.act(image)
    assert loop.parity().held
    test = [sys.executable, whole / "onboard", "--self-test", "--json"]
    done = subprocess.run(test, capture_output=True, text=True, check=False)
    assert (done.returncode, json.loads(done.stdout)["passed"]) == (0, True), done.stderr


def test_a_contract_of_another_image_is_not_armed(whole, tmp_path, resign):
    copied = Path(shutil.copytree(whole, tmp_path / "bundle"))
    text = (copied / "spec.json").read_text()
    (copied / "spec.json").write_text(text.replace('"layout": "HWC"', '"layout": "CHW"'))
    with pytest.raises(SpecError, match="one was edited"):
        Runtime(copied)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(format_version=2), 'unknown key "image"'),
        (lambda d: d.pop("image"), 'lacks "image"'),
        (lambda d: d.update(image=None), "image must be a mapping"),
        (lambda d: d["image"].update(shape=[9, 8]), "image.shape must be three whole numbers"),
        (lambda d: d["image"].update(shape=[9, 8, 4]), r"an image \[9, 8, 4\] must be all of the observation"),
        (lambda d: d["image"].update(layout="WHC"), 'image.layout must be "CHW" or "HWC"'),
        (lambda d: d["image"].update(dtype="float32"), "image must be uint8 from 0 to 255, got float32"),
        (lambda d: d["image"].update(high=1), "image must be uint8 from 0 to 255, got uint8 from 0 to 1"),
        (lambda d: d["image"].update(colour="BGR"), 'image has an unknown key "colour"'),
        (lambda d: d.update(history=2), 'unknown key "history"'),
    ],
)
def test_a_contract_of_images_that_makes_no_sense_is_refused(image_spec, change, words):
    data = json.loads(json.dumps(image_spec.to_dict()))
    change(data)
    with pytest.raises(SpecError, match=words):
        spec_from_dict(data)


def test_a_command_is_not_relative_to_pixels(image_spec):
    relative = replace(image_spec.command_map, relative_to=("image",))
    with pytest.raises(SpecError, match="no command is relative to an image"):
        replace(image_spec, command_map=relative)
