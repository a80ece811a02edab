"""Check a bundle as the robot will, and the artefact against the network it came from."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from simtoreal.export.onboard.model_file import MAX_MODEL_BYTES
from simtoreal.export.onboard.runtime import Runtime, relative_error
from simtoreal.export.onboard.spec import MODEL_FILE, read_regular
from simtoreal.export.onnx import BATCHES, PolicyGraph, check_model

LATENCY_CALLS = 1000


@dataclass(frozen=True)
class Check:
    """One question put to a bundle: its answer, in words, and the figure behind it where there is one."""

    name: str
    passed: bool
    detail: str
    value: float | None = None


@dataclass(frozen=True)
class Parity:
    """Largest |onnx - torch| over a stream of observations, as a share of each command's range, and at which step."""

    worst: float
    worst_step: int
    steps: int
    tolerance: float

    @property
    def held(self) -> bool:
        """Whether it stayed within the contract's tolerance throughout."""
        return self.worst <= self.tolerance


def verify_bundle(bundle: str | os.PathLike[str]) -> list[Check]:
    """Integrity, schema, ONNX checker, golden vectors, batches of 1, 2 and 7, and latency of a bundle folder.

    A bundle that must not be armed at all (tampered with, damaged, of a newer format) raises SpecError, and one that
    is not there FileNotFoundError; a check that was made and not passed says so in the list.
    """
    runtime = Runtime(bundle)
    spec = runtime.spec
    check_model(read_regular(os.path.join(runtime.bundle, MODEL_FILE), MAX_MODEL_BYTES), MODEL_FILE)
    checks = [
        Check("integrity", True, f"{len(spec.files)} files and the contract have their sha256"),
        Check("schema", True, f"format {spec.format_version}, {spec.observation_size} -> {spec.command_size}"),
        Check("onnx", True, "onnx.checker with full type and shape inference"),
        _golden(runtime),
        _batches(runtime),
    ]
    latency = runtime.latency(LATENCY_CALLS)
    detail = f"p50 {latency.p50:.1f} us, p99 {latency.p99:.1f} us of {1e6 * spec.control_dt:.0f} us"
    return [*checks, Check("latency", latency.p99 < 1e6 * spec.control_dt, detail, latency.p99)]


def compare_closed_loop(runtime: Runtime, graph: PolicyGraph, observations: Iterable[np.ndarray]) -> Parity:
    """Feed one stream of observations [n] to the bundle's runtime and to the torch graph; keep the worst difference.

    `observations` may be a generator that steps an environment, so the stream may go wherever the policy leads.
    """
    runtime.reset()
    worst, worst_step, steps = 0.0, 0, 0
    for observation in observations:
        row = np.asarray(observation, dtype=np.float32)
        error = float(relative_error(runtime.act(row), graph.commands(row[None])[0], runtime.spec).max())
        if error > worst:
            worst, worst_step = error, steps
        steps += 1
    if not steps:
        raise ValueError("compare_closed_loop needs at least one observation, got none")
    return Parity(worst, worst_step, steps, runtime.spec.tolerance)


def _golden(runtime: Runtime) -> Check:
    observation, command = runtime.golden()
    worst = float(relative_error(runtime.act(observation), command, runtime.spec).max())
    tolerance = runtime.spec.tolerance
    detail = f"{len(observation)} vectors, largest difference {worst:.1e} of the range, tolerance {tolerance:.0e}"
    return Check("golden", worst <= tolerance, detail, worst)


def _batches(runtime: Runtime) -> Check:
    """One observation gives one command, whatever stands beside it in the batch."""
    observation, command = runtime.golden()
    rows = np.resize(np.arange(len(observation)), max(BATCHES))
    worst = 0.0
    for size in BATCHES:
        found = runtime.act(observation[rows[:size]])
        worst = max(worst, float(relative_error(found, command[rows[:size]], runtime.spec).max()))
    detail = f"batches of {', '.join(map(str, BATCHES))}, largest difference {worst:.1e} of the range"
    return Check("batch", worst <= runtime.spec.tolerance, detail, worst)
