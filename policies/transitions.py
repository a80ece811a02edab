"""What one step of several environments is to a learner: rows of transitions, which of them hold, and observations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from simtoreal.policies.history import first_stack, next_stack
from simtoreal.policies.observations import Observation, split_observation, with_policy_part

Transition = dict[str, np.ndarray]
"""Rows of one vector step under the names of `Replay.add`: obs, action, reward, next_obs, terminated, ..."""

Augment = Callable[[Transition, Mapping[str, Any]], Transition]
Mirror = Callable[[Transition], Transition]
"""The images of rows under any of those names when left and right are exchanged; reward and ends stay the same."""

LARGEST = float(np.finfo(np.float32).max)
"""Numbers beyond it are infinite for networks and replay, whatever type the environment has for them."""


def valid_rows(rows: Transition, infos: Mapping[str, Any]) -> np.ndarray:
    """[E] True where a transition may be learned from: the environment says it is valid, and all of it is finite."""
    valid = np.asarray(infos.get("valid", np.ones(len(rows["reward"]), dtype=bool)), dtype=bool)
    return valid & finite_rows(rows)


def transition(
    obs: Observation, action: np.ndarray, reward: np.ndarray, next_obs: Observation, terminated: np.ndarray
) -> Transition:
    """One vector step as rows for `Replay.add`."""
    policy, privileged = split_observation(obs)
    next_policy, next_privileged = split_observation(next_obs)
    rows = {"obs": policy, "action": action, "reward": reward, "next_obs": next_policy, "terminated": terminated}
    if privileged is not None and next_privileged is not None:
        rows |= {"privileged": privileged, "next_privileged": next_privileged}
    return rows


def with_more(rows: Transition, more: Transition) -> Transition:
    """`rows`, and after them `more`."""
    return {name: np.concatenate([value, more[name]]) for name, value in rows.items()}


def observation_of(rows: Transition) -> Observation:
    """The observations the steps led to, as an agent takes them."""
    if "next_privileged" in rows:
        return {"policy": rows["next_obs"], "privileged": rows["next_privileged"]}
    return rows["next_obs"]


def finite_rows(rows: Transition) -> np.ndarray:
    """[E] True where every number of the transition is finite."""
    known = np.ones(len(rows["reward"]), dtype=bool)
    for value in rows.values():
        each = is_finite(value)
        if not each.all():
            known &= each.reshape(len(value), -1).all(axis=1)
    return known


def final_observation(next_obs: Observation, ended: np.ndarray, infos: Mapping[str, Any]) -> Observation:
    """`next_obs` with the ended rows replaced by their episode's last. Raises ValueError when that is absent."""
    if not ended.any():
        return next_obs
    if "final_obs" not in infos:
        raise ValueError("an environment ended but infos have no 'final_obs'")
    final = infos["final_obs"]
    if isinstance(next_obs, Mapping):
        rows = {key: np.array(value) for key, value in next_obs.items()}
        for i in np.flatnonzero(ended):
            for key in rows:
                rows[key][i] = final[i][key]
        return rows
    array = np.array(next_obs)
    for i in np.flatnonzero(ended):
        array[i] = final[i]
    return array


def final_value(infos: Mapping[str, Any], i: int, key: str) -> Any:
    """Environment i's `key` of its last info, or None; infos as a list of dicts or as gymnasium's dict of arrays."""
    final = infos.get("final_info")
    if final is None:
        return None
    if isinstance(final, Mapping):
        present = final.get(f"_{key}", np.ones(i + 1, dtype=bool))
        return final[key][i] if key in final and present[i] else None
    return None if final[i] is None else final[i].get(key)


def copied(obs: Observation) -> Observation:
    """A copy: an environment may write its next observation over the last."""
    if isinstance(obs, Mapping):
        return {key: np.array(value) for key, value in obs.items()}
    return np.array(obs)


def stacked(
    obs: Observation, history: int, before: Observation | None = None, begins: np.ndarray | None = None
) -> Observation:
    """`obs` with the policy's part [E, n] as a stack [E, k n]: that of `before` with the new frame, or `history` = k
    times the frame where an episode `begins` [E] (none does), and everywhere without `before`."""
    if history == 1:
        return obs
    frame = split_observation(obs)[0]
    stack = first_stack(frame, history)
    if before is not None:
        goes_on = np.ones(len(frame), dtype=bool) if begins is None else ~begins
        stack[goes_on] = next_stack(split_observation(before)[0], frame)[goes_on]
    return with_policy_part(obs, stack)


def finite(obs: Observation) -> Observation:
    """NaN and infinity as 0: such a row's transition is never stored, yet the other environments need their actions."""
    if isinstance(obs, Mapping):
        return {key: zeroed(value) for key, value in obs.items()}
    return zeroed(obs)


def is_finite(x: np.ndarray) -> np.ndarray:
    """Where `x` is finite in float32, as it is learned from."""
    found: np.ndarray = np.abs(x) <= LARGEST if x.dtype == np.float64 else np.isfinite(x)
    return found


def zeroed(x: np.ndarray) -> np.ndarray:
    """`x` with 0 where it is not finite."""
    known = is_finite(x)
    return x if known.all() else np.where(known, x, x.dtype.type(0))
