"""Run a bundle's policy: observation in, command out, both SI, both as the contract says."""

from __future__ import annotations

import os
import time
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnxruntime

from .checks import SpecError
from .folder import GOLDEN_FILE, MODEL_FILE, check_files, read_regular, read_spec
from .layout import slices
from .model_file import MAX_MODEL_BYTES, read_metadata
from .spec import Spec

INPUT_NAME = "observation"
OUTPUT_NAME = "command"
NEXT = (
    "next_"  # before the name of the memory that a policy takes (`Spec.memory`): what it gives of it for the next step
)
CONTRACT_KEY = "contract_sha256"  # in the metadata of policy.onnx
FLOAT32_MAX = float(np.finfo(np.float32).max)


class ObservationError(ValueError):
    """An observation the policy cannot take; the message names the input, what was found and what was expected."""


class CommandError(ArithmeticError):
    """The policy gave a command that is not finite, or none of its choices; it must not reach a robot."""


class Latency(NamedTuple):
    """Time of one `act` on one observation [us]."""

    p50: float
    p99: float


class Runtime:
    """The policy of the bundle folder `bundle`, on one thread.

    A policy with a history of k sees the last k observations of the episode; at its start all of them are the first.
    A recurrent one sees its hidden state of the step before, 0 at an episode's start. To one that sees images an
    observation is an image.

    It arms only when every file has the contract's hash and policy.onnx carries the hash of this very contract;
    otherwise SpecError (or FileNotFoundError), before any session is opened.
    """

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
        self._width, self._shape = self.spec.observation_size, self.spec.observation_shape
        self._slices = slices(self.spec.observation)
        self._states = [field.name for field in self.spec.observation if field.unit == "one-hot"]
        name, width = self.spec.memory
        self._outputs = [OUTPUT_NAME, NEXT + name] if width else [OUTPUT_NAME]
        self.reset()

    def _check_graph(self, path: str) -> None:
        kind = "float" if self.spec.image is None else self.spec.image.dtype
        inputs = [(INPUT_NAME, kind, list(self.spec.observation_shape))]
        outputs = [(OUTPUT_NAME, "float", [self.spec.command_size])]
        memory, width = self.spec.memory
        if width:
            inputs.append((memory, "float", [width]))
            outputs.append((NEXT + memory, "float", [width]))
        for entries, wanted in ((self._session.get_inputs(), inputs), (self._session.get_outputs(), outputs)):
            found = [(entry.name, entry.type, entry.shape) for entry in entries]
            if [(name, kind, list(shape[1:])) for name, kind, shape in found] != [
                (name, f"tensor({kind})", shape) for name, kind, shape in wanted
            ]:
                names = " and ".join(f'one {kind} tensor "{name}" [batch, {_sizes(s)}]' for name, kind, s in wanted)
                raise SpecError(f"{path}: the contract wants {names}, got {found}")
            for name, _, shape in found:
                if isinstance(shape[0], int):
                    raise SpecError(f'{path}: "{name}" takes batches of {shape[0]} only, the batch must be free')

    def reset(self) -> None:
        """Begin an episode: of the last one nothing remains."""
        self._memory: np.ndarray | None = None

    def act(self, observation: Any) -> np.ndarray:
        """The command of each observation: [n] -> [m] or [B, n] -> [B, m], float32, SI.

        Also takes a mapping from every field's name to its values, [size] or [B, size] each. float32 and float64 are
        taken, of images uint8 of the shape that the contract says, one or a batch of them; ObservationError for other
        dtypes, shapes, an empty batch, NaN or infinite values, and a field "one-hot" that is none. CommandError when
        the policy's own arithmetic overflows.

        The rows of a batch are so many episodes, each with its own memory; ObservationError when a policy that has one
        is given another batch than before without a `reset`.
        """
        array = self._checked(self._taken(observation), self._shape)
        single = array.ndim == len(self._shape)
        rows = array[None] if single else array
        self._check_states(rows)
        inputs = {INPUT_NAME: rows}
        name, width = self.spec.memory
        if width:
            memory = self._first(rows) if self._memory is None else self._memory
            if len(memory) != len(rows):
                raise ObservationError(
                    f'"{INPUT_NAME}" is a batch of {len(rows)}, this episode began with {len(memory)}; call reset()'
                )
            inputs[name] = memory
        command, self._memory = self._answer(inputs)
        return command[0] if single else command

    def _first(self, rows: np.ndarray) -> np.ndarray:
        """The memory [B, width] of episodes that begin with the observations `rows` [B, n]."""
        if self.spec.recurrent:
            return np.zeros((len(rows), self.spec.recurrent), np.float32)
        return np.tile(rows, self.spec.history - 1)

    def _taken(self, observation: Any) -> np.ndarray:
        """An observation as the graph's type."""
        if self.spec.image is None:
            values = self._joined(observation) if isinstance(observation, Mapping) else observation
            return _as_float32(values, INPUT_NAME)
        array = np.asarray(observation)
        if array.dtype != self.spec.image.dtype:
            raise ObservationError(f'"{INPUT_NAME}" must be an image of {self.spec.image.dtype}, got {array.dtype}')
        return array

    def answers(self, rows: np.ndarray) -> np.ndarray:
        """The commands [B, m] for observations that stand behind their own memory, float32: a history [B, k n], oldest
        first, or a hidden state [B, h + n]; or for images. Those of a recurrent policy have the next hidden state
        behind them, [B, m + h].

        No episode knows of it. Raises as `act` does.
        """
        shape = (self.spec.memory[1] + self._shape[0], *self._shape[1:])
        command, following = self._answer(inputs_of(self._checked(rows, shape), self.spec))
        if not self.spec.recurrent:
            return command
        assert following is not None
        return np.concatenate([command, following], axis=1)

    def _answer(self, inputs: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray | None]:
        """The graph's commands [B, m], and the memory [B, width] of the next step."""
        outputs = self._session.run(self._outputs, inputs)
        if not np.isfinite(outputs[0]).all():
            raise CommandError(f'"{OUTPUT_NAME}" is not finite for this "{INPUT_NAME}"')
        return outputs[0], outputs[1] if len(outputs) > 1 else None

    def _checked(self, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        n, sizes = len(shape), _sizes(shape)
        if array.ndim not in (n, n + 1) or array.shape[-n:] != shape:
            raise ObservationError(f'"{INPUT_NAME}" must be [{sizes}] or [batch, {sizes}], got {list(array.shape)}')
        if array.size == 0:
            raise ObservationError(f'"{INPUT_NAME}" holds no observation: the batch is 0')
        if not np.isfinite(array).all():
            raise ObservationError(f'"{INPUT_NAME}" is not finite at {self._element(array)}')
        return array

    def _check_states(self, rows: np.ndarray) -> None:
        for name in self._states:
            part = rows[:, self._slices[name]]
            if ((part != 0.0) & (part != 1.0)).any() or (part.sum(axis=1) != 1.0).any():
                raise ObservationError(f'"{name}" is one-hot: one of its numbers must be 1 and all others 0')

    def choice(self, command: Any, observation: Any = None) -> int:
        """The number of the contract's choice that a command [m] of `act` is: its row in `choices`. Of those that the
        command's range makes equal it is the first.

        Args:
            observation: [n] what the command answers, where commands count from it (`command_map.relative_to`).

        Raises:
            ValueError: the contract has no choices, this command is none of them, or an observation is needed.
        """
        if not self.spec.choices:
            raise ValueError(f"{self.bundle} gives any command of its range, it has no choices")
        try:
            given = np.asarray(command, np.float64)
        except (TypeError, ValueError):
            raise ValueError(f'"{OUTPUT_NAME}" must be [{self.spec.command_size}] numbers, got {command!r}') from None
        if given.shape != (self.spec.command_size,):
            raise ValueError(f'"{OUTPUT_NAME}" must be [{self.spec.command_size}], got {list(given.shape)}')
        table = self.spec.command_map
        commands = np.array(self.spec.choices)
        if table.relative_to:
            if observation is None:
                raise ObservationError(f"commands count from {' + '.join(table.relative_to)}: give the observation too")
            seen = self._checked(self._taken(observation), self._shape)
            if seen.ndim > 1:
                raise ObservationError(f'"{INPUT_NAME}" must be [{self._width}], got {list(seen.shape)}')
            for parts in self.spec.summands():
                commands = commands + np.concatenate([seen[part] for part in parts]).astype(np.float64)
        error = relative_error(np.clip(commands, table.low, table.high), given, self.spec).max(axis=1)
        found = int(np.argmin(error))
        if not error[found] <= self.spec.tolerance:
            raise ValueError(f'"{OUTPUT_NAME}" {given.tolist()} is none of the {len(commands)} choices')
        return found

    def latency(self, n: int = 1000) -> Latency:
        """p50 and p99 of `n` calls of `act` with the first golden observation [us], after a warm-up; an open episode
        goes on as if nothing had been."""
        if n < 1:
            raise ValueError(f"latency needs at least 1 call, got {n}")
        observation = self.golden()[0][0][-self._shape[0] :]
        times: list[int] = []
        kept = self._memory
        self.reset()
        for index in range(n + 20):
            start = time.perf_counter_ns()
            self.act(observation)
            if index >= 20:
                times.append(time.perf_counter_ns() - start)
        self._memory = kept
        p50, p99 = np.percentile(times, (50, 99)) / 1000
        return Latency(float(p50), float(p99))

    def golden(self) -> tuple[np.ndarray, np.ndarray]:
        """The golden vectors: observations behind their memory, as `answers` takes them, and what the training network
        answered."""
        path = os.path.join(self.bundle, GOLDEN_FILE)
        shapes = {INPUT_NAME: self._shape, OUTPUT_NAME: (self.spec.command_size,)}
        memory, width = self.spec.memory
        if width:
            shapes[memory] = (width,)
        if self.spec.recurrent:
            shapes[NEXT + memory] = (width,)
        try:
            with np.load(path, allow_pickle=False) as data:
                arrays = {name: data[name] for name in shapes}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise SpecError(f"{path} is not readable: {error}") from None
        for name, shape in shapes.items():
            array, kind = arrays[name], self.spec.observation_dtype if name == INPUT_NAME else "float32"
            whole = array.ndim > 1 and array.shape[1:] == shape and 0 < len(array) == len(arrays[INPUT_NAME])
            if not whole or array.dtype != kind:
                wanted, found = f"{kind} [N, {_sizes(shape)}]", f"{array.dtype} {list(array.shape)}"
                raise SpecError(f'{path}: "{name}" must be {wanted}, got {found}')
        rows, answers = (
            [arrays[name] for name in names if name in arrays]
            for names in ((memory, INPUT_NAME), (OUTPUT_NAME, NEXT + memory))
        )
        return np.concatenate(rows, axis=1), np.concatenate(answers, axis=1)

    def golden_error(self) -> float:
        """Largest |answer - golden answer|, as a share of each command's range; to be held against `tolerance`."""
        rows, answers = self.golden()
        return float(relative_error(self.answers(rows), answers, self.spec).max())

    def golden_choices(self) -> int:
        """How many of the contract's choices occur among the golden answers; 0 where it has none. Raises CommandError
        when one of them is none of these."""
        spec = self.spec
        if not spec.choices:
            return 0
        rows, answers = self.golden()
        seen = rows[:, spec.memory[1] :] if spec.command_map.relative_to else [None] * len(rows)
        try:
            return len(set(map(self.choice, answers[:, : spec.command_size], seen)))
        except ValueError as error:
            raise CommandError(f"a golden answer: {error}") from None

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
        if array.shape[-1] > self._width:  # it stands behind a memory
            if column < self.spec.recurrent:
                return f"{self.spec.memory[0]}[{column}]"
            column = (column - self.spec.recurrent) % self._width
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


def inputs_of(rows: np.ndarray, spec: Spec) -> dict[str, np.ndarray]:
    """The graph's inputs, by name, for observations behind their memory [B, width + n]."""
    name, width = spec.memory
    inputs = {INPUT_NAME: rows[:, width:]}
    return {**inputs, name: rows[:, :width]} if width else inputs


def relative_error(answer: np.ndarray, reference: np.ndarray, spec: Spec) -> np.ndarray:
    """|answer - reference| / (high - low), element by element: of commands [..., m], or with the hidden state behind
    them, whose range is [-1, 1]."""
    span = np.subtract(spec.command_map.high, spec.command_map.low)
    span = np.concatenate([span, np.full(spec.recurrent, 2.0)])[: answer.shape[-1]]
    error: np.ndarray = np.abs(answer.astype(np.float64) - reference) / span
    return error


def _sizes(shape: Sequence[int]) -> str:
    return ", ".join(map(str, shape))


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
