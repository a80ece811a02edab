"""An actuator network from an ONNX file, for robots whose drive was learned from a log."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simtoreal.export.onboard.checks import SpecError
from simtoreal.export.onboard.folder import read_regular
from simtoreal.export.onboard.runtime import open_session
from simtoreal.robots.motors import ActuatorNetwork

MOST_BYTES = 50_000_000


def load_actuator(path: str | os.PathLike[str], lags: Sequence[float], joints: int) -> ActuatorNetwork:
    """The network in an ONNX file: input [n, 2 k] float32, of each joint its position errors (target - q) [rad] at the
    k `lags` [s] and then its velocities [rad/s]; output [n] or [n, 1], its torque [N m].

    Raises:
        ValueError: no such file, none that onnxruntime takes, another shape, or no finite torque for `joints` at rest.
    """
    name = os.fspath(path)
    try:
        session = open_session(read_regular(name, MOST_BYTES), name)
    except (SpecError, FileNotFoundError) as error:
        raise ValueError(str(error)) from None
    inputs, outputs, width = session.get_inputs(), session.get_outputs(), 2 * len(lags)
    if len(inputs) != 1 or len(outputs) != 1:
        raise ValueError(f"{name} must have one input and one output, has {len(inputs)} and {len(outputs)}")
    given = inputs[0]
    if given.type != "tensor(float)" or len(given.shape) != 2 or given.shape[1] not in (width, None):
        raise ValueError(
            f"{name} must take float32 [n, {width}] with {len(lags)} lags, takes {given.type} {given.shape}"
        )

    def network(rows: NDArray[np.float32]) -> NDArray[np.float32]:
        answer: NDArray[np.float32] = session.run(None, {given.name: rows})[0]
        return answer.reshape(-1)

    try:
        found = network(np.zeros((joints, width), np.float32))
    except Exception as error:  # onnxruntime's own exceptions share no public base
        raise ValueError(f"{name} cannot answer for {joints} joints: {' '.join(str(error).split())}") from None
    if found.shape != (joints,) or not np.isfinite(found).all():
        raise ValueError(f"{name} must give a finite torque for each of {joints} joints, gave {found.tolist()}")
    return ActuatorNetwork(network, tuple(lags), Path(name))
