"""What it takes for a learner of Stable-Baselines3 to go on bit for bit: its tensors, numbers and replay buffer.

They are reached by their attributes: nothing of Stable-Baselines3 is imported here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simtoreal.policies.agent import load_module, prefixed, under


def state_tensors(model: Any) -> dict[str, Tensor]:
    """All its tensors but the replay buffer's, cloned; torch's and numpy's global streams too."""
    state = prefixed("policy", {name: value.clone() for name, value in model.policy.state_dict().items()})
    for name, optimizer in _optimizers(model).items():
        state |= optimizer_tensors(f"optimizer.{name}", optimizer)
    if model._last_episode_starts is not None:
        state["episode_starts"] = torch.from_numpy(np.array(model._last_episode_starts))
    if (temperature := _temperature(model)) is not None:
        state["log_ent_coef"] = temperature.detach().clone()
    state["torch_rng"] = torch.get_rng_state()
    state["numpy_rng"] = torch.from_numpy(_numpy_stream()["state"]["key"].astype(np.int64))
    if model._last_obs is not None:
        state["observation"] = torch.from_numpy(np.array(model._last_obs))
    return state


def state_numbers(model: Any) -> dict[str, Any]:
    """The rest of it, as JSON."""
    return {
        "num_timesteps": model.num_timesteps,
        "n_updates": model._n_updates,
        "episode_num": model._episode_num,
        "numpy_position": int(_numpy_stream()["state"]["pos"]),
        "n_calls": getattr(model, "_n_calls", 0),
        "exploration_rate": getattr(model, "exploration_rate", 0.0),
        "action_space": model.action_space.np_random.bit_generator.state,
        "logged": {name: float(v) for name, v in model.logger.name_to_value.items() if np.isfinite(v)},
    }


def restore_state(model: Any, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
    """The inverse of `state_tensors` and `state_numbers`. Raises ValueError or KeyError when they do not fit."""
    load_module(model.policy, "policy", tensors)
    for name, optimizer in _optimizers(model).items():
        load_optimizer(f"optimizer.{name}", optimizer, tensors)
    if (temperature := _temperature(model)) is not None:
        with torch.no_grad():
            temperature.copy_(tensors["log_ent_coef"])
    model.num_timesteps, model._n_updates = numbers["num_timesteps"], numbers["n_updates"]
    model._episode_num = numbers["episode_num"]
    if hasattr(model, "_n_calls"):  # DQN's
        model._n_calls, model.exploration_rate = numbers["n_calls"], numbers["exploration_rate"]
    model.action_space.np_random.bit_generator.state = numbers["action_space"]
    for name, value in numbers["logged"].items():
        model.logger.record(name, value)
    if "observation" in tensors:
        model._last_obs = tensors["observation"].numpy().copy()
        model._last_episode_starts = tensors["episode_starts"].numpy().copy()
    torch.set_rng_state(tensors["torch_rng"])
    key = tensors["numpy_rng"].numpy().astype(np.uint32)
    state = _numpy_stream() | {"state": {"key": key, "pos": numbers["numpy_position"]}}
    np.random.set_state(state)  # noqa: NPY002


def _optimizers(model: Any) -> dict[str, torch.optim.Optimizer]:
    """One of all of PPO and DQN; of SAC and TD3 one of each network, and of what SAC learns besides."""
    if not hasattr(model, "actor"):
        return {"all": model.policy.optimizer}
    found = {"actor": model.actor.optimizer, "critic": model.critic.optimizer}
    return found if _temperature(model) is None else found | {"ent_coef": model.ent_coef_optimizer}


def _temperature(model: Any) -> Tensor | None:
    """What SAC learns besides its networks; None where it is fixed, and for the others."""
    found: Tensor | None = getattr(model, "log_ent_coef", None)
    return found


def _numpy_stream() -> dict[str, Any]:
    """numpy's global stream, which SB3 draws batches from."""
    state = np.random.get_state(legacy=False)  # noqa: NPY002 (it is this stream that SB3 uses)
    assert isinstance(state, dict)
    return state


def optimizer_tensors(prefix: str, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Adam's moments and step counts, as `prefix.<parameter index>.<moment>`; empty before the first step."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return {
        f"{prefix}.{index}.{name}": value.detach().clone()
        for index, parameter in enumerate(parameters)
        for name, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer(prefix: str, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `optimizer_tensors`. Raises ValueError on a parameter it has not or another shape."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    optimizer.state.clear()
    for name, value in under(prefix, tensors).items():
        index, _, moment = name.partition(".")
        if not index.isdigit() or int(index) >= len(parameters):
            raise ValueError(f"{prefix}.{name}: no such parameter; the optimizer has {len(parameters)}")
        parameter = parameters[int(index)]
        if moment != "step" and value.shape != parameter.shape:
            raise ValueError(f"{prefix}.{name}: shape {list(value.shape)}, expected {list(parameter.shape)}")
        optimizer.state[parameter][moment] = value.to(parameter.device, copy=True)


class BaselineMemory:
    """SB3's replay buffer of B slots of E environments, as rows [E, ...] numbered in the order they were added."""

    PARTS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")

    def __init__(self, model: Any) -> None:
        self._model, self._buffer = model, model.replay_buffer
        if self._buffer.optimize_memory_usage:
            raise ValueError("optimize_memory_usage: such a buffer cannot be stored by rows; set resumable to false")

    @property
    def added(self) -> int:
        return int(self._model.num_timesteps) // int(self._buffer.n_envs)

    @property
    def oldest(self) -> int:
        return self.added - int(self._buffer.size())

    def rows(self, first: int, last: int) -> dict[str, Tensor]:
        """Rows number `first` to `last` - 1. Raises IndexError for one that is not held."""
        if not self.oldest <= first <= last <= self.added:
            raise IndexError(f"rows {first} to {last} were asked for, {self.oldest} to {self.added} are held")
        slots = np.arange(first, last) % self._buffer.buffer_size
        return {name: torch.from_numpy(getattr(self._buffer, name)[slots]) for name in self.PARTS}

    def restore(self, first: int, parts: Iterable[Mapping[str, Tensor]]) -> None:
        """Hold `parts`, from number `first` on. Raises ValueError for other names, shapes or numbers of rows."""
        buffer, end = self._buffer, first
        for part in parts:
            if part.keys() != {*self.PARTS}:
                raise ValueError(f"a stored buffer has {sorted(part)}, expected {sorted(self.PARTS)}")
            slots = np.arange(end, end + len(part["rewards"])) % buffer.buffer_size
            for name, rows in part.items():
                array = getattr(buffer, name)
                if rows.shape != (len(slots), *array.shape[1:]):
                    expected = [len(slots), *array.shape[1:]]
                    raise ValueError(f"stored {name} has shape {list(rows.shape)}, expected {expected}")
                array[slots] = rows.numpy()
            end += len(slots)
        if end != self.added or (first > 0 and end - first < buffer.buffer_size):
            raise ValueError(f"stored rows {first} to {end} do not fill a buffer of {self.added} rows")
        buffer.full, buffer.pos = end >= buffer.buffer_size, end % buffer.buffer_size
