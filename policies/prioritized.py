"""Prioritized experience replay (Schaul et al. 2016, arXiv 1511.05952), the proportional variant.

    P(i) = p_i / sum_k p_k,   p_i = (|error_i| + EPSILON)^alpha
    w_i  = (N P(i))^-beta / max_j w_j           of a batch

A transition's first priority is the highest so far. A batch has one transition of each of as many equal parts of the
sum (their appendix B.2.1). The sum tree branches by 16, where theirs is binary; a node is added up anew whenever
something below it changes, so that rounding does not gather.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from simtoreal.policies.replay import Array, Batch, Replay

try:
    from simtoreal.policies import sum_tree
except ImportError:  # installed where there was no C compiler
    COMPILED = False
else:
    COMPILED = True

EPSILON = 1e-6
BRANCHES = 16  # more take longer to add up, fewer make more levels


class SumTree:
    """Numbers at least 0 of `capacity` slots, their sum, and which slot a share of the sum lies in."""

    def __init__(self, capacity: int, device: torch.device, compiled: bool = COMPILED) -> None:
        """`compiled` has a CPU take the compiled loops, which give the same numbers."""
        self._levels: list[Tensor] = []  # from the slots' to the one whose sum is that of all, each [nodes, BRANCHES]
        self.highest = torch.ones((), dtype=torch.float64, device=device)  # priority so far
        size = capacity
        while not self._levels or size > 1:
            size = -(-size // BRANCHES)
            self._levels.append(torch.zeros(size, BRANCHES, dtype=torch.float64, device=device))
        self._arrays: sum_tree.Levels | None = None
        if compiled and device.type == "cpu":
            self._arrays = tuple(level.numpy() for level in self._levels)

    @property
    def values(self) -> Tensor:
        """Of all slots, and of some more that are 0."""
        return self._levels[0].view(-1)

    def set(self, slots: Tensor, values: Tensor) -> None:
        """`values` [n] of `slots` [n], the same ones where a slot is there twice."""
        if self._arrays is not None:
            sum_tree.set(self._arrays, slots.numpy(), values.contiguous().numpy())
            return
        for level in self._levels:
            level.view(-1).index_copy_(0, slots, values)
            slots = slots // BRANCHES
            values = level.index_select(0, slots).cumsum(1)[:, -1]

    def draw(self, u: Tensor, held: Tensor, slots: Tensor, likelihood: Tensor) -> None:
        """Of `held` slots that are filled: into `slots` [B] one of each of B equal parts of the sum, where `u` [B] in
        [0, 1) has it, never one of 0; into `likelihood` [B] how many times likelier it was than by pure chance."""
        if self._arrays is not None:
            sum_tree.draw(self._arrays, u.numpy(), held.item(), slots.numpy(), likelihood.numpy())
            return
        total = self._levels[-1].cumsum(1)[0, -1]
        part = torch.arange(len(u), dtype=u.dtype, device=u.device)
        within, zero = ((part + u) * (total / len(u)))[:, None], u.new_zeros(())
        node = torch.zeros_like(slots)
        for level in reversed(self._levels):
            until = level.index_select(0, node).cumsum(1)
            within = torch.minimum(within, torch.nextafter(until[:, -1:], zero))
            branch = torch.searchsorted(until, within, right=True).clamp_(max=BRANCHES - 1)
            within = within - torch.where(branch > 0, until.gather(1, (branch - 1).clamp_(min=0)), zero)
            node = node * BRANCHES + branch[:, 0]
        slots.copy_(node)
        likelihood.copy_(self.values.index_select(0, node) * (held / total))

    def judge(self, slots: Tensor, errors: Tensor, exponent: float) -> None:
        """Priorities of `slots` [B] by float32 `errors` [B]; the highest so far where one is not finite, of which the
        learner tells."""
        if self._arrays is not None:
            at, told = slots.numpy(), errors.numpy()
            self.highest.fill_(sum_tree.judge(self._arrays, at, told, EPSILON, exponent, self.highest.item()))
            return
        priorities = (errors.abs().double() + EPSILON) ** exponent
        known = priorities.isfinite()
        torch.maximum(self.highest, torch.where(known, priorities, 0.0).max(), out=self.highest)
        self.set(slots, torch.where(known, priorities, self.highest))

    def kept(self) -> Callable[[], None]:
        """What puts it back to what it is now."""
        mine = [*self._levels, self.highest]
        now = [tensor.clone() for tensor in mine]

        def put_back() -> None:
            for tensor, before in zip(mine, now, strict=True):
                tensor.copy_(before)

        return put_back


@dataclass(frozen=True)
class Room:
    """Where a batch is put, which slots it is from [B], and how likely it was [B]."""

    rows: Any
    slots: Tensor
    likelihood: Tensor


class PrioritizedReplay:
    """A replay whose transitions are drawn by their priorities, which `judge` sets after each batch."""

    def __init__(self, replay: Replay, exponent: float) -> None:
        """`exponent` is alpha: 0 draws by pure chance."""
        self.replay, self._exponent, self.device = replay, exponent, replay.device
        self._tree = SumTree(replay.capacity, self.device)
        self._last: Tensor | None = None  # slots of the last batch
        self._stored: Tensor | None = None  # priorities of what `restore` brings

    def __len__(self) -> int:
        return len(self.replay)

    @property
    def stays(self) -> bool:
        """As the replay's."""
        return self.replay.stays

    @property
    def added(self) -> int:
        """As the replay's."""
        return self.replay.added

    @property
    def oldest(self) -> int:
        """As the replay's."""
        return self.replay.oldest

    def add(self, **rows: Array) -> None:
        """As `Replay.add`."""
        first = self.replay.added
        self.replay.add(**rows)
        slots = torch.arange(first, self.replay.added, device=self.device) % self.replay.capacity
        self._tree.set(slots, self._tree.highest.expand(len(slots)))

    def sample(self, n: int, generator: torch.Generator) -> Batch:
        """`n` transitions; `generator` is on the CPU on every device. Raises ValueError when empty."""
        if not len(self):
            raise ValueError("an empty replay cannot be sampled")
        u = torch.rand(n, generator=generator, dtype=torch.float64).to(self.device)
        self._last, likelihood = self._places(n)
        self._tree.draw(u, self.replay.held, self._last, likelihood)
        return replace(self.replay.at(self._last), likelihood=likelihood)

    def judge(self, errors: Tensor) -> None:
        """The errors [B] of the transitions that were drawn last."""
        if self._last is None:
            raise ValueError("nothing was drawn yet, so there is nothing to judge")
        self._tree.judge(self._last, errors, self._exponent)

    def kept(self) -> Callable[[], None]:
        """What puts the priorities back to what they are now."""
        return self._tree.kept()

    def room(self, n: int) -> Room:
        """As `Replay.room`."""
        return Room(self.replay.room(n), *self._places(n))

    def draw(self, room: Room, generator: torch.Generator) -> None:
        """As `Replay.draw`, with the slots and how likely they were."""
        u = torch.rand(len(room.slots), generator=generator, dtype=torch.float64, device=self.device)
        self._tree.draw(u, self.replay.held, room.slots, room.likelihood)
        self.replay.take(room.slots, room.rows)
        self._last = room.slots

    def batch(self, room: Room) -> Batch:
        """What was drawn."""
        return replace(self.replay.batch(room.rows), likelihood=room.likelihood)

    def rows(self, first: int, last: int) -> dict[str, Tensor]:
        """As `Replay.rows`; priorities change, so they are in `state_dict`."""
        return self.replay.rows(first, last)

    def restore(self, first: int, parts: Iterable[Mapping[str, Tensor]]) -> None:
        """As `Replay.restore`, after `load_state_dict`. Raises ValueError without that, or where it is of another
        number of transitions."""
        self.replay.restore(first, parts)
        stored = self._stored
        if stored is None or len(stored) != self.replay.size:
            raise ValueError(f"priorities of {0 if stored is None else len(stored)} transitions, not {len(self)}")
        capacity = self.replay.capacity
        self._tree.set(torch.arange(capacity, device=self.device), F.pad(stored, (0, capacity - len(stored))))
        self._stored = None

    def state_dict(self) -> dict[str, Tensor]:
        """The priorities by slot, and the highest so far."""
        return {"priorities": self._tree.values[: self.replay.size].clone(), "highest": self._tree.highest.clone()}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse, of which the priorities wait for `restore`. Raises ValueError where one is missing."""
        if missing := {"priorities", "highest"} - tensors.keys():
            raise ValueError(f"prioritized replay: missing {sorted(missing)}")
        self._stored = tensors["priorities"].to(self.device)
        self._tree.highest.copy_(tensors["highest"])

    def _places(self, n: int) -> tuple[Tensor, Tensor]:
        """Of slots and of how likely they were."""
        return torch.zeros(n, dtype=torch.int64, device=self.device), torch.ones(n, device=self.device)


AnyReplay = Replay | PrioritizedReplay
"""What the loops fill and learners draw from."""
