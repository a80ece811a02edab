"""Gradient steps of an off-policy learner on batches of its replay: one by one, captured for a GPU, or compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from simtoreal.policies.actor_critic import OffPolicyAgent
from simtoreal.policies.agent import Agent
from simtoreal.policies.dqn import DQN
from simtoreal.policies.graphs import Skip, captured
from simtoreal.policies.off_policy import Turn
from simtoreal.policies.prioritized import AnyReplay, PrioritizedReplay


class Updates(Protocol):
    """Gradient steps, and what they measured."""

    def step(self, rng: torch.Generator) -> None:
        """One gradient step; `rng` is the loop's stream. Raises NonFiniteError, or leaves that to `means`."""
        ...

    def means(self) -> dict[str, float]:
        """The mean of every metric since the last call; nothing where there was no step. Raises NonFiniteError."""
        ...


class EachUpdate:
    """`agent.update` on batches that the loop's stream draws."""

    def __init__(self, agent: Agent, replay: AnyReplay, batch_size: int) -> None:
        self._agent, self._replay, self._batch_size = agent, replay, batch_size
        self._metrics: list[Mapping[str, Tensor]] = []

    def step(self, rng: torch.Generator) -> None:
        self._metrics.append(self._agent.update(self._replay.sample(self._batch_size, rng)))
        _judge(self._replay, self._agent)

    def means(self) -> dict[str, float]:
        found, self._metrics = _means(self._metrics), []
        return found


class Arrivals(EachUpdate):
    """`agent.update` once for what an environment step added to a `Latest` replay, however many steps it earned."""

    def step(self, rng: torch.Generator) -> None:
        if len(self._replay):
            super().step(rng)


class CapturedUpdates:
    """`agent.update` as `graphs` has it done: the agent's own stream draws the batches, on its device, and only `means`
    waits. A loss that is not finite is told of there; no step was made from it on, so the weights are still good. On a
    CPU it is `compiled`, or simply done."""

    def __init__(
        self, agent: OffPolicyAgent[Any, Any] | DQN, replay: AnyReplay, batch_size: int, compiled: bool = False
    ) -> None:
        self._agent, self._replay, self._compiled = agent, replay, compiled
        self._room: Any = replay.room(batch_size)
        self._skip = Skip(tuple(f"{name} loss" for name in agent.optimizers), agent.device)
        self._work: dict[bool, Callable[[], None]] = {}  # whether the actor learns -> a gradient step
        self._names: list[str] = []
        self._sums, self._count = torch.zeros(0, device=agent.device), 0

    def step(self, rng: torch.Generator) -> None:
        actor_learns = self._agent.actor_learns
        if actor_learns not in self._work:
            turn = Turn(actor_learns, self._skip)
            if not self._names:
                self._begin(turn)
            self._work[actor_learns] = self._captured(turn)
        self._work[actor_learns]()
        self._agent.count()
        self._count += 1

    def _begin(self, turn: Turn) -> None:
        """The sums, which are there before a capture, of what a step measures; that one does not count."""
        put_back = self._learned()
        self._step(lambda: self._update(turn))
        put_back()
        self._sums.zero_()

    def _captured(self, turn: Turn) -> Callable[[], None]:
        """A gradient step. On a GPU its batch is drawn within it, if the replay stays where it is; on a CPU before, so
        that what is compiled does not depend on how large a replay is."""
        agent = self._agent
        whole = agent.device.type == "cuda" and self._replay.stays

        def update() -> None:
            self._update(turn)

        work = (lambda: self._step(update)) if whole else update
        made = captured(work, agent.device, (agent.rng,), self._kept, self._compiled)
        return made if whole else lambda: self._step(made)

    def _step(self, update: Callable[[], None]) -> None:
        self._replay.draw(self._room, self._agent.rng)
        update()
        _judge(self._replay, self._agent)

    def means(self) -> dict[str, float]:
        if not self._count:
            return {}
        self._skip.check()
        found = dict(zip(self._names, (self._sums / self._count).tolist(), strict=True))
        self._sums.zero_()
        self._count = 0
        return found

    def _update(self, turn: Turn) -> None:
        metrics = self._agent.update(self._replay.batch(self._room), turn)
        values = torch.stack(list(metrics.values()))
        if not self._names:
            self._names, self._sums = list(metrics), torch.zeros_like(values)
        self._sums += values

    def _kept(self) -> Callable[[], None]:
        """What puts the agent, the sums and the priorities back to what they are now."""
        sums, put_learned_back = self._sums.clone(), self._learned()

        def put_back() -> None:
            put_learned_back()
            self._sums.copy_(sums)

        return put_back

    def _learned(self) -> Callable[[], None]:
        """What puts the agent and, where there are some, the priorities back to what they are now."""
        state = self._agent.state_dict()
        priorities = self._replay.kept() if isinstance(self._replay, PrioritizedReplay) else None

        def put_back() -> None:
            self._agent.load_state_dict(state)
            if priorities is not None:
                priorities()

        return put_back


def _judge(replay: AnyReplay, agent: Agent) -> None:
    """Let a prioritized replay know the errors of what its agent has just learned from."""
    if isinstance(replay, PrioritizedReplay):
        assert isinstance(agent, DQN)
        replay.judge(agent.errors)


def _means(each: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    names = each[0] if each else ()
    return {name: float(torch.stack([metrics[name] for metrics in each]).mean()) for name in names}
