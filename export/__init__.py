"""Leave Python, torch and the simulator: a policy becomes a self-describing ONNX bundle that a robot checks and runs.

Names are loaded when first used, so importing this package pulls in neither torch nor onnx nor onnxruntime.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simtoreal.export.bundle import write_bundle
    from simtoreal.export.onboard.checks import SpecError
    from simtoreal.export.onboard.folder import check_files, read_spec
    from simtoreal.export.onboard.layout import CommandMap, Field, Image
    from simtoreal.export.onboard.runtime import CommandError, Latency, ObservationError, Runtime
    from simtoreal.export.onboard.spec import Spec
    from simtoreal.export.onnx import ExportError, PolicyGraph, export_onnx
    from simtoreal.export.verify import Check, ClosedLoop, Parity, verify_bundle

_HOME = {
    "CommandError": "onboard.runtime",
    "Latency": "onboard.runtime",
    "ObservationError": "onboard.runtime",
    "Runtime": "onboard.runtime",
    "CommandMap": "onboard.layout",
    "Field": "onboard.layout",
    "Image": "onboard.layout",
    "Spec": "onboard.spec",
    "SpecError": "onboard.checks",
    "check_files": "onboard.folder",
    "read_spec": "onboard.folder",
    "ExportError": "onnx",
    "PolicyGraph": "onnx",
    "export_onnx": "onnx",
    "write_bundle": "bundle",
    "Check": "verify",
    "ClosedLoop": "verify",
    "Parity": "verify",
    "verify_bundle": "verify",
}

__all__ = [
    "Check",
    "ClosedLoop",
    "CommandError",
    "CommandMap",
    "ExportError",
    "Field",
    "Image",
    "Latency",
    "ObservationError",
    "Parity",
    "PolicyGraph",
    "Runtime",
    "Spec",
    "SpecError",
    "check_files",
    "export_onnx",
    "read_spec",
    "verify_bundle",
    "write_bundle",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
