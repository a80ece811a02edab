"""The benchmarks by name, and their figures as a table."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from rich.table import Table

from simtoreal.bench_learners import bench_inference, bench_loop, bench_update
from simtoreal.bench_workers import bench_workers
from simtoreal.benchmarks import Row, bench_reset, bench_step
from simtoreal.config import ConfigError
from simtoreal.progress import console
from simtoreal.randomization.messages import nearest
from simtoreal.runs import versions

BENCHMARKS: Mapping[str, Callable[[int], list[Row]]] = {
    "step": bench_step,
    "reset": bench_reset,
    "update": bench_update,
    "loop": bench_loop,
    "inference": bench_inference,
    "workers": bench_workers,
}


def bench(names: Sequence[str] = (), *, rounds: int = 5) -> dict[str, Any]:
    """Run the named benchmarks (all if none), interleaving ours with its peer `rounds` times.

    Raises:
        ConfigError: no such benchmark.
    """
    for name in names:
        if name not in BENCHMARKS:
            raise ConfigError(f"no benchmark {name!r}; {nearest(name, BENCHMARKS)}")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = [row for name in names or BENCHMARKS for row in BENCHMARKS[name](rounds)]
    finally:
        torch.set_num_threads(threads)
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
    }
    return {"rows": [asdict(row) for row in rows], "rounds": rounds, "machine": machine, "versions": versions()}


def print_bench(result: Mapping[str, Any]) -> None:
    """The rows as a table on stdout."""
    table = Table(
        title=f"median of {result['rounds']} interleaved rounds, CPU time (rates of workers: wall clock)",
        title_justify="left",
    )
    for column in ("benchmark", "what", "ours", "peer", "its figure", "unit", "ratio"):
        table.add_column(column)
    for row in result["rows"]:
        figures = [f"{row[key]:,.{1 if row[key] >= 10 else 3}f}" for key in ("ours", "peer")]
        table.add_row(
            row["name"], row["what"], figures[0], row["peer_name"], figures[1], row["unit"], f"{row['ratio']:.2f}"
        )
    console().print(table)
