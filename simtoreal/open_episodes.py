"""Episodes that are under way as tensors of a checkpoint, and whether they came back from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from simtoreal.policies.observations import Observation, split_observation
from simtoreal.policies.transitions import finite
from simtoreal.workers import OpenEpisode


def episode_tensors(episodes: Sequence[OpenEpisode]) -> dict[str, Tensor]:
    """Open episodes of E environments as plain tensors: numbers [E], lengths [E], all actions [sum of lengths, m], and
    where ranges move extents [E, S]."""
    extents = [episode.extents for episode in episodes if episode.extents is not None]
    moving = {"extents": torch.from_numpy(np.stack(extents))} if extents else {}
    return {
        "numbers": torch.tensor([episode.number for episode in episodes]),
        "lengths": torch.tensor([len(episode.actions) for episode in episodes]),
        "actions": torch.from_numpy(np.concatenate([episode.actions for episode in episodes])),
        **moving,
    }


def open_episodes(tensors: Mapping[str, Tensor]) -> list[OpenEpisode]:
    """The inverse of `episode_tensors`. Raises ValueError when they are not such."""
    if tensors.keys() - {"extents"} != {"numbers", "lengths", "actions"}:
        raise ValueError(f"open episodes: found {sorted(tensors)}, expected actions, lengths and numbers")
    lengths = tensors["lengths"].tolist()
    if len(tensors["numbers"]) != len(lengths) or len(tensors["actions"]) != sum(lengths):
        raise ValueError(f"open episodes: {len(tensors['actions'])} actions for episodes of {lengths}")
    parts = torch.split(tensors["actions"], lengths)
    numbers = tensors["numbers"].tolist()
    extents = list(tensors["extents"].numpy().copy()) if "extents" in tensors else [None] * len(numbers)
    return [
        OpenEpisode(number, part.numpy().copy(), extent)
        for number, part, extent in zip(numbers, parts, extents, strict=True)
    ]


def check_reopened(seen: Observation, recorded: Observation) -> None:
    """Raises ValueError naming the first environment that does not show again what it showed before."""
    for part, before in zip(split_observation(finite(seen)), split_observation(finite(recorded)), strict=True):
        if part is None or before is None or np.array_equal(part, before):
            continue
        same = part.shape == before.shape
        which = int(np.argmax((part != before).reshape(len(part), -1).any(axis=1))) if same else 0
        raise ValueError(
            f"environment {which} did not come back to where it was: this task's episodes do not follow from their "
            "seed and actions alone, so a training on it cannot be resumed exactly"
        )
