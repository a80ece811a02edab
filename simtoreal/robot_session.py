"""A learner on a robot: rollouts within a budget of robot seconds, learning between them, and the guards."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from simtoreal import build
from simtoreal.augmentation import augmentation, derived, mirroring
from simtoreal.config import ConfigError, RunConfig
from simtoreal.policies.deterministic import DeterministicActor
from simtoreal.policies.finetuning import NEW, OLD, FineTuner
from simtoreal.policies.history import Driver, next_stack
from simtoreal.policies.transitions import Augment, Transition, final_observation, finite_rows, transition
from simtoreal.robot_env import RobotEnv
from simtoreal.robots.task import Task
from simtoreal.training_envs import TrainingEnvs

JUDGED_SHARE = 0.2  # of the budget, for the base and again for the candidate
MIN_JUDGED, MAX_JUDGED = 6, 25  # rollouts
BAD_IN_A_ROW = 2
MAX_ROLLBACKS = 5
RELABELLED = 3  # further transitions of a robot's own, where its commands may be relabelled
MAX_ROBOT_SECONDS = 100_000.0
SIMULATED_STEPS = 10_000
SIMULATED_NOISE = 0.5  # at most: critics must know what other actions are worth
PRETRAINING = 3_000  # updates on simulated transitions
WARM_UP = 2_000  # updates with the robot's own, before the actor moves
UPDATES_PER_STEP, MOST_UPDATES = 2, 500  # after a rollout: for each of its steps, and at most
WINDOW = 5  # learning rollouts, whose success and return say how good the actor is
WIDER, NARROWER = 1.2, 0.5  # the actor's radius: after a rollout that was not bad, after a roll-back

Report = Callable[[float], None]


@dataclass(frozen=True)
class Caps:
    """What a session may cost the robot: falls, times it stopped itself, control steps in which a limit was broken."""

    falls: int = 20
    violations: int = 1_000
    stops: int = 20

    def __post_init__(self) -> None:
        for name, cap in vars(self).items():
            if cap < 1:
                raise ConfigError(f"caps must be at least 1, got {cap} {name}")


@dataclass(frozen=True)
class Rollout:
    """One episode on the robot."""

    phase: str
    return_: float
    success: bool
    length: int
    fell: bool
    stopped: bool
    violations: int
    limited: int
    unmet: str  # what kept it from being a success, where the task can tell


@dataclass
class Budget:
    """Robot seconds, and how many rollouts of base and candidate they are to judge.

    Raises:
        ConfigError: too few seconds to learn and to judge, or more than any session takes.
    """

    seconds: float
    episode: float  # [s] one takes at most
    judged: int = field(init=False)

    def __post_init__(self) -> None:
        if not self.seconds <= MAX_ROBOT_SECONDS:
            raise ConfigError(f"{self.seconds:g} robot seconds are more than {MAX_ROBOT_SECONDS:,.0f}")
        least = (2 * MIN_JUDGED + WINDOW) * self.episode
        if self.seconds < least:
            raise ConfigError(
                f"{self.seconds:g} robot seconds are too few: to judge base and candidate over {MIN_JUDGED} rollouts "
                f"each and to learn from {WINDOW}, of {self.episode:g} s, takes {least:g} s"
            )
        self.judged = min(max(int(JUDGED_SHARE * self.seconds / self.episode), MIN_JUDGED), MAX_JUDGED)

    def allows(self, used: float, rollouts: int) -> bool:
        """Is there time for so many more?"""
        return used + rollouts * self.episode <= self.seconds + 1e-6


class CapReached(Exception):
    """The robot has fallen, stopped itself or broken a limit as often as it may, or its time is spent."""


class Session:
    """One fine-tuning: `run` leaves the candidate in the tuner, the rollouts in `rollouts` and a line a rollout in
    `metrics`."""

    def __init__(self, env: RobotEnv, tuner: FineTuner, augment: Augment | None, budget: Budget, caps: Caps) -> None:
        self._env, self._tuner, self._budget, self._caps = env, tuner, budget, caps
        self._augment = relabelling(env.task) if env.task.mirrors else augment  # are a real robot's sides alike?
        self.rollouts: list[Rollout] = []
        self.metrics: list[dict[str, Any]] = []
        self.rollbacks = 0

    @property
    def falls(self) -> int:
        return sum(rollout.fell for rollout in self.rollouts)

    @property
    def stops(self) -> int:
        return sum(rollout.stopped for rollout in self.rollouts)

    @property
    def violations(self) -> int:
        return sum(rollout.violations for rollout in self.rollouts)

    def outcomes(self, phase: str) -> list[bool]:
        """Success of each rollout of a phase: "base", "learn" or "candidate"."""
        return [rollout.success for rollout in self.rollouts if rollout.phase == phase]

    def mean_return(self, phase: str) -> float | None:
        """Mean return of a phase; None where there was no rollout."""
        returns = [rollout.return_ for rollout in self.rollouts if rollout.phase == phase]
        return float(np.mean(returns)) if returns else None

    def run(self, report: Report | None = None) -> None:
        """Judge the base, warm the critics up, learn, judge the candidate. Raises CapReached."""
        self._report = report
        tuner, budget = self._tuner, self._budget
        for _ in range(budget.judged):
            self._rollout("base", tuner.base, 0.0, {})
        figures = tuner.update(WARM_UP, move_actor=False)
        worst = min(rollout.return_ for rollout in self.rollouts)
        worst -= tuner.config.slack * abs(worst)
        good, bad, rest = tuner.snapshot(), 0, 0
        best, candidate = (0.0, -math.inf), good
        while budget.allows(self._env.seconds, 1 + budget.judged) and self.rollbacks < MAX_ROLLBACKS:
            before = tuner.snapshot()
            rollout = self._rollout("learn", tuner.actor, tuner.config.noise, figures)
            rest = max(0, rest - 1)
            bad = bad + 1 if rollout.stopped or rollout.return_ < worst else 0
            if not bad:
                good = before
                tuner.widen(WIDER)
                if (level := self._level()) > best:
                    best, candidate = level, before
            elif bad == BAD_IN_A_ROW:
                tuner.restore(good)
                tuner.widen(NARROWER)
                self.rollbacks += 1
                bad, rest = 0, 1
            lesson = min(round(UPDATES_PER_STEP * rollout.length), MOST_UPDATES)
            figures = tuner.update(lesson, move_actor=not rest)
            figures |= {"bad": float(bad), "rollbacks": float(self.rollbacks)}
        tuner.restore(candidate)
        for _ in range(budget.judged):
            self._rollout("candidate", tuner.average, 0.0, figures)

    def _level(self) -> tuple[float, float]:
        """Success rate and mean return of the last learning rollouts; the worst while there are too few."""
        last = [rollout for rollout in self.rollouts if rollout.phase == "learn"][-WINDOW:]
        if len(last) < WINDOW:
            return 0.0, -math.inf
        return sum(r.success for r in last) / WINDOW, sum(r.return_ for r in last) / WINDOW

    def _rollout(self, phase: str, actor: DeterministicActor, noise: float, figures: Mapping[str, float]) -> Rollout:
        env, tuner, budget = self._env, self._tuner, self._budget
        if not budget.allows(env.seconds, 1):
            used = f"{env.seconds:.0f} of {budget.seconds:.0f} robot seconds are used"
            raise CapReached(f"{used}, and a rollout takes {budget.episode:.1f}")
        driver, began = Driver(actor), env.seconds
        obs, _ = env.reset()
        rows: list[Transition] = []
        signals: list[Any] = []
        total, violations, limited = 0.0, 0, 0
        terminated = truncated = False
        info: dict[str, Any] = {}
        while not (terminated or truncated):
            obs, reward, terminated, truncated, info = env.step(tuner.act(driver, obs, noise))
            total += reward
            violations += info["violation"]
            limited += info["limited"]
            if not info["stopped"]:
                seen, reached = driver.stack, next_stack(driver.stack, obs)
                row = (seen[None], info["action"][None], np.array([reward]), reached[None], np.array([terminated]))
                rows.append(transition(*row))
                signals.append(info["reward_signals"])
        if rows:
            self._store({name: np.concatenate([row[name] for row in rows]) for name in rows[0]}, signals)
        rollout = Rollout(
            phase,
            total,
            info["is_success"],
            len(rows),
            info["fell"],
            info["stopped"],
            violations,
            limited,
            info.get("unmet", ""),
        )
        budget.episode = max(budget.episode, env.seconds - began)  # a reset may take longer than the robot said
        self._note(rollout, figures)
        return rollout

    def _store(self, rows: Transition, signals: list[Any]) -> None:
        for part in [rows] if self._augment is None else [rows, self._augment(rows, {"reward_signals": signals})]:
            self._tuner.add(part, robot=NEW)

    def _note(self, rollout: Rollout, figures: Mapping[str, float]) -> None:
        self.rollouts.append(rollout)
        facts = {("return" if name == "return_" else name): value for name, value in vars(rollout).items()}
        head = {"step": len(self.rollouts), "robot_seconds": round(self._env.seconds, 6)}
        self.metrics.append(head | facts | {f"train/{name}": value for name, value in figures.items()})
        if self._report is not None:
            self._report(self._env.seconds)
        for what, found, cap in (
            ("falls", self.falls, self._caps.falls),
            ("stops", self.stops, self._caps.stops),
            ("limit violations", self.violations, self._caps.violations),
        ):
            if found >= cap:
                raise CapReached(f"{found} {what} in {self._env.seconds:.0f} robot seconds, of at most {cap}")


def relabelling(task: type[Task]) -> Augment | None:
    """The same motions under other commands, `RELABELLED` for each; None where the task has none to give."""
    return None if task.relabel is None else derived(task.relabel, RELABELLED, np.random.default_rng(0))


def _augmentation(envs: TrainingEnvs, config: RunConfig, seed: int) -> Augment | None:
    """How a run's task derives further transitions, as the run did; None where it did not."""
    if config.mirror:
        image = mirroring(envs, config)
        return lambda rows, infos: image(rows)
    return augmentation(envs, config, np.random.default_rng(seed)) if config.augment else None


def simulate(config: RunConfig, tuner: FineTuner, seed: int) -> Augment | None:
    """Fill the tuner's old transitions with the base's, noisy, under the run's training conditions as they were in the
    end, and let the critics learn from them; returns how the task derives further transitions, as the run did."""
    whole = {"randomization_ramp": (0, 0), "episode_steps": None}
    plain = config.model_copy(update={"privileged": False, "envs": 1, "workers": 0, "seed": seed} | whole)
    envs = TrainingEnvs(plain)
    try:
        augment = _augmentation(envs, plain, seed)
        rng = np.random.default_rng(seed)
        driver = Driver(tuner.base)
        obs, _ = envs.reset(seed=seed)
        noise = 0.0
        for _ in range(SIMULATED_STEPS):
            action = tuner.act(driver, obs[0], noise)[None]
            next_obs, reward, terminated, truncated, infos = envs.step(action)
            ended = terminated | truncated
            seen = driver.stack[None]
            reached = next_stack(seen, build.policy_part(final_observation(next_obs, ended, infos)))
            rows = transition(seen, action, reward, reached, terminated)
            if infos["valid"].all() and finite_rows(rows).all():
                for part in [rows] if augment is None else [rows, augment(rows, infos)]:
                    tuner.add(part, robot=OLD)
            if ended.any():
                driver.reset()
                noise = float(rng.uniform(0.0, SIMULATED_NOISE))
            obs = next_obs
    finally:
        envs.close()
    tuner.update(PRETRAINING, move_actor=False)
    return augment
