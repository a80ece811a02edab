"""From a torch actor to an ONNX file that takes SI observations and gives SI commands."""

from __future__ import annotations

import contextlib
import copy
import logging
import re
import warnings
from collections.abc import Iterator, Mapping

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from simtoreal.export.onboard.checks import SpecError
from simtoreal.export.onboard.runtime import INPUT_NAME, NEXT, OUTPUT_NAME
from simtoreal.export.onboard.spec import Spec

TRACE_BATCH = 2  # at a batch of 1 the trace bakes the size in
BATCHES = (1, 2, 7)  # a policy must take any; these are tried
TWINS, TWIN_SPREAD = 8, 1e-4  # of weights: a hundred times what rounding makes of a value


class ExportError(ValueError):
    """A policy that cannot become a bundle; the message says why and what was expected."""


class PolicyGraph(nn.Module):
    """A copy of `actor` followed by the command map of `spec`, on the CPU: observation [B, n] SI -> command [B, m] SI.

    `actor` takes raw SI observations [B, n] (its normalizer inside) and gives actions [B, m] in [-1, 1]. Under a
    contract with a history of k it takes stacks [B, k n], oldest first, and the graph also takes the history
    [B, (k - 1) n] and gives the next one. Under one of a recurrent policy both also take the hidden state [B, h], and
    give the next one. Under one of images both take these, uint8 [B, *shape]. The bounds are rounded to float32
    inwards, so no command passes them by a rounding.
    """

    offset: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, actor: nn.Module, spec: Spec) -> None:
        super().__init__()
        self.actor = copy.deepcopy(actor).cpu().eval().requires_grad_(False)
        table = spec.command_map
        for name in ("offset", "scale"):
            self.register_buffer(name, torch.tensor(getattr(table, name), dtype=torch.float32))
        self.register_buffer("low", torch.from_numpy(_rounded(table.low, np.inf)))
        self.register_buffer("high", torch.from_numpy(_rounded(table.high, -np.inf)))
        self.summands = spec.summands()
        (self.memory, self.memory_width), self.recurrent = spec.memory, spec.recurrent
        self.blank = torch.zeros(*spec.observation_shape, dtype=getattr(torch, spec.observation_dtype))
        self.command_size = spec.command_size
        for name, value in self.state_dict().items():
            if value.is_floating_point() and not bool(value.isfinite().all()):
                raise ExportError(f'"{name}" of the policy holds a value that is not finite; it is not exported')
        self._check_actor()

    def inputs(self, batch: int) -> dict[str, Tensor]:
        """Blank inputs of the graph, by name."""
        inputs = {INPUT_NAME: self.blank.expand(batch, *self.blank.shape)}
        return inputs | ({self.memory: torch.zeros(batch, self.memory_width)} if self.memory_width else {})

    def _check_actor(self) -> None:
        for batch in BATCHES:
            inputs = list(self.inputs(batch).values())
            seen = inputs if self.recurrent else [torch.cat(inputs[::-1], dim=-1)]
            try:
                found = self.actor(*seen)
            except (RuntimeError, ValueError, TypeError, IndexError) as error:
                shapes = " and hidden states ".join(str(list(tensor.shape)) for tensor in seen)
                raise ExportError(f"the actor does not take observations {shapes}: {_line(error)}") from error
            wanted = [[batch, self.command_size], *([[batch, self.recurrent]] if self.recurrent else [])]
            given = [
                list(part.shape) if isinstance(part, Tensor) else type(part).__name__
                for part in (found if self.recurrent and isinstance(found, tuple) else [found])
            ]
            if given != wanted:
                said, got = (" and hidden states ".join(map(str, shapes)) for shapes in (wanted, given))
                raise ExportError(f"the actor must give actions {said}, it gives {got}")

    def forward(self, observation: Tensor, memory: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        if self.recurrent:
            action, following = self.actor(observation, memory)
        else:
            stack = observation if memory is None else torch.cat([memory, observation], dim=-1)
            action, following = self.actor(stack), stack[:, observation.shape[1] :]
        command = self.offset + self.scale * action.to(torch.float32)
        for parts in self.summands:
            command = command + torch.cat([observation[:, part] for part in parts], dim=-1)
        command = torch.minimum(torch.maximum(command, self.low), self.high)
        return command if memory is None else (command, following)

    def answers(self, rows: np.ndarray) -> np.ndarray:
        """Torch's command [B, m] for float32 observations behind their memory, or for images; with the next hidden
        state behind it if it is recurrent. As `Runtime.answers`."""
        seen = torch.as_tensor(rows)
        inputs = [seen[:, self.memory_width :], *([seen[:, : self.memory_width]] if self.memory_width else [])]
        with torch.inference_mode():
            found = self(*inputs)
            if self.recurrent:
                found = torch.cat(found, dim=-1)
            elif self.memory_width:
                found = found[0]
            return np.asarray(found.numpy())

    def alternatives(self, rows: np.ndarray) -> np.ndarray:
        """Commands [TWINS, B, m] of policies whose weights each differ from these by some `TWIN_SPREAD` of it. Where
        choices are worth the same to rounding these are not all the same."""
        rng, twin, found = torch.Generator().manual_seed(0), copy.deepcopy(self), []
        for _ in range(TWINS):
            for weight, mine in zip(twin.parameters(), self.parameters(), strict=True):
                weight.copy_(mine * (1.0 + TWIN_SPREAD * torch.randn(mine.shape, generator=rng)))
            found.append(twin.answers(rows)[:, : self.command_size])
        return np.stack(found)


def _stopped(error: BaseException | None) -> KeyboardInterrupt | None:
    """What came from outside, among all that led to an error."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error


def export_onnx(graph: PolicyGraph, metadata: Mapping[str, str]) -> bytes:
    """The ONNX file of `graph` with `metadata` in it: one input and one output, or two with a memory, free batch, no
    external data, checked.

    ExportError when torch cannot translate the graph.
    """
    inputs = graph.inputs(TRACE_BATCH)
    batch = torch.export.Dim("batch")
    try:
        with _quiet():
            program = torch.onnx.export(
                graph,
                tuple(tensor.contiguous() for tensor in inputs.values()),
                dynamo=True,
                input_names=list(inputs),
                output_names=[OUTPUT_NAME, NEXT + graph.memory][: len(inputs)],
                dynamic_shapes=tuple({0: batch} for _ in inputs),
                external_data=False,
                verbose=False,
            )
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        if stopped := _stopped(error):  # Ctrl-C or SIGTERM, which torch takes for a fault of the graph
            raise stopped from None
        raise ExportError(f"torch cannot export this actor: {_line(error)}") from error
    assert program is not None
    model = program.model_proto
    # torch notes each node's source lines, with the paths of the exporting machine
    for part in (model, model.graph, *model.functions, *model.graph.node, *model.graph.value_info, *model.graph.input):
        part.doc_string = ""
        del part.metadata_props[:]
    for function in model.functions:
        for node in function.node:
            node.doc_string = ""
            del node.metadata_props[:]
    for key, value in sorted(metadata.items()):
        model.metadata_props.add(key=key, value=value)
    check_model(model.SerializeToString(), "the exported model")
    return bytes(model.SerializeToString())


def check_model(model: bytes, where: str) -> None:
    """Run ONNX's own checker, with type and shape inference; SpecError naming `where`."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        raise SpecError(f"{where} is no valid ONNX model: {_line(error)}") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch's exporter warns of torchvision and of its own internals; none of it concerns the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _rounded(bounds: tuple[float, ...], towards: float) -> np.ndarray:
    """`bounds` [m] in float32, never farther out than the float64 values; `towards` is +inf for lower bounds."""
    wide = np.asarray(bounds, dtype=np.float64)
    narrow = wide.astype(np.float32)
    outside = narrow < wide if towards > 0 else narrow > wide
    return np.where(outside, np.nextafter(narrow, np.float32(towards)), narrow)


def _line(error: BaseException) -> str:
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # torch writes in colours
    return " ".join(plain.split())[:300]
