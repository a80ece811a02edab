"""Run a bundle's policy: observation in, command out, both SI, both as the contract says."""

from __future__ import annotations

import os
import time
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import onnxruntime

from .checks import SpecError
from .model_file import MAX_MODEL_BYTES, read_metadata
from .spec import GOLDEN_FILE, MODEL_FILE, Spec, check_files, read_regular, read_spec, slices

INPUT_NAME = "observation"
OUTPUT_NAME = "command"
CONTRACT_KEY = "contract_sha256"  # in the metadata of policy.onnx
FLOAT32_MAX = float(np.finfo(np.float32).max)


class ObservationError(ValueError):
    """An observation the policy cannot take; the message names the input, what was found and what was expected."""


class CommandError(ArithmeticError):
    """The policy gave a command that is not finite; it must not reach a robot."""


class Latency(NamedTuple):
    """Time of one `act` on one observation [us]."""

    p50: float
    p99: float


class Runtime:
    """The policy of the bundle folder `bundle`, on one thread.

    It arms only when every file has the contract's hash and policy.onnx carries the hash of this very contract;
    otherwise SpecError (or FileNotFoundError), before any session is opened.
    """

    input_name = INPUT_NAME

    def __init__(self, bundle: str | os.PathLike[str]) -> None:
        self.bundle = os.fspath(bundle)
        self.spec: Spec = read_spec(bundle)
        check_files(bundle, self.spec)
        path = os.path.join(self.bundle, MODEL_FILE)
        model = read_regular(path, MAX_MODEL_BYTES)
        found, expected = read_metadata(model, path).get(CONTRACT_KEY), self.spec.contract_sha256()
        if found != expected:
            says = "no contract" if found is None else f"contract {found[:12]}…"
            raise SpecError(f"{path} was exported with {says}, spec.json holds {expected[:12]}…: one was edited")
        self._session = open_session(model, path)
        self._check_graph(path)
        self._width = self.spec.observation_size
        self._slices = slices(self.spec.observation)
        self._outputs = [OUTPUT_NAME]

    def _check_graph(self, path: str) -> None:
        for entries, name, width in (
            (self._session.get_inputs(), INPUT_NAME, self.spec.observation_size),
            (self._session.get_outputs(), OUTPUT_NAME, self.spec.command_size),
        ):
            found = [(entry.name, entry.type, entry.shape) for entry in entries]
            if len(found) != 1 or found[0][:2] != (name, "tensor(float)") or list(found[0][2][1:]) != [width]:
                raise SpecError(f'{path}: the contract wants one float tensor "{name}" [batch, {width}], got {found}')
            if isinstance(found[0][2][0], int):
                raise SpecError(f'{path}: "{name}" takes batches of {found[0][2][0]} only, the batch must be free')

    def reset(self) -> None:
        """Begin an episode. A feed-forward policy keeps no state, so nothing of the last episode can remain."""

    def act(self, observation: Any) -> np.ndarray:
        """The command of each observation: [n] -> [m] or [B, n] -> [B, m], float32, SI.

        Also takes a mapping from every field's name to its values, [size] or [B, size] each. float32 and float64 are
        taken; ObservationError for other dtypes, widths, an empty batch, and NaN or infinite values. CommandError when
        the policy's own arithmetic overflows.
        """
        values = self._joined(observation) if isinstance(observation, Mapping) else observation
        array = _as_float32(values, INPUT_NAME)
        single = array.ndim == 1
        if array.ndim not in (1, 2) or array.shape[-1] != self._width:
            raise ObservationError(
                f'"{INPUT_NAME}" must be [{self._width}] or [batch, {self._width}], got {list(array.shape)}'
            )
        if array.size == 0:
            raise ObservationError(f'"{INPUT_NAME}" holds no observation: the batch is 0')
        if not np.isfinite(array).all():
            raise ObservationError(f'"{INPUT_NAME}" is not finite at {self._element(array)}')
        command: np.ndarray = self._session.run(self._outputs, {INPUT_NAME: array[None] if single else array})[0]
        if not np.isfinite(command).all():
            raise CommandError(f'"{OUTPUT_NAME}" is not finite for this "{INPUT_NAME}"')
        return command[0] if single else command

    def latency(self, n: int = 1000) -> Latency:
        """p50 and p99 of `n` calls of `act` with the first golden observation [us], after a warm-up."""
        if n < 1:
            raise ValueError(f"latency needs at least 1 call, got {n}")
        observation = self.golden()[0][0]
        times: list[int] = []
        for index in range(n + 20):
            start = time.perf_counter_ns()
            self.act(observation)
            if index >= 20:
                times.append(time.perf_counter_ns() - start)
        p50, p99 = np.percentile(times, (50, 99)) / 1000
        return Latency(float(p50), float(p99))

    def golden(self) -> tuple[np.ndarray, np.ndarray]:
        """The golden vectors: observations [N, n] and the commands [N, m] that the training network gave for them."""
        path = os.path.join(self.bundle, GOLDEN_FILE)
        try:
            with np.load(path, allow_pickle=False) as data:
                observation, command = data[INPUT_NAME], data[OUTPUT_NAME]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise SpecError(f"{path} is not readable: {error}") from None
        for name, array, width in (
            (INPUT_NAME, observation, self.spec.observation_size),
            (OUTPUT_NAME, command, self.spec.command_size),
        ):
            whole = array.ndim == 2 and array.shape[1] == width and 0 < len(array) == len(observation)
            if not whole or array.dtype != np.float32:
                raise SpecError(f'{path}: "{name}" must be float32 [N, {width}], got {array.dtype} {list(array.shape)}')
        return observation, command

    def golden_error(self) -> float:
        """Largest |command - golden command|, as a share of each command's range; to be held against `tolerance`."""
        observation, command = self.golden()
        return float(relative_error(self.act(observation), command, self.spec).max())

    def _joined(self, observation: Mapping[str, Any]) -> np.ndarray:
        unknown = [name for name in observation if name not in self._slices]
        if unknown:
            raise ObservationError(f'no observation field "{unknown[0]}"; fields: {", ".join(self._slices)}')
        parts: list[np.ndarray] = []
        for entry in self.spec.observation:
            if entry.name not in observation:
                raise ObservationError(f'"{INPUT_NAME}" lacks the field "{entry.name}"')
            part = _as_float32(observation[entry.name], entry.name)
            part = part[None] if part.ndim == 0 else part
            if part.ndim not in (1, 2) or part.shape[-1] != entry.size:
                raise ObservationError(
                    f'"{entry.name}" must be [{entry.size}] or [batch, {entry.size}], got {list(part.shape)}'
                )
            if part.shape[:-1] != (parts[0] if parts else part).shape[:-1]:
                raise ObservationError(f'"{entry.name}" has another batch than "{self.spec.observation[0].name}"')
            parts.append(part)
        return np.concatenate(parts, axis=-1)

    def _element(self, array: np.ndarray) -> str:
        column = int(np.argwhere(~np.isfinite(array))[0][-1])
        for entry in self.spec.observation:
            part = self._slices[entry.name]
            if part.start <= column < part.stop:
                inner = column - part.start
                return f"{entry.name}[{entry.labels[inner] if entry.labels else inner}] (element {column})"
        return f"element {column}"


def open_session(model: bytes, path: str) -> onnxruntime.InferenceSession:
    """An onnxruntime session on one CPU thread; SpecError naming `path` when onnxruntime refuses the model."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(model, sess_options=options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions share no public base
        raise SpecError(f"{path} is refused by onnxruntime: {' '.join(str(error).split())}") from None


def relative_error(command: np.ndarray, reference: np.ndarray, spec: Spec) -> np.ndarray:
    """|command - reference| / (high - low), element by element [..., m]."""
    span = np.subtract(spec.command_map.high, spec.command_map.low)
    error: np.ndarray = np.abs(command.astype(np.float64) - reference) / span
    return error


def _as_float32(values: Any, name: str) -> np.ndarray:
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ObservationError(f'"{name}" is no array: {error}') from None
    if array.dtype == np.float32:
        return array
    if array.dtype != np.float64:
        raise ObservationError(f'"{name}" must be float32 or float64, got {array.dtype}')
    if (np.abs(array) > FLOAT32_MAX).any() and np.isfinite(array).all():
        raise ObservationError(f'"{name}" holds {np.abs(array).max()}, beyond float32')
    return array.astype(np.float32)
