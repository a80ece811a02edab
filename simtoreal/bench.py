"""The benchmarks by name, and their figures as a table."""

from __future__ import annotations

import importlib
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from typing import Any

import torch
from rich.table import Table

from simtoreal.config import ConfigError
from simtoreal.measuring import Row
from simtoreal.progress import console
from simtoreal.randomization.messages import nearest
from simtoreal.runs import versions

BENCHMARKS = {
    "step": "simtoreal.benchmarks",
    "reset": "simtoreal.benchmarks",
    "randomization": "simtoreal.benchmarks",
    "overhead": "simtoreal.bench_peers",
    "update": "simtoreal.bench_learners",
    "threads": "simtoreal.bench_learners",
    "loop": "simtoreal.bench_learners",
    "inference": "simtoreal.bench_learners",
    "dqn": "simtoreal.bench_choices",
    "workers": "simtoreal.bench_workers",
    "gpu": "simtoreal.bench_gpu",
}  # name -> module of `bench_NAME`; those of the learners need no simulator
OPTIONAL = {
    "pybullet_envs_gymnasium": ("overhead", "pybullet_envs_gymnasium"),
    "panda_gym": ("overhead", "panda-gym"),
    "sbx": ("update", "sbx-rl"),
}  # package of a peer that is not among our dependencies -> benchmark, and its name for pip


def bench(names: Sequence[str] = (), *, rounds: int = 5) -> dict[str, Any]:
    """Run the named benchmarks (if none, all that this machine can), interleaving ours with its peer `rounds` times.

    Raises:
        ConfigError: no such benchmark, or "gpu" without one.
    """
    has_gpu = torch.cuda.is_available()
    for name in names:
        if name not in BENCHMARKS:
            raise ConfigError(f"no benchmark {name!r}; {nearest(name, BENCHMARKS)}")
    if "gpu" in names and not has_gpu:
        raise ConfigError("the benchmark gpu needs a CUDA GPU, and torch finds none")
    names = names or [name for name in BENCHMARKS if name != "gpu" or has_gpu]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = [row for name in names for row in _rows(name, rounds)]
    finally:
        torch.set_num_threads(threads)
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "gpu": torch.cuda.get_device_name() if has_gpu else None,
    }
    return {
        "rows": [asdict(row) for row in rows],
        "rounds": rounds,
        "machine": machine,
        "versions": versions(installed_only=True),
        "left_out": [
            f"{name} against {package}, which is not installed (pip install {pip})"
            for package, (name, pip) in OPTIONAL.items()
            if name in names and find_spec(package) is None
        ],
    }


def _rows(name: str, rounds: int) -> list[Row]:
    found: list[Row] = getattr(importlib.import_module(BENCHMARKS[name]), f"bench_{name}")(rounds)
    return found


def print_bench(result: Mapping[str, Any]) -> None:
    """The rows as a table on stdout."""
    table = Table(
        title=f"median of {result['rounds']} interleaved rounds, CPU time (of threads, workers and GPUs: wall clock)",
        title_justify="left",
    )
    for column in ("benchmark", "what", "ours", "peer", "its figure", "unit", "ratio"):
        table.add_column(column)
    for row in result["rows"]:
        figures = [f"{row[key]:,.{1 if row[key] >= 10 else 3}f}" for key in ("ours", "peer")]
        table.add_row(
            row["name"], row["what"], figures[0], row["peer_name"], figures[1], row["unit"], f"{row['ratio']:.2f}"
        )
    if result["rows"]:
        console().print(table)
    for line in result["left_out"]:
        console().print(f"left out: {line}", markup=False)
