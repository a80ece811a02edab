"""SBX (Stable-Baselines3 in JAX, github.com/araffin/sbx) as a peer of the learners' benchmark, where it is installed
(`pip install sbx-rl`); it is no dependency of this package."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


def installed() -> bool:
    """Is SBX there to be measured?"""
    return importlib.util.find_spec("sbx") is not None


@contextmanager
def one_cpu() -> Iterator[None]:
    """Within the block this process runs on one CPU: XLA has threads of its own, whatever it is told."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def learner(name: str, env: Any, batch: int, hidden: tuple[int, ...]) -> Any:
    """SBX's SAC, TD3 or DQN on `env`. Its `train(batch, n)` makes n updates in one call of one compiled function,
    where it is fastest."""
    os.environ.setdefault("XLA_FLAGS", ONE_THREAD)
    sbx: Any = importlib.import_module("sbx")
    return {"sac": sbx.SAC, "td3": sbx.TD3, "dqn": sbx.DQN}[name](
        "MlpPolicy", env, batch_size=batch, policy_kwargs={"net_arch": list(hidden)}, learning_starts=0
    )
