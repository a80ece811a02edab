"""Check a bundle as the robot will, and the artefact against the network it came from."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from simtoreal.export.onboard.folder import MODEL_FILE, read_regular
from simtoreal.export.onboard.model_file import MAX_MODEL_BYTES
from simtoreal.export.onboard.runtime import CommandError, Runtime, relative_error
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
    seen = " x ".join(map(str, [*spec.observation_shape, *([spec.history] if spec.history > 1 else [])]))
    seen += f" with {spec.recurrent} recurrent units" if spec.recurrent else ""
    check_model(read_regular(os.path.join(runtime.bundle, MODEL_FILE), MAX_MODEL_BYTES), MODEL_FILE)
    checks = [
        Check("integrity", True, f"{len(spec.files)} files and the contract have their sha256"),
        Check("schema", True, f"format {spec.format_version}, {seen} -> {spec.command_size}"),
        Check("onnx", True, "onnx.checker with full type and shape inference"),
    ]
    try:
        checks += [_golden(runtime), _batches(runtime), *_choices(runtime)]
    except CommandError as error:
        return [*checks, Check("golden", False, f"{error}: it must not drive a robot")]
    latency = runtime.latency(LATENCY_CALLS)
    detail = f"p50 {latency.p50:.1f} us, p99 {latency.p99:.1f} us of {1e6 * spec.control_dt:.0f} us"
    return [*checks, Check("latency", latency.p99 < 1e6 * spec.control_dt, detail, latency.p99)]


class ClosedLoop:
    """The bundle's runtime and the torch graph in the same episodes: the runtime drives, torch answers beside it.

    Torch's memory is kept here, from the observations alone, so the runtime's own is compared too. Of choices that are
    worth the same to rounding either may be taken (`PolicyGraph.alternatives`).
    """

    def __init__(self, runtime: Runtime, graph: PolicyGraph) -> None:
        self._runtime, self._graph = runtime, graph
        self._worst, self._worst_step, self._steps = 0.0, 0, 0
        self.reset()

    def reset(self) -> None:
        """Begin an episode."""
        self._runtime.reset()
        self._frames: list[np.ndarray] = []
        self._hidden_state: np.ndarray = np.zeros(self._runtime.spec.recurrent, np.float32)

    def act(self, observation: np.ndarray) -> np.ndarray:
        """The runtime's command [m] for an observation [n]."""
        spec = self._runtime.spec
        row = np.asarray(observation, dtype=spec.observation_dtype)
        command = self._runtime.act(row)
        self._frames = [*(self._frames or [row] * spec.history)[1:], row]
        memory = [self._hidden_state] if spec.recurrent else []
        seen = np.concatenate([*memory, *self._frames])[None]
        answer = self._graph.answers(seen)[0]
        expected, self._hidden_state = answer[: spec.command_size], answer[spec.command_size :]
        error = float(relative_error(command, expected, spec).max())
        if error > spec.tolerance and spec.choices:
            each = relative_error(self._graph.alternatives(seen)[:, 0], command, spec)
            error = min(error, float(each.max(axis=1).min()))
        if error > self._worst:
            self._worst, self._worst_step = error, self._steps
        self._steps += 1
        return command

    def parity(self) -> Parity:
        """The worst difference so far. Raises ValueError when there was no observation."""
        if not self._steps:
            raise ValueError("a closed loop needs at least one observation, got none")
        return Parity(self._worst, self._worst_step, self._steps, self._runtime.spec.tolerance)


def _golden(runtime: Runtime) -> Check:
    worst, tolerance = runtime.golden_error(), runtime.spec.tolerance
    detail = (
        f"{len(runtime.golden()[0])} vectors, largest difference {worst:.1e} of the range, tolerance {tolerance:.0e}"
    )
    return Check("golden", worst <= tolerance, detail, worst)


def _choices(runtime: Runtime) -> list[Check]:
    """Is every golden answer one of the contract's choices? Nothing where it has none."""
    if not runtime.spec.choices:
        return []
    try:
        found = runtime.golden_choices()
    except CommandError as error:
        return [Check("choices", False, str(error))]
    count = len(runtime.golden()[0])
    return [Check("choices", True, f"{count} golden answers are of {len(runtime.spec.choices)}, {found} occur")]


def _batches(runtime: Runtime) -> Check:
    """One observation gives one command, whatever stands beside it in the batch."""
    golden, answers = runtime.golden()
    rows = np.resize(np.arange(len(golden)), max(BATCHES))
    worst = 0.0
    for size in BATCHES:
        found = runtime.answers(golden[rows[:size]])
        worst = max(worst, float(relative_error(found, answers[rows[:size]], runtime.spec).max()))
    detail = f"batches of {', '.join(map(str, BATCHES))}, largest difference {worst:.1e} of the range"
    return Check("batch", worst <= runtime.spec.tolerance, detail, worst)
