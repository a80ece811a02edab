"""Learning: agents, networks, replay, checkpoints. Sees spaces and arrays only; what is heavy loads on first use."""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "Agent": "agent",
    "NonFiniteError": "agent",
    "Batch": "replay",
    "Replay": "replay",
    "SAC": "sac",
    "SACConfig": "sac",
    "PPO": "ppo",
    "PPOConfig": "ppo",
    "TD3": "td3",
    "TD3Config": "td3",
    "LoopState": "loops",
    "Progress": "loops",
    "off_policy": "loops",
    "learn_sb3": "baselines",
    "CheckpointError": "checkpoint",
    "build_actor": "checkpoint",
    "load_checkpoint": "checkpoint",
    "save_checkpoint": "checkpoint",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
