"""A student that acts as a teacher does who knows the robot: rapid motor adaptation's second phase.

The teacher's actor sees the observation and the parameters of the robot (`OffPolicyConfig.teacher_inputs`). What the
latter add to the units of its first layer, z = W e, is predicted by an encoder of the last k observations, while the
student acts; everything else of the teacher stays (Kumar et al. 2021, arXiv 2107.04034, section III-B). Besides the
error of z that of the action counts, which tells what of z matters (Ross et al. 2011, DAgger: the states are those that
the student comes to, the actions the teacher's).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from simtoreal.policies.agent import NonFiniteError
from simtoreal.policies.deterministic import DeterministicActor
from simtoreal.policies.networks import HIDDEN, MAX_BATCH, MAX_HISTORY, AdaptedLayers, is_hidden
from simtoreal.policies.settings import RATE, check_finite, check_ranges, is_rate


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """Settings of a distillation; a value out of range raises ValueError.

    `history` is how many of the last observations the encoder sees, `encoder` the widths of its hidden layers,
    `updates_per_step` gradient steps for each step of all environments together, `latent_weight` that of z's mean
    squared error beside the action's.
    """

    history: int = 16
    encoder: tuple[int, ...] = (256, 128)
    learning_rate: float = 1e-3
    batch_size: int = 256
    updates_per_step: float = 1.0
    latent_weight: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "encoder", tuple(self.encoder))
        check_finite(self)
        check_ranges(
            self,
            {
                "history": (2 <= self.history <= MAX_HISTORY, f"from 2 to {MAX_HISTORY}"),
                "encoder": (is_hidden(self.encoder), HIDDEN),
                "learning_rate": (is_rate(self.learning_rate), RATE),
                "batch_size": (1 <= self.batch_size <= MAX_BATCH, f"from 1 to {MAX_BATCH}"),
                "updates_per_step": (self.updates_per_step > 0, "above 0"),
                "latent_weight": (self.latent_weight >= 0, "at least 0"),
            },
        )


class Distiller:
    """Teaches a student what `teacher` does, from the states that the student comes to.

    Args:
        teacher: an actor of observations [n] with a robot's parameters [p] behind them.
        observation_size: n.
        capacity: states that are learned from.

    Raises:
        ValueError: the teacher has no parameters to see, or is no plain network.
    """

    def __init__(
        self, teacher: DeterministicActor, observation_size: int, capacity: int, config: DistillConfig, seed: int
    ) -> None:
        n, p = observation_size, teacher.observation_size - observation_size
        if p < 1 or teacher.history != 1 or teacher.recurrent or teacher.image or teacher.encoder:
            raise ValueError("a teacher is an actor of one observation and the parameters behind it")
        self.config, self.teacher, self._n = config, teacher.requires_grad_(False).eval(), n
        self.rng = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.student, self._layers = self._make_student()
        learned = [*self._layers.encoder.parameters(), *self._layers.latent.parameters()]
        for parameter in learned:
            parameter.requires_grad_(True)
        self._optimizer = torch.optim.Adam(learned, config.learning_rate)
        self._stacks = torch.zeros(capacity, config.history * n)
        self._known = torch.zeros(capacity, p)
        self._filled = 0

    def act(self, stacks: np.ndarray) -> np.ndarray:
        """The student's actions [E, m] in [-1, 1] for raw stacks [E, k n]."""
        with torch.inference_mode():
            found: np.ndarray = self.student(torch.as_tensor(stacks, dtype=torch.float32)).numpy()
        return found

    def add(self, stacks: np.ndarray, parameters: np.ndarray) -> None:
        """Raw stacks [E, k n] and the robots' parameters [E, p] there. Raises ValueError beyond the capacity."""
        end = self._filled + len(stacks)
        if end > len(self._stacks):
            raise ValueError(f"there is room for {len(self._stacks)} states, not for {end}")
        self._stacks[self._filled : end] = torch.as_tensor(stacks)
        self._known[self._filled : end] = torch.as_tensor(parameters)
        self._filled = end

    def update(self) -> dict[str, float]:
        """One gradient step of the encoder; the errors before it. Raises NonFiniteError."""
        rows = torch.randint(self._filled, (self.config.batch_size,), generator=self.rng)
        stacks, known = self._stacks[rows], self._known[rows]
        action, z = self._taught(stacks, known)
        normal = self.student.normalizer(stacks)
        guess = self._layers.guess(normal)
        found = self.student.head(self._layers.after(normal, guess)).tanh()
        of_latent, of_action = (guess - z).square().mean(), (found - action).square().mean()
        loss = of_action + self.config.latent_weight * of_latent
        if not torch.isfinite(loss):
            raise NonFiniteError(f"distillation loss is {loss.item()}")
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        return {"action_error": of_action.item(), "latent_error": of_latent.item()}

    def actor(self) -> DeterministicActor:
        """The student, which sees stacks of raw observations alone; not a copy."""
        return self.student.eval()

    @torch.no_grad()
    def _taught(self, stacks: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """What the teacher does [B, m], and z [B, h]."""
        seen = torch.cat([stacks[:, -self._n :], known], dim=-1)
        normal = self.teacher.normalizer(seen)
        return self.teacher(seen), normal[:, self._n :] @ self._first().weight[:, self._n :].t()

    def _first(self) -> nn.Linear:
        body = self.teacher.body
        assert isinstance(body, nn.Sequential)
        first = body[0]
        assert isinstance(first, nn.Linear)
        return first

    @torch.no_grad()
    def _make_student(self) -> tuple[DeterministicActor, AdaptedLayers]:
        """With the teacher's weights, and an encoder that says z = 0 to begin with: the robot is as the mean one. With
        its layers."""
        t, n = self.teacher, self._n
        student = DeterministicActor(
            n,
            t.action_size,
            t.hidden,
            t.activation,
            t.output,
            self.config.history,
            t.choices,
            encoder=self.config.encoder,
        )
        for name in ("shift", "scale"):
            getattr(student.normalizer, name).copy_(getattr(t.normalizer, name)[:n])
        layers = student.body
        assert isinstance(layers, AdaptedLayers)
        first = self._first()
        layers.first.weight.copy_(first.weight[:, :n])
        layers.first.bias.copy_(first.bias)
        layers.latent.weight.zero_()
        layers.latent.bias.zero_()
        assert isinstance(t.body, nn.Sequential)
        after = [layer for layer in t.body if isinstance(layer, nn.Linear)][1:]
        mine = [layer for layer in layers.rest if isinstance(layer, nn.Linear)]
        for own, theirs in zip(mine, after, strict=True):
            own.load_state_dict(theirs.state_dict())
        student.head.load_state_dict(t.head.state_dict())
        return student.requires_grad_(False), layers
