"""What every learner with networks shares: normalized observations, a random stream, its state as plain tensors."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from simtoreal.policies.adam import Adam
from simtoreal.policies.agent import NonFiniteError, load_module, prefixed, tensor_of
from simtoreal.policies.deterministic import DeterministicActor
from simtoreal.policies.images import Shape, check_image
from simtoreal.policies.memory import keep_freed_memory
from simtoreal.policies.networks import HIDDEN, MAX_BATCH, MAX_HISTORY, is_hidden
from simtoreal.policies.normalizer import FrozenNormalizer, Normalizer
from simtoreal.policies.observations import Observation, split_observation
from simtoreal.policies.products import PRECISIONS
from simtoreal.policies.settings import check_finite, check_ranges


@dataclass(frozen=True, kw_only=True)
class NeuralConfig:
    """Settings that every learner with networks has; a value out of range raises ValueError.

    `hidden` is the widths of the hidden layers; `history` is how many of the last observations the actor sees, and
    whoever judges states and has no privileged observation; `matmul_precision` "medium" has large products
    inside `update` made in bf16 (CPUs that can) or tf32 (GPU).
    """

    gamma: float = 0.99
    batch_size: int = 256
    hidden: tuple[int, ...] = (256, 256)
    normalize_observations: bool = True
    history: int = 1
    matmul_precision: str = "highest"

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        check_finite(self)
        check_ranges(self, self.checks())

    def checks(self) -> dict[str, tuple[bool, str]]:
        """For each setting: does it hold, and what is expected of it."""
        return {
            "gamma": (0 <= self.gamma <= 1, "from 0 to 1"),
            "batch_size": (1 <= self.batch_size <= MAX_BATCH, f"from 1 to {MAX_BATCH}"),
            "hidden": (is_hidden(self.hidden), HIDDEN),
            "history": (1 <= self.history <= MAX_HISTORY, f"from 1 to {MAX_HISTORY}"),
            "matmul_precision": (self.matmul_precision in PRECISIONS, ", ".join(PRECISIONS)),
        }


Config = TypeVar("Config", bound=NeuralConfig)
Rows = TypeVar("Rows", Tensor, np.ndarray)


class NeuralAgent(ABC, Generic[Config]):
    """A learner with networks over raw observations. Initial weights and all later noise follow from `seed`.

    `observation_size` n is that of one observation; with a history of k, act, observe and update take stacks [B, k n].
    """

    config_class: ClassVar[type[Any]]

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        privileged_size: int = 0,
        config: Config | None = None,
        *,
        choices: int = 0,
        image: Shape | None = None,
        scaled: int = 0,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        """With `choices` the environment takes one of so many, as -1 for the first to 1 for the last, and `action_size`
        is 1. With `image` an observation is an image uint8 of that shape, [C, H, W] or [H, W, C], of `observation_size`
        numbers; it is neither normalized nor stacked here, but what is privileged beside it is normalized. The last
        `scaled` numbers of a privileged observation come scaled (parameters of the episode) and are not. Raises
        ValueError for choices or images that are none, or that this learner does not take."""
        if choices and (choices < 2 or action_size != 1):
            raise ValueError(f"choices are 2 or more, of one action, got {choices} and {action_size}")
        keep_freed_memory()
        self.config: Config = config or self.config_class()
        self.device = torch.device(device)
        self.action_size = action_size
        self.observation_size, self.image = observation_size, image
        if image is not None:
            self._check_image(image, privileged_size)
        self.normalizer = Normalizer(0 if image else observation_size).to(self.device)
        self.privileged_normalizer = Normalizer(privileged_size, scaled).to(self.device) if privileged_size else None
        self.rng = torch.Generator(self.device).manual_seed(seed)
        self.optimizers: dict[str, Adam] = {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._build(observation_size, privileged_size, choices)

    def _check_image(self, image: Shape, privileged_size: int) -> None:
        if math.prod(check_image(image)) != self.observation_size:
            raise ValueError(
                f"an image {list(image)} must be all of the observation, got {self.observation_size} numbers"
            )
        if self.config.normalize_observations and not privileged_size:
            raise ValueError("pixels are divided by 255, not normalized; set normalize_observations to false")
        if self.config.history > 1:
            raise ValueError("images have no history here: let the environment stack them and set history to 1")

    @abstractmethod
    def _build(self, observation_size: int, privileged_size: int, choices: int) -> None:
        """Make networks, optimizers and what else there is. torch's stream is the seed's."""

    @abstractmethod
    def actor(self) -> DeterministicActor:
        """A copy of the deterministic policy with the normalizer inside: raw [B, k n] -> [B, m]."""

    @abstractmethod
    def _networks(self) -> dict[str, nn.Module]:
        """The networks to go on with, the normalizers apart."""

    def _copied(
        self,
        body: nn.Module,
        weight: Tensor,
        bias: Tensor,
        *,
        activation: str = "relu",
        output: str = "tanh",
        choices: int = 0,
        recurrent: int = 0,
    ) -> DeterministicActor:
        """A copy of a body and of a linear layer after it, with the normalizer inside."""
        config, n = self.config, self._actor_size()
        actor = DeterministicActor(
            n, self.action_size, config.hidden, activation, output, config.history, choices, self.image, recurrent
        )
        self._carry(actor.normalizer)
        actor.body.load_state_dict(body.state_dict())
        actor.head.load_state_dict({"weight": weight, "bias": bias})
        return actor.eval().requires_grad_(False)

    def _actor_size(self) -> int:
        """Numbers of an observation that the actor takes."""
        return self.observation_size

    def _carry(self, normalizer: FrozenNormalizer) -> None:
        """Let the actor that leaves normalize what it takes as it was normalized here."""
        normalizer.copy_from(self.normalizer)

    def _tensors(self) -> dict[str, Tensor]:
        """What else there is to go on with."""
        return {}

    def observe(self, obs: Observation) -> None:
        """Add raw observations [E, n], of a stack the newest, to the running statistics; nothing when
        `normalize_observations` is off."""
        if not self.config.normalize_observations:
            return
        policy, privileged = split_observation(obs)
        if self.image is None:
            self.normalizer.update(self._newest(policy))
        if self.privileged_normalizer is not None and privileged is not None:
            self.privileged_normalizer.update(privileged)

    def state_dict(self) -> dict[str, Tensor]:
        """All tensors to go on bit for bit, cloned."""
        state = {name: tensor.detach().clone() for name, tensor in self._tensors().items()}
        state["rng"] = self.rng.get_state()
        for name, module in self._modules().items():
            state |= prefixed(name, {key: value.clone() for key, value in module.state_dict().items()})
        for name, optimizer in self.optimizers.items():
            state |= optimizer.tensors(f"optimizer.{name}")
        return state

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse. Raises ValueError when a name is unknown, a shape another, or a network or statistic missing; an
        optimizer without tensors made no step."""
        mine = self._tensors()
        single = {"rng", *mine}
        starts = (*(f"{name}." for name in self._modules()), *(f"optimizer.{name}." for name in self.optimizers))
        unknown = sorted(name for name in tensors if name not in single and not name.startswith(starts))
        missing = sorted(single - tensors.keys())
        if unknown or missing:
            raise ValueError(f"agent state: missing {missing or 'nothing'}, unknown {unknown or 'nothing'}")
        for name, tensor in mine.items():
            if tensors[name].shape != tensor.shape:
                raise ValueError(f"{name}: shape {list(tensors[name].shape)}, expected {list(tensor.shape)}")
        for name, module in self._modules().items():
            load_module(module, name, tensors)
        for name, optimizer in self.optimizers.items():
            optimizer.load(f"optimizer.{name}", tensors)
        with torch.no_grad():
            for name, tensor in mine.items():
                tensor.copy_(tensors[name])
        self.rng.set_state(tensors["rng"].cpu())

    def _modules(self) -> dict[str, nn.Module]:
        modules = self._networks() | {"normalizer": self.normalizer}
        if self.privileged_normalizer is not None:
            modules["privileged_normalizer"] = self.privileged_normalizer
        return modules

    def _seen(self, obs: Observation) -> Tensor:
        """What the actor sees of raw observations, normalized."""
        found: Tensor = self.normalizer(self._tensor(split_observation(obs)[0]))
        return found

    def _newest(self, stack: Rows) -> Rows:
        """The newest frame [B, n] of each stack [B, k n]."""
        return stack[:, -self.observation_size :]

    def _tensor(self, x: np.ndarray) -> Tensor:
        return tensor_of(x, self.device)

    def _noise(self, n: int) -> Tensor:
        return torch.randn(n, self.action_size, generator=self.rng, device=self.device)


def finite_action(action: Tensor) -> np.ndarray:
    """`action` [E, m] as an array. Raises NonFiniteError."""
    found: np.ndarray = action.cpu().numpy()
    if not np.isfinite(found).all():
        raise NonFiniteError("the policy's action is not finite")
    return found
