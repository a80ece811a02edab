"""A robot at the end of a link, as a gymnasium environment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from simtoreal import build
from simtoreal.config import ConfigError
from simtoreal.contract import contract_digest
from simtoreal.robot import READY
from simtoreal.robot_files import same_task
from simtoreal.robot_link import RobotLink, RobotLinkError

LEAVE_WITHIN = 5.0  # [s]


class RobotEnv(gym.Env[Any, Any]):
    """One robot, scored by its task's pure functions from the reward signals it reports; nothing is simulated here.

    Observations, actions, horizon, reward, success and termination are those of the task. A command passes the
    robot's limits before it is sent (`info["limited"]`), and one that is not finite is never sent: the robot holds and
    the episode ends as a failure (`invalid_action`). A robot that stopped itself ends the episode by truncation
    (`stopped`): what its state was worth is not known.

    `info` holds `is_success`, `fell`, `violation`, `reward_terms`, `reward_signals`, `action` (the one that was really
    applied) and at an episode's end `unmet`, as the simulation's. `seconds` is the robot time [s] used so far, reset
    routines included.

    Args:
        link: the robot; the environment closes it.
        task: what it must have; of a robot file, where that lies here. None: whatever it has.

    Raises:
        ConfigError: the robot has no task of ours, another one, or another contract than this version's.
    """

    def __init__(self, link: RobotLink, task: str | None = None) -> None:
        self._link = link
        self.hello = link.hello()
        if task is not None and not same_task(self.hello.task, task):
            raise ConfigError(f"the robot has task {self.hello.task}, not {task}")
        self.task = build.task_class(task or self.hello.task)
        if self.hello.contract != contract_digest(self.task) or self.hello.control_dt != self.task.control_dt:
            raise ConfigError(f"{link.name} has another contract of {self.hello.task} than this version")
        self._layout = self.task.command_layout
        self._check_size("command limits", len(self.hello.limits.low), self._layout.size)
        self._scorer = self.task.scorer()
        self.observation_space = self.task.observation_layout.space()
        self.action_space = self._layout.space()
        self.control_dt = self.task.control_dt
        self.seconds = 0.0
        self._running, self._holds = False, True

    @property
    def episode_seconds(self) -> float:
        """The most robot time [s] an episode takes, reset routine included."""
        return self.hello.reset_seconds + self.task.horizon * self.control_dt

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Let the robot run its reset routine. `seed` seeds the action space alone: a robot cannot be seeded."""
        super().reset(seed=seed)
        if options:
            raise ValueError(f"a robot has no reset option {', '.join(map(repr, options))}")
        self._running = self._holds = False  # until it has answered
        start = self._link.reset()
        self.seconds += start.seconds
        self._check_size("commands in force", len(start.command), self._layout.size)
        self._command = start.command
        self._observation = self._checked(start.observation)
        self._scorer.start()
        self._steps, self._running = 0, True
        return self._observation.copy(), {"seconds": start.seconds}

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        if not self._running:
            raise ValueError("the episode is over: reset the robot first")
        action = self._layout.numbers(action)
        if not np.isfinite(action).all():
            return self._refuse()
        layout, task = self._layout, self.task
        wanted = layout.command(action, self._observation, task.observation_layout).tolist()
        command = self.hello.limits.clip(wanted, self._command, self.control_dt)
        limited = command != wanted
        if limited:
            action = layout.action(np.array(command), self._observation, task.observation_layout)
        self._running = False  # until it has answered: one that is late or gone gets no further command
        tick = self._link.step(command)
        self._running = True
        self._steps += 1
        self.seconds += self.control_dt
        self._command, self._observation = command, self._checked(tick.observation)
        for field in task.reward_layout.fields:
            self._check_size(f"numbers of {field.name}", len(tick.signals.get(field.name, ())), field.size)
        terms = task.reward_terms(tick.signals, action.tolist())
        terminated = tick.fell or task.fails(tick.signals)
        if terminated:
            terms["failure"] = task.failure_reward
        success = self._scorer.see(tick.signals) and not terminated and not tick.stopped
        truncated = self._steps >= task.horizon or tick.stopped
        if terminated or truncated:
            self._hold()
        info = {
            "is_success": success,
            "fell": terminated,
            "violation": tick.violation,
            "stopped": tick.stopped,
            "limited": limited,
            "reward_terms": terms,
            "reward_signals": tick.signals,
            "action": action,
        }
        if terminated or truncated:
            info["unmet"] = "; ".join([*self._scorer.unmet, *(["failed"] if terminated else [])])
        return self._observation.copy(), sum(terms.values()), terminated, truncated, info

    def close(self) -> None:
        """Let the robot hold still, if it still listens, and hang up."""
        if not self._holds:
            with suppress(RobotLinkError):  # it is gone, and its own monitor's
                self._link.hold()
        self._link.close()

    def _refuse(self) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        self._hold()
        info = {"is_success": False, "fell": False, "violation": True, "stopped": True, "invalid_action": True}
        return self._observation.copy(), self.task.refusal_reward(self._steps), True, False, info

    def _hold(self) -> None:
        self._running = False
        self._link.hold()
        self._holds = True

    def _checked(self, observation: list[float]) -> NDArray[np.float32]:
        self._check_size("observations", len(observation), self.task.observation_layout.size)
        return np.array(observation, np.float32)

    def _check_size(self, what: str, found: int, expected: int) -> None:
        if found != expected:
            raise RobotLinkError(f"{self._link.name} answered {found} {what}, the contract has {expected}")


@contextmanager
def open_robot(target: str | os.PathLike[str], seed: int, task: str | None = None) -> Iterator[RobotEnv]:
    """The robot at a link, or the one a target file describes, in a process that ends with the block; `task` as
    `RobotEnv` has it.

    Raises:
        ConfigError: no robot there, a bad target file, another task or contract.
    """
    text = os.fspath(target)
    if text.startswith(("tcp:", "unix:")):
        env = RobotEnv(RobotLink(text), task)
        try:
            yield env
        finally:
            env.close()
        return
    with ExitStack() as held:
        with tempfile.TemporaryDirectory(prefix="simtoreal-robot-") as folder:  # until they are connected
            address = f"unix:{Path(folder) / 'link'}"
            held.enter_context(_process(text, address, seed))
            env = held.enter_context(open_robot(address, seed, task))
        yield env


@contextmanager
def _process(target: str, address: str, seed: int) -> Iterator[None]:
    words = ["-m", "simtoreal.robot", target, "--listen", address, "--seed", str(seed), "--once"]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Ctrl-C is the learner's to answer
    try:
        process = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        assert process.stdout is not None
        if not process.stdout.readline().startswith(READY):
            _, complaint = process.communicate(timeout=LEAVE_WITHIN)
            reason = (complaint.strip().splitlines() or ["no word"])[-1].removeprefix("simtoreal.robot: ")
            if process.returncode == 2:
                raise ConfigError(reason)
            raise RobotLinkError(f"the robot of {target} did not start: {reason}")
        yield
    finally:
        try:
            process.communicate(timeout=LEAVE_WITHIN)  # it leaves when the learner hangs up
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
