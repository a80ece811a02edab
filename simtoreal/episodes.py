"""One episode of one policy, driven as a robot would be: SI observation in, SI command out."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from simtoreal.build import policy_part, see_working_folder
from simtoreal.config import ConfigError
from simtoreal.contract import Contract
from simtoreal.export.onboard.folder import SPEC_FILE
from simtoreal.export.onboard.runtime import CommandError, Runtime
from simtoreal.export.onboard.spec import Spec
from simtoreal.randomization.schedules import Change, RecordedChanges, RunningSchedule, written

Frame = Callable[[], None]


class Policy(Protocol):
    """What can be judged."""

    def reset(self) -> None: ...

    def act(self, observation: NDArray[Any]) -> NDArray[Any]: ...


@dataclass(frozen=True)
class PolicySource:
    """A bundle folder or a `module:function` controller, not yet opened: small enough to send to a worker."""

    text: str
    name: str
    is_bundle: bool

    def open(self) -> Policy:
        """The policy, armed. Raises what `Runtime` raises, ConfigError for a function that is not there."""
        return Runtime(self.text) if self.is_bundle else Controller(self.text)

    def spec(self) -> Spec | None:
        """The bundle's contract; None for a controller, which says nothing of itself. Raises as `open` does."""
        policy = self.open()
        return policy.spec if isinstance(policy, Runtime) else None


class Controller:
    """A function from an SI observation [n], or an image, to an SI command [m], named `module:function`.

    Whatever goes wrong inside it is the user's to mend, so it is raised as ConfigError.
    """

    def __init__(self, text: str) -> None:
        module, _, name = text.partition(":")
        see_working_folder()
        try:
            self._function = getattr(importlib.import_module(module), name)
        except (Exception, SystemExit) as error:
            raise ConfigError(f"no controller {text}: {type(error).__name__}: {error}") from error
        if not callable(self._function):
            raise ConfigError(f"controller {text} is not a function")
        self._text = text

    def reset(self) -> None:
        """A function keeps no state that we know of."""

    def act(self, observation: NDArray[Any]) -> NDArray[Any]:
        try:
            return np.asarray(self._function(observation.copy()), float)
        except (Exception, SystemExit) as error:
            raise ConfigError(f"controller {self._text} failed: {type(error).__name__}: {error}") from error


def find_policies(texts: list[str]) -> list[PolicySource]:
    """What a user named: bundle folders and `module:function` controllers, each with a name of its own.

    Raises:
        ConfigError: neither, or one that is named twice.
    """
    sources: list[PolicySource] = []
    taken: set[str] = set()
    for text in texts:
        path = Path(text)
        is_bundle = (path / SPEC_FILE).is_file()
        if not is_bundle and (path.exists() or ":" not in text):
            what = f"has no {SPEC_FILE}" if path.is_dir() else "is not there"
            raise ConfigError(f"{text} {what}: expected a bundle folder or a module:function")
        same = [s.text for s in sources if (Path(s.text).resolve() == path.resolve() if is_bundle else s.text == text)]
        if same:
            raise ConfigError(f"{same[0]} and {text} are the same: a policy is not compared with itself")
        base = path.resolve().name if is_bundle else text
        name, count = base, 2
        while name in taken:
            name, count = f"{base}-{count}", count + 1
        taken.add(name)
        sources.append(PolicySource(text, name, is_bundle))
    return sources


@dataclass(frozen=True)
class Outcome:
    """How one episode went, in the terms of `Episode`; `parameters` are those that really applied."""

    return_: float
    success: bool | None
    length: int
    falls: int
    violations: int
    faults: int
    action_rate: float
    unmet: str
    parameters: dict[str, float]
    changes: str = ""  # of them within the episode, as `schedules.written` has them


class Tally:
    """What an episode comes to, control step by control step."""

    def __init__(self) -> None:
        self.total, self.length, self.falls, self.violations, self.faults = 0.0, 0, 0, 0, 0
        self.success: bool | None = None
        self.unmet = ""
        self._actions: list[NDArray[np.float32]] = []

    def add(self, action: NDArray[np.float32], reward: float, terminated: bool, info: Mapping[str, Any]) -> None:
        """One more step, with what the environment said of it."""
        self._actions.append(action)
        self.total += reward
        self.length += 1
        self.falls += terminated
        self.violations += bool(info.get("violation", False))
        self.faults += bool(info.get("physics_fault", False))
        success = info.get("is_success")
        self.success = None if success is None else bool(success)
        self.unmet = str(info.get("unmet", ""))

    def outcome(self, parameters: dict[str, float], changes: str = "") -> Outcome:
        """Up to now, under the `parameters` that applied, and their changes."""
        rate = _action_rate(self._actions)
        return Outcome(
            self.total,
            self.success,
            self.length,
            self.falls,
            self.violations,
            self.faults,
            rate,
            self.unmet,
            parameters,
            changes,
        )


def answer(policy: Policy, contract: Contract, obs: Any) -> NDArray[np.float32]:
    """The action in [-1, 1]^m of a policy's command in answer to what an environment shows; not finite where the policy
    says that its command would not be.

    Raises:
        ConfigError: a command of another size.
    """
    seen = policy_part(obs)
    try:
        command = np.asarray(policy.act(seen), float)
    except CommandError:
        command = np.full(contract.command.size, np.nan)
    if command.shape != (contract.command.size,):
        raise ConfigError(f"the policy gave a command of shape {command.shape}, expected ({contract.command.size},)")
    return contract.action(command, seen).astype(np.float32)


def run_episode(
    env: gym.Env[Any, Any],
    contract: Contract,
    policy: Policy,
    *,
    seed: int,
    parameters: Mapping[str, float],
    goal: Mapping[str, Sequence[float]] | None = None,
    each_step: Frame | None = None,
    schedule: RunningSchedule | RecordedChanges | None = None,
) -> Outcome:
    """Reset `env` with `seed`, `parameters` and, where it is given, `goal`, then let `policy` drive it to its end, the
    parameters changing as `schedule` has it.

    A command that is not finite ends the episode as a failure; physics that breaks is counted in `faults`. `each_step`
    is called after every control step.
    """
    options: dict[str, Any] = {"parameters": dict(parameters)} if contract.parameters else {}
    if goal:
        options["goal"] = dict(goal)
    obs, info = env.reset(seed=seed, options=options or None)
    applied = {name: float(value) for name, value in info.get("parameters", {}).items()}
    policy.reset()
    tally = Tally()
    terminated = truncated = False
    changes: dict[int, Change] = {}
    while not (terminated or truncated):
        action = answer(policy, contract, obs)
        if schedule is not None and (change := schedule.due(tally.length, contract.control_dt)):
            env.get_wrapper_attr("set_parameters")(change)
            changes[tally.length] = change
        obs, reward, terminated, truncated, info = env.step(action)
        tally.add(action, float(reward), terminated, info)
        if each_step is not None:
            each_step()
    return tally.outcome(applied, written(changes))


def _action_rate(actions: list[NDArray[np.float32]]) -> float:
    """Root mean square change a step over the second half; 0 where there is none or a command was not finite."""
    half = np.array(actions[len(actions) // 2 :], float)
    if len(half) < 2 or not np.isfinite(half).all():
        return 0.0
    return float(np.sqrt(np.square(np.diff(half, axis=0)).mean()))
