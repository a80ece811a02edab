"""Tabular Q-learning (Watkins and Dayan 1992) with epsilon-greedy exploration.

    Q(s, a) += alpha (r + gamma (1 - terminated) max_a' Q(s', a') - Q(s, a))

for one transition after the other, in the order in which they were made. A truncated step bootstraps.

Deviation: alpha is the same for every state and falls linearly, if it falls, where the proof of convergence has one
that falls with the visits of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from simtoreal.policies.agent import NonFiniteError
from simtoreal.policies.deterministic import DeterministicActor
from simtoreal.policies.distributions import chosen_action, chosen_number
from simtoreal.policies.observations import Observation, split_observation
from simtoreal.policies.replay import Batch
from simtoreal.policies.settings import RATE, check_finite, check_ranges, is_rate
from simtoreal.policies.tables import States, StateTable, check_table, equal_edges
from simtoreal.policies.transitions import LARGEST, is_finite

MAX_BINS = 65_536  # of one number


@dataclass(frozen=True, kw_only=True)
class QLearningConfig:
    """Settings of Q-learning; a value out of range raises ValueError.

    In the first `epsilon_steps` environment steps of exploring epsilon falls linearly from `epsilon_start` to
    `epsilon_end`, and alpha from `learning_rate` to `learning_rate_end` (None: it stays). Each number of an observation
    is cut into `bins` equal ones from `low` to `high`, in its own unit, the outer ones open; without `bins` an
    observation is one-hot. The table begins with `initial_q` everywhere.
    """

    gamma: float = 0.99
    learning_rate: float = 0.1
    learning_rate_end: float | None = None
    epsilon_start: float = 1.0
    epsilon_end: float = 0.05
    epsilon_steps: int = 100_000
    bins: tuple[int, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    initial_q: float = 0.0

    def __post_init__(self) -> None:
        for name in ("bins", "low", "high"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check_finite(self)
        check_ranges(self, self.checks())

    def checks(self) -> dict[str, tuple[bool, str]]:
        """For each setting: does it hold, and what is expected of it."""
        n, last = len(self.bins), self.learning_rate_end
        ends = [len(side) == n and bool(is_finite(np.array(side, float)).all()) for side in (self.low, self.high)]
        each = f"{n} finite numbers, one for each of bins"
        return {
            "gamma": (0 <= self.gamma <= 1, "from 0 to 1"),
            "learning_rate": (is_rate(self.learning_rate), RATE),
            "learning_rate_end": (last is None or is_rate(last), RATE),
            "epsilon_start": (0 <= self.epsilon_start <= 1, "from 0 to 1"),
            "epsilon_end": (0 <= self.epsilon_end <= 1, "from 0 to 1"),
            "epsilon_steps": (self.epsilon_steps >= 1, "at least 1"),
            "initial_q": (abs(self.initial_q) <= LARGEST, "what float32 can hold"),
            "bins": (all(1 <= size <= MAX_BINS for size in self.bins), f"whole numbers from 1 to {MAX_BINS}"),
            "low": (ends[0], each),
            "high": (all(ends) and all(a < b for a, b in zip(self.low, self.high, strict=True)), f"{each}, above low"),
        }


class QLearning:
    """Q-learning over raw observations, of K choices that are actions from -1 for the first to 1 for the last.

    `table` [S, K] float64 stays on the CPU, as the whole learner does. All chance follows from `seed`.
    """

    device = torch.device("cpu")

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        config: QLearningConfig | None = None,
        *,
        choices: int,
        one_hots: Sequence[int] = (),
        seed: int = 0,
    ) -> None:
        """Without bins an observation is `one_hots` of so many places in a row; none given, it is one. Raises
        ValueError for actions that are no choices, for bins and one-hots that are not those of the observation, and for
        a table too large to hold."""
        self.config = config = config or QLearningConfig()
        if choices < 2 or action_size != 1:
            raise ValueError("a table is of one of several choices, these actions are continuous")
        if config.bins and one_hots:
            raise ValueError("bins are for observations of numbers, these are one-hot; leave out bins, low and high")
        if config.bins and len(config.bins) != observation_size:
            found = f"the {observation_size} numbers of an observation, got {len(config.bins)}"
            raise ValueError(f"bins must be one for each of {found}")
        bins = config.bins or tuple(one_hots) or (observation_size,)
        check_table(bins, choices)
        self.observation_size, self.choices, self.acts = observation_size, choices, 0
        self.rng = torch.Generator().manual_seed(seed)
        self.states = States(observation_size, bins)
        if config.bins:
            self.states.edges.copy_(equal_edges(config.bins, config.low, config.high))
        self.table = np.full((self.states.count, choices), config.initial_q)

    @property
    def epsilon(self) -> float:
        """The chance that the next act is drawn at random."""
        return self._falling(self.config.epsilon_start, self.config.epsilon_end)

    @property
    def alpha(self) -> float:
        """The learning rate now."""
        last = self.config.learning_rate_end
        return self._falling(self.config.learning_rate, self.config.learning_rate if last is None else last)

    def _falling(self, start: float, end: float) -> float:
        return start + (end - start) * min(self.acts / self.config.epsilon_steps, 1.0)

    def act(self, obs: Observation, explore: bool) -> np.ndarray:
        """Actions [E, 1] float32: the best choices, of equal ones the first; to explore any of these, or, by the chance
        epsilon, of all."""
        values = self.table[self._numbers(torch.from_numpy(split_observation(obs)[0]))]
        if explore:
            draws = torch.rand(len(values), 1 + self.choices, generator=self.rng, dtype=torch.float64).numpy()
            eligible = (draws[:, :1] < self.epsilon) | (values == values.max(axis=1, keepdims=True))
            values = np.where(eligible, draws[:, 1:], -1.0)
            self.acts += len(values)
        action: np.ndarray = chosen_action(torch.from_numpy(values.argmax(axis=1, keepdims=True)), self.choices).numpy()
        return action

    def observe(self, obs: Observation) -> None:
        """Nothing: what a table sees is not normalized."""

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Learn from one transition after the other; metrics, the error a mean of absolute ones. Raises NonFiniteError,
        with the table as it was, for a target that float32 cannot hold."""
        obs, next_obs = (self._numbers(rows) for rows in (batch.obs, batch.next_obs))
        chosen = chosen_number(batch.action[:, 0], self.choices).numpy()
        discount = (self.config.gamma * (1.0 - batch.terminated.double())).numpy()
        table, alpha, before = self.table, self.alpha, self.table[obs, chosen]
        errors = []
        for s, a, reward, g, following in zip(obs, chosen, batch.reward.tolist(), discount, next_obs, strict=True):
            target = reward + g * table[following].max()
            errors.append(target - table[s, a])
            if not is_finite(target):
                table[obs[::-1], chosen[::-1]] = before[::-1]
                raise NonFiniteError(f"the target of a state's value is {target}")
            table[s, a] += alpha * errors[-1]
        found = {"td_error": np.abs(errors).mean(), "exploration_rate": self.epsilon, "learning_rate": alpha}
        return {name: torch.tensor(float(value)) for name, value in found.items()}

    def _numbers(self, obs: Tensor) -> np.ndarray:
        """The states [B] of raw observations [B, n]."""
        found: np.ndarray = self.states(obs.float()).numpy()
        return found

    def state_dict(self) -> dict[str, Tensor]:
        """The table, how often it acted to explore, and the random state, cloned."""
        return {
            "table": torch.from_numpy(self.table.copy()),
            "acts": torch.tensor(self.acts),
            "rng": self.rng.get_state(),
        }

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse. Raises ValueError when a name is missing or unknown, or the table is of another shape."""
        names = {"table", "acts", "rng"}
        if tensors.keys() != names:
            raise ValueError(f"agent state: has {sorted(tensors)}, expected {sorted(names)}")
        if tuple(tensors["table"].shape) != self.table.shape:
            raise ValueError(f"table: shape {list(tensors['table'].shape)}, expected {list(self.table.shape)}")
        self.table[:] = tensors["table"].numpy()
        self.acts = int(tensors["acts"])
        self.rng.set_state(tensors["rng"])

    def actor(self) -> DeterministicActor:
        """Raw observation [B, n] -> the best choice's action [B, 1], from a copy of the table in float32."""
        actor = DeterministicActor(
            self.observation_size, 1, (), output="choice", choices=self.choices, bins=self.states.bins
        )
        assert isinstance(actor.body, StateTable)
        actor.body.states.load_state_dict(self.states.state_dict())
        actor.body.table.copy_(torch.from_numpy(self.table))
        return actor.eval().requires_grad_(False)
