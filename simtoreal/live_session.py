"""An episode played in real time that can be meddled with: state, pacing and a queue of wishes; no browser in it."""

from __future__ import annotations

import math
import queue
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym

from simtoreal.config import ConfigError
from simtoreal.contract import Contract
from simtoreal.episodes import Outcome, Policy, Tally, answer
from simtoreal.randomization.randomizer import Randomizer
from simtoreal.robots.terrain import Terrain
from simtoreal.robots.world import Pose

SHOWN_EVERY = 1.0 / 30.0  # [s] of wall clock
IDLE = 0.1  # [s] for which a paused session waits for a wish before it looks up
LINGER = 1.0  # [s] for which a fallen robot is left lying
MOST_LAG = 0.2  # [s] that are made up for; what is more is lost, and the clock slower than it should be
MEASURED = 1.0  # [s] over which the speed is measured
SPEEDS = (0.05, 4.0)  # simulated seconds a second


@dataclass(frozen=True)
class Snapshot:
    """What there is to see of a session.

    Attributes:
        time: since the episode began [s]; `limit` is when its judgement ends [s].
        total: the return, and `success`, `unmet`, `violations` [control steps] of the episode up to its limit.
        met: does the goal's condition hold at this instant?
        terms: of the newest reward.
        falls, faults: since the session began.
        real_time: simulated seconds that really passed a second; None until it is known.
        note: the newest thing that went wrong or happened.
        parameters, goal: what really applies.
        poses: of every link; `marker` is a sphere at the goal: middle and radius [m].
        down: the direction of gravity, which a slope tilts, in the ground's axes.
        terrain: the ground's heights, unless it is flat.
    """

    time: float
    limit: float
    episode: int
    seed: int
    total: float
    success: bool | None
    unmet: str
    violations: int
    met: bool
    terms: Mapping[str, float]
    falls: int
    faults: int
    paused: bool
    speed: float
    real_time: float | None
    note: str
    parameters: Mapping[str, float]
    goal: Mapping[str, Sequence[float]]
    poses: Mapping[str, Pose]
    marker: tuple[Sequence[float], float] | None
    down: tuple[float, float, float]
    terrain: Terrain | None


class Pace:
    """When the next control step is due, by a monotonic clock, and how fast time really went.

    Args:
        control_dt: [s].
        clock: seconds from any beginning that never go back.
    """

    def __init__(self, control_dt: float, speed: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._dt, self._clock = control_dt, clock
        self.speed = speed
        self.restart()

    def restart(self) -> None:
        """Forget what went before: time stood still."""
        self._due = self._clock()
        self._steps: deque[float] = deque()

    def wait(self) -> float:
        """Seconds until a step is due; 0 when it is."""
        return max(0.0, self._due - self._clock())

    def delay(self, seconds: float) -> None:
        """Put the next step off."""
        self.restart()
        self._due += seconds

    def stepped(self) -> None:
        """A step was made."""
        now = self._clock()
        self._due = max(self._due + self._dt / self.speed, now - MOST_LAG)
        self._steps.append(now)
        while self._steps[0] < now - max(MEASURED, 2.0 * self._dt / self.speed):
            self._steps.popleft()

    @property
    def real_time(self) -> float | None:
        """Simulated seconds a second, of late."""
        if len(self._steps) < 2 or self._steps[-1] <= self._steps[0]:
            return None
        return (len(self._steps) - 1) * self._dt / (self._steps[-1] - self._steps[0])


class Session:
    """One task of ours and one policy, played until somebody interrupts it or `episodes` are over.

    `run` owns the environment. What other threads want they `ask` for: wishes wait in a queue until the loop grants
    them between two control steps, so none of the other methods is for another thread. An episode that fails is
    followed by one of the next seed with the same parameters and the same chosen goals; so is one that reaches its time
    limit where `time_limit` is set, else it is played on beyond the limit, at which its judgement ends.

    Args:
        parameters: to begin with, by name; the rest is nominal.
        goal: to begin with, by name; the rest is drawn by each reset.
        randomizer: what `draw` draws robots from.
        episodes: None for no end.
        speed: simulated seconds a second.

    Raises:
        ConfigError: a speed out of `SPEEDS`. ValueError: as a reset of the environment does.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        contract: Contract,
        policy: Policy,
        *,
        seed: int = 0,
        parameters: Mapping[str, float] | None = None,
        goal: Mapping[str, Sequence[float]] | None = None,
        randomizer: Randomizer | None = None,
        episodes: int | None = None,
        speed: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.task: Any = env.unwrapped
        self.contract = contract
        self.can_draw = randomizer is not None
        self.time_limit = episodes is not None
        self.paused = False
        self.outcomes: list[Outcome] = []
        self._env, self._policy, self._randomizer, self._episodes = env, policy, randomizer, episodes
        self._wanted, self._goal = dict(parameters or {}), dict(goal or {})
        self._first_seed, self._seed, self._draws = seed, seed, 1
        self._falls = self._faults = self._episode = 0
        self._note = ""
        self._wishes: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._clock = clock
        self._pace = Pace(contract.control_dt, 1.0, clock)
        self.set_speed(speed)
        self._begin(seed)

    def _begin(self, seed: int) -> None:
        options = {"parameters": self._wanted, "goal": self._goal}
        self._obs, info = self._env.reset(seed=seed, options=options)
        self._parameters = {name: float(value) for name, value in info["parameters"].items()}
        self._policy.reset()
        self._tally = Tally()
        self._info: Mapping[str, Any] = {}
        self._seed, self._steps = seed, 0
        self._episode += 1
        self._judged = self._ended = False

    def ask(self, wish: Callable[[], None]) -> None:
        """Have `wish` called between two control steps, by the loop; from any thread. What ValueError says is noted."""
        self._wishes.put(wish)

    def run(self, show: Callable[[Snapshot], None]) -> None:
        """Play in real time until the last episode is over; `show` is called some 30 times a second.

        Raises:
            ConfigError: the policy failed.
        """
        self._pace.restart()
        shown = -math.inf
        while not self.is_over:
            self._grant(IDLE if self.paused else self._pace.wait())
            if not self.paused and self._pace.wait() == 0.0:
                self.advance()
                self._pace.stepped()
            if self._clock() - shown >= SHOWN_EVERY:
                shown = self._clock()
                show(self.snapshot())

    @property
    def is_over(self) -> bool:
        return self._episodes is not None and len(self.outcomes) >= self._episodes

    def _grant(self, patience: float) -> None:
        """Every wish that is there, waiting at most `patience` [s] for the first."""
        while True:
            try:
                wish = self._wishes.get(block=patience > 0.0, timeout=patience)
            except queue.Empty:
                return
            patience, self._note = 0.0, ""
            try:
                wish()
            except ValueError as error:
                self._note = str(error)

    def advance(self) -> None:
        """One control step, or, where the episode has ended, the beginning of the next."""
        if self._ended:
            self._begin(self._seed + 1)
            return
        action = answer(self._policy, self.contract, self._obs)
        self._obs, reward, terminated, truncated, info = self._env.step(action)
        self._steps += 1
        if not self._judged:
            self._tally.add(action, float(reward), terminated, info)
            self._judged = truncated
        self._info = info
        if info.get("physics_fault"):
            self._faults += 1
            self._end(f"physics broke after {self._time:.2f} s and was built anew")
        elif terminated:
            self._falls += 1
            what = "the command was not finite" if info.get("invalid_action") else "failed"
            self._end(f"{what} after {self._time:.2f} s", linger=True)
        elif truncated and self.time_limit:
            self._end("")

    @property
    def _time(self) -> float:
        return self._steps * self.contract.control_dt

    def _end(self, note: str, *, linger: bool = False) -> None:
        self._ended = True
        self._note = note or self._note
        self.outcomes.append(self._tally.outcome(dict(self._parameters)))
        if linger:
            self._pace.delay(LINGER)

    def reset(self) -> None:
        """The same episode from its beginning."""
        self._begin(self._seed)

    def next_episode(self) -> None:
        """An episode of the next seed."""
        self._begin(self._seed + 1)

    def pause(self, on: bool) -> None:
        """Stop the clock, or let it go on."""
        self.paused = on
        self._pace.restart()

    def step(self) -> None:
        """One control step of a session, which is paused by it."""
        self.pause(True)
        self.advance()

    def set_time_limit(self, on: bool) -> None:
        """Whether an episode ends at its time limit."""
        self.time_limit = on

    def set_speed(self, speed: float) -> None:
        """Simulated seconds a second. Raises ConfigError out of `SPEEDS`."""
        low, high = SPEEDS
        if not low <= speed <= high:
            raise ConfigError(f"speed must be from {low} to {high}, got {speed}")
        self._pace.speed = speed
        self._pace.restart()

    def set_parameters(self, values: Mapping[str, float]) -> None:
        """Now and from now on. Raises ValueError as the task does; nothing is changed then."""
        self._parameters = self.task.set_parameters(values)
        self._wanted |= values

    def set_nominal(self) -> None:
        """Every parameter to its nominal value."""
        self.set_parameters(self.task.parameters.nominal)
        self._wanted = {}

    def draw(self) -> None:
        """Another robot: every parameter as the preset draws it. Raises ValueError where there is no preset."""
        if self._randomizer is None:
            raise ValueError("there is no preset for this task to draw from")
        values = self._randomizer.draw(self._first_seed, 0, self._draws)
        self.set_parameters({**self.task.parameters.nominal, **values})
        self._draws += 1

    def set_goal(self, goal: Mapping[str, Sequence[float]]) -> None:
        """Now and at every later reset. Raises ValueError as the task does; nothing is changed then."""
        self.task.set_goal(goal)
        self._goal |= goal

    def draw_goal(self) -> None:
        """A new episode, whose goals, as those of the later ones, its seed draws."""
        self._goal = {}
        self.next_episode()

    def push(self, speed: float, heading: float) -> None:
        """Change the base's velocity at once by `speed` [m/s] towards `heading` [deg], counted from the ground's x."""
        angle = math.radians(heading)
        self.task.push((speed * math.cos(angle), speed * math.sin(angle), 0.0))

    def snapshot(self) -> Snapshot:
        """How it stands."""
        signals = self._info.get("reward_signals")
        return Snapshot(
            time=self._time,
            limit=self.task.horizon * self.contract.control_dt,
            episode=self._episode,
            seed=self._seed,
            total=self._tally.total,
            success=self._tally.success,
            unmet=self._tally.unmet,
            violations=self._tally.violations,
            met=signals is not None and bool(self.task.succeeds(signals)),
            terms=self._info.get("reward_terms", {}),
            falls=self._falls,
            faults=self._faults,
            paused=self.paused,
            speed=self._pace.speed,
            real_time=self._pace.real_time,
            note=self._note,
            parameters=self._parameters,
            goal=self.task.goal,
            poses=self.task.world.link_poses(),
            marker=self.task.marker,
            down=self.task.world.down,
            terrain=self.task.world.terrain,
        )
