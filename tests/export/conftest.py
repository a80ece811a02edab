from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from simtoreal.export import CommandMap, Field, Spec, write_bundle
from simtoreal.export import bundle as bundle_module

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def spec() -> Spec:
    """A two-joint leg: its command is an offset to the observed joint angles."""
    return Spec(
        task="simtoreal/Leg-v0",
        algorithm="sac",
        control_dt=0.02,
        observation=(
            Field("q", 2, "rad", labels=("hip", "knee")),
            Field("qd", 2, "rad/s", labels=("hip", "knee")),
            Field("height", 1, "m", frame="world"),
        ),
        command=(Field("target", 2, "rad", labels=("hip", "knee")),),
        command_map=CommandMap(
            offset=(0.1, -0.2), scale=(0.5, 1.0), low=(-1.0, -1.5), high=(1.0, 1.5), relative_to=("q",)
        ),
        reward_signals=(Field("speed", 1, "m/s", frame="world"),),
        joints=("hip", "knee"),
        gains={"kp": (60.0, 60.0), "kd": (2.0, 2.0)},
        limits={"position_low": (-1.0, -1.5), "position_high": (1.0, 1.5), "effort": (33.5, 33.5)},
        training_ranges={"ground.friction": (0.5, 1.25)},
        parameters={"ground.friction": {"unit": "-", "nominal": 0.8, "low": 0.0, "high": 3.0}},
        provenance={"run": "leg", "steps": 1000},
    )


@pytest.fixture(scope="session")
def actor() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 32), nn.ReLU(), nn.Linear(32, 2), nn.Tanh())


@pytest.fixture(scope="session")
def recorded() -> np.ndarray:
    return np.random.default_rng(3).normal(size=(50, 5)).astype(np.float32)


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory, spec: Spec, actor: nn.Module, recorded: np.ndarray) -> Path:
    """A bundle that no test may change."""
    out = tmp_path_factory.mktemp("pristine") / "bundle"
    return write_bundle(out, actor=actor, spec=spec, recorded_observations=recorded)


@pytest.fixture
def bundle(pristine: Path, tmp_path: Path) -> Path:
    """A bundle of the test's own, to be damaged."""
    return Path(shutil.copytree(pristine, tmp_path / "bundle"))


@pytest.fixture
def resign() -> Callable[[Path], None]:
    """Write the true hash of every listed file into spec.json, as someone would who hides a change."""

    def write_hashes(bundle: Path) -> None:
        data = json.loads((bundle / "spec.json").read_text())
        names = [name for name in data["files"] if (bundle / name).is_file()]
        data["files"] = {name: hashlib.sha256((bundle / name).read_bytes()).hexdigest() for name in names}
        (bundle / "spec.json").write_text(json.dumps(data))

    return write_hashes


@pytest.fixture
def quick_export(monkeypatch: pytest.MonkeyPatch, pristine: Path) -> None:
    """Skip torch's exporter where the test is about files: hand out the pristine model under the new contract."""

    def export(graph: nn.Module, metadata: dict[str, str]) -> bytes:
        model = onnx.load(pristine / "policy.onnx")
        del model.metadata_props[:]
        for key, value in metadata.items():
            model.metadata_props.add(key=key, value=value)
        return model.SerializeToString()

    monkeypatch.setattr(bundle_module, "export_onnx", export)
