"""A rollout in minibatches: what PPO's gradient steps go through, one by one, captured for a GPU or compiled."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from simtoreal.policies.graphs import Skip, captured
from simtoreal.policies.recurrent import Steps
from simtoreal.policies.rollout import Rollout


@dataclass
class Parts:
    """Of a minibatch: min(ratio A, clip(ratio) A), log ratio and error of the value, [B]; the mean entropy. Of several
    together: one after the other, and the mean entropy of each."""

    gain: Tensor
    log_ratio: Tensor
    value_error: Tensor
    entropy: Tensor


@dataclass
class Minibatch:
    """Rows of a rollout; `x` and `state` are what actor and value see, normalized: of a recurrent agent as `Steps`, of
    whose valid ones the others are."""

    x: Any
    state: Any
    action: Tensor
    log_prob: Tensor
    value: Tensor
    advantage: Tensor
    returns: Tensor


class Columns:
    """A rollout as one table, so that an epoch's order is taken once and not of each of its columns. Images stay beside
    it, uint8, and are taken a minibatch at a time."""

    def __init__(
        self, x: Tensor, state: Tensor | None, rollout: Rollout, recurrent: int = 0, sequence_length: int = 1
    ) -> None:
        """`state` None: the value sees what the actor sees."""
        numbers = torch.stack([rollout.log_prob, rollout.value, rollout.advantage, rollout.returns], dim=1)
        self._images = x if x.dtype is torch.uint8 else None
        seen = [x] if self._images is None else []
        parts = [*seen, *([] if state is None else [state]), rollout.action, numbers]
        if (sequences := rollout.sequences) is not None:
            parts += [sequences.begins[:, None], sequences.valid[:, None], sequences.hidden_state]
        self._recurrent, self._length = recurrent, sequence_length
        self._alike, self._widths = state is None, [part.shape[1] for part in parts]
        self._table = torch.cat(parts, dim=1)
        self._order = torch.arange(len(x), device=x.device)

    def __len__(self) -> int:
        return len(self._table)

    @property
    def device(self) -> torch.device:
        return self._table.device

    def shuffled(self, order: Tensor) -> Columns:
        """The same rows in another order."""
        found = copy.copy(self)
        found._table, found._order = self._table.index_select(0, order), order
        return found

    def split(self, size: int) -> Iterator[Minibatch]:
        """Minibatches of `size` rows, the last perhaps of fewer."""
        for i, rows in enumerate(self._table.split(size)):
            batch = self._minibatch(rows, self._order[i * size : (i + 1) * size])
            if len(batch.returns):
                yield batch

    def at(self, rows: Tensor) -> Minibatch:
        """The rows of these numbers."""
        return self._minibatch(self._table.index_select(0, rows), rows)

    def copy_(self, other: Columns) -> None:
        """Hold what `other` of no more rows holds, in the first of this one's."""
        self._table[: len(other)].copy_(other._table)
        if self._images is not None and other._images is not None:
            self._images[: len(other)].copy_(other._images)

    def room(self, n: int) -> Columns:
        """Memory of its own for `n` such rows."""
        found = copy.copy(self)
        found._table = self._table.new_zeros(n, self._table.shape[1])
        found._images = None if self._images is None else self._images.new_zeros(n, *self._images.shape[1:])
        return found

    def _minibatch(self, rows: Tensor, places: Tensor) -> Minibatch:
        columns = list(rows.split(self._widths, dim=1))
        if self._images is not None:
            columns.insert(0, self._images.index_select(0, places))
        x, *rest = columns
        state, action, numbers, *of_sequences = [x, *rest] if self._alike else rest
        batch = Minibatch(x, state, action, *numbers.unbind(1))
        return self._in_steps(batch, *of_sequences) if self._recurrent else batch

    def _in_steps(self, batch: Minibatch, begins: Tensor, valid: Tensor, hidden_state: Tensor) -> Minibatch:
        """Rows of whole sequences, one step of all of them after the other, as `Steps` and what is learned at the valid
        ones."""
        width, length, learned = self._recurrent, self._length, valid[:, 0] > 0
        first = hidden_state[: len(hidden_state) // length]

        def steps(rows: Tensor, h: Tensor) -> Steps:
            return Steps(rows.unflatten(0, (length, -1)), h, begins.view(length, -1) > 0, learned)

        rest = (batch.action, batch.log_prob, batch.value, batch.advantage, batch.returns)
        x, state = steps(batch.x, first[:, :width]), steps(batch.state, first[:, -width:])
        return Minibatch(x, state, *(rows[learned] for rows in rest))


class Learner(Protocol):
    """Who learns from minibatches, without waiting for the device."""

    def gradients(self, batch: Minibatch) -> tuple[Parts, list[Tensor]]:
        """What the loss is made of, and its gradients."""
        ...

    def step_captured(self, parts: Parts, gradients: list[Tensor], skip: Skip, stop: Tensor) -> Tensor:
        """A step along the gradients; 1 if there was none, else 0."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Everything a step changes."""
        ...

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse."""
        ...


class CapturedEpochs:
    """The gradient steps of all epochs on a rollout, each captured for a GPU, on a CPU compiled.

    The rollout lies in one place, and where the next minibatch is in an epoch's order is a number on the device. There
    is room for a whole rollout of `n` rows such as `data`; smaller ones, of which not all is learned from, use a part
    of it.
    """

    def __init__(self, learner: Learner, data: Columns, n: int, size: int, epochs: int) -> None:
        self._learner, self._data, self._size = learner, data.room(n), size
        device = data.device
        self._order = torch.arange(n, device=device)
        self._skip = Skip(("the gradient's norm",), device)
        # where in the order it is, how many rows and minibatches were learned from, and whether that is to end
        self._at, self._rows, self._batches = (torch.zeros((), dtype=torch.int64, device=device) for _ in range(3))
        self._stop = torch.zeros((), device=device)
        gain, log_ratio, error = (torch.zeros(epochs * n, device=device) for _ in range(3))
        self._seen = Parts(gain, log_ratio, error, torch.zeros(epochs * -(-n // size), device=device))
        self._work: dict[int, Callable[[], None]] = {}  # rows of a minibatch -> a step on the next one

    def fits(self, data: Columns) -> bool:
        """Is there room for it?"""
        return len(data) <= len(self._data)

    def learn(self, data: Columns, orders: Iterable[Tensor]) -> list[Parts]:
        """An epoch in each of the orders [N]; the parts of all minibatches that were learned from, together. Raises
        NonFiniteError."""
        self._data.copy_(data)
        for counter in (self._rows, self._batches, self._stop):
            counter.zero_()
        for order in orders:
            self._order[: len(order)].copy_(order)
            self._at.zero_()
            for start in range(0, len(data), self._size):
                self._step(min(self._size, len(data) - start))
        self._skip.check()
        rows, batches = int(self._rows), int(self._batches)
        found = self._seen
        each = (found.gain[:rows], found.log_ratio[:rows], found.value_error[:rows], found.entropy[:batches])
        return [Parts(*each)] if rows else []

    def _step(self, size: int) -> None:
        if size not in self._work:
            usual = size in (self._size, len(self._order) % self._size)  # others come by chance, each once or twice
            self._work[size] = captured(lambda: self._next(size), self._data.device, (), self._kept, compiled=usual)
        self._work[size]()

    def _next(self, size: int) -> None:
        """A step on the next minibatch."""
        some = torch.arange(size, device=self._data.device)
        batch = self._data.at(self._order.index_select(0, self._at + some))
        parts, gradients = self._learner.gradients(batch)
        no_step = self._learner.step_captured(parts, gradients, self._skip, self._stop)
        where, mine = self._rows + some, self._seen
        for seen, part in (
            (mine.gain, parts.gain), (mine.log_ratio, parts.log_ratio), (mine.value_error, parts.value_error),
        ):  # fmt: skip
            seen.index_copy_(0, where, part)
        mine.entropy.index_copy_(0, self._batches[None], parts.entropy[None])
        learned = 1 - no_step.long()
        self._at += size
        self._rows += size * learned
        self._batches += learned

    def _kept(self) -> Callable[[], None]:
        """What puts the learner and the counters back to what they are now."""
        state, counters = self._learner.state_dict(), [self._at, self._rows, self._batches, self._stop]
        before = [counter.clone() for counter in counters]

        def put_back() -> None:
            self._learner.load_state_dict(state)
            for counter, value in zip(counters, before, strict=True):
                counter.copy_(value)

        return put_back


def approximate_kl(log_ratio: Tensor) -> Tensor:
    """mean (ratio - 1 - log ratio): an estimate of KL(old || new) (Schulman 2020, joschu.net/blog/kl-approx.html)."""
    return ((log_ratio.exp() - 1.0) - log_ratio).mean()
