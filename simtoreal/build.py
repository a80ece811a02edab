"""From names and configurations to environments, contracts and agents: where the islands meet."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec, load_env_creator
from numpy.typing import NDArray

from simtoreal.config import MOST_CHOICES, ConfigError, RunConfig
from simtoreal.foreign import (
    MOST_STATES,
    MOST_STEPS,
    ChangesEnv,
    ChoiceEnv,
    ForeignEnv,
    LevelsEnv,
    image_shape,
    one_hot_sizes,
)
from simtoreal.games import as_played, game_options, know_games
from simtoreal.policies.images import Shape
from simtoreal.randomization.curriculum import MovingRanges
from simtoreal.randomization.messages import nearest
from simtoreal.randomization.randomizer import Entry, Preset, Randomizer
from simtoreal.randomization.shipped import find_preset, preset_paths
from simtoreal.randomization.signals import SignalsEnv, offered_parameters
from simtoreal.randomization.wrapper import RandomizedEnv
from simtoreal.randomization.yaml_files import read_yaml
from simtoreal.robot_files import name_task, split_task, task_of_file
from simtoreal.robots.engines import DEFAULT_ENGINE, ENGINES
from simtoreal.robots.parameters import Parameter

if TYPE_CHECKING:
    from simtoreal.robots.task import Task

NAMESPACE = "simtoreal/"
EVALUATION_SEED = 1 << 20  # added to a run's seed: the episodes it is judged on while it trains are none it trains on


def task_ids() -> dict[str, str]:
    """Our tasks: short name -> gymnasium id."""
    ids = sorted(name for name in gym.registry if name.startswith(NAMESPACE))
    return {name.removeprefix(NAMESPACE).rsplit("-v", 1)[0]: name for name in ids}


def task_id(task: str) -> str:
    """The gymnasium id a user means: ours by short name, or any registered one (`CartPole-v1`, `module:Id-v0`).

    A robot file's is called `FILE:Family`, see `robot_files`.

    Raises:
        ConfigError: no such task, or the emulator of a game is not installed.
    """
    try:
        task = name_task(task, None)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if split_task(task):
        return task
    ours = task_ids()
    if task in ours:
        return ours[task]
    know_games(task)
    try:
        return gym.spec(task).id if ":" not in task else task
    except gym.error.Error:
        others = (name for name in gym.registry if not name.startswith(NAMESPACE))
        said = nearest(task, ours, unlisted=others)
        raise ConfigError(
            f"no task {task!r}; {said} (or any gymnasium id; module:Id-v0 of what a module registers)"
        ) from None


def short_name(task: str) -> str:
    """The short name of a task of ours, any other's own."""
    return {full: short for short, full in task_ids().items()}.get(task, task)


def display_name(task: str) -> str:
    """What a reader calls a task: its short name, a robot file's without the folders."""
    return short_name(task).rpartition("/")[2]


def family(task: str) -> str:
    """The name of a task's preset, suites and recipe."""
    return short_name(task).rpartition(":")[2]


def is_ours(task: str) -> bool:
    """Is it one of our tasks, or one that a robot file makes?"""
    return task.startswith(NAMESPACE) or split_task(task) is not None


def make_env(
    task: str,
    *,
    privileged: bool | Literal["state"] = False,
    render_mode: str | None = None,
    engine: str = DEFAULT_ENGINE,
    learning: bool = False,
) -> gym.Env[Any, Any]:
    """The environment of a task (`task_id`), ours in a physics engine of `ENGINES`; one that is not ours is made to act
    and fail like ours (`ForeignEnv`), gets sensor and actuator parameters (`SignalsEnv`), and ends after 10,000 steps
    if it has no time limit of its own. Choices are made in [-1, 1] (`ChoiceEnv`), states seen one-hot. Games are played
    as `games` has them, `learning` or scored.

    Raises:
        ConfigError: it cannot be made, there is no such engine, or its spaces are none that a policy here can act in.
        ModuleNotFoundError: a task of ours needs what is not installed.
    """
    task = task_id(task)
    made_by_file = split_task(task)
    if ":" in task and not made_by_file:
        see_working_folder()
    if engine not in ENGINES:
        raise ConfigError(f"no engine {engine!r}; engines: {', '.join(ENGINES)}")
    know_games(task)
    options: dict[str, Any] = game_options(task) | ({"privileged": privileged} if privileged else {})
    if engine != DEFAULT_ENGINE:
        if not is_ours(task):
            raise ConfigError(
                f"task {task} brings its own physics; another engine is for ours: {', '.join(task_ids())}"
            )
        options["engine"] = engine
    if render_mode is not None:
        options["render_mode"] = render_mode
    made: str | EnvSpec = task
    if made_by_file:
        found = task_of_file(*made_by_file)
        made = EnvSpec(id=f"{NAMESPACE}{found.__name__}-v0", entry_point=partial(found))
    try:
        env = as_played(task, gym.make(made, disable_env_checker=True, **options), learning)
    except (gym.error.Error, TypeError, ValueError, ImportError, AttributeError, SyntaxError) as error:
        if isinstance(error, ModuleNotFoundError) and is_ours(task):
            raise  # a dependency of ours, not a mistake of the user's
        if privileged and isinstance(error, TypeError) and "'privileged'" in str(error):
            raise ConfigError(f"privileged: {task} shows nothing but its observation; set it to false") from error
        raise ConfigError(f"task {task} cannot be made: {str(error).splitlines()[0]}") from error
    action = env.action_space
    bounded = isinstance(action, spaces.Box) and np.isfinite(np.concatenate([action.low, action.high])).all()
    if not bounded and not (isinstance(action, spaces.Discrete) and action.n > 1):
        raise ConfigError(f"task {task} needs a bounded Box of actions or a Discrete of two or more, got {action}")
    seen = policy_space(env)
    try:
        image = image_shape(seen)
    except ValueError as error:
        raise ConfigError(f"task {task}: {error}") from None
    made_elsewhere = not env.has_wrapper_attr("command_layout")
    states = sum(one_hot_sizes(env.observation_space)) if made_elsewhere else 0
    if states > MOST_STATES:
        raise ConfigError(f"task {task}: at most {MOST_STATES} states can be seen one-hot, got {states}")
    if not (isinstance(seen, spaces.Box) or states) or (image and seen is not env.observation_space and not privileged):
        raise ConfigError(f"task {task} needs a Box of observations or Discrete ones, got {env.observation_space}")
    if isinstance(env.observation_space, spaces.Dict) or not made_elsewhere:
        return ChoiceEnv(env) if isinstance(action, spaces.Discrete) else env
    if env.spec is None or env.spec.max_episode_steps is None:
        env = gym.wrappers.TimeLimit(env, MOST_STEPS)
    foreign = ForeignEnv(env)
    return SignalsEnv(foreign, still=foreign.still, noisy_actions=bounded, noisy_observations=not states)


def choices_of(env: gym.Env[Any, Any]) -> int:
    """Of how many choices an action of `make_env`'s is one; 0 where actions are continuous."""
    return int(env.get_wrapper_attr("choices")) if env.has_wrapper_attr("choices") else 0


def levels_of(env: gym.Env[Any, Any]) -> tuple[int, ...]:
    """Of how many even steps each number of an action is, where a choice is one of their combinations; else empty."""
    return tuple(env.get_wrapper_attr("command_levels")) if env.has_wrapper_attr("command_levels") else ()


def one_hots_of(env: gym.Env[Any, Any]) -> tuple[int, ...]:
    """Of how many places each one-hot is, of which an observation of `make_env`'s consists; empty where it is other."""
    return tuple(env.get_wrapper_attr("one_hots")) if env.has_wrapper_attr("one_hots") else ()


def image_of(env: gym.Env[Any, Any]) -> Shape | None:
    """The shape of the images that an environment of `make_env`'s shows; None where it shows a vector."""
    return image_shape(policy_space(env))


def episode_steps(env: gym.Env[Any, Any]) -> int:
    """The most control steps an episode of `make_env`'s takes."""
    limit = None if env.spec is None else env.spec.max_episode_steps
    return int(getattr(env.unwrapped, "horizon", limit or MOST_STEPS))


def see_working_folder() -> None:
    """Let `module:Id-v0` and `module:function` be found in the working folder, after everything installed."""
    here = str(Path.cwd())
    if "" not in sys.path and here not in sys.path:
        sys.path.append(here)


def policy_space(env: gym.Env[Any, Any]) -> spaces.Space[Any]:
    """The part of the observation space that a policy sees."""
    space = env.observation_space
    return space["policy"] if isinstance(space, spaces.Dict) and "policy" in space.spaces else space


def parameters_of(env: gym.Env[Any, Any]) -> Mapping[str, Parameter]:
    """The named physical parameters of an environment, none if it offers none."""
    found: Mapping[str, Any] = offered_parameters(env)
    return found


def find_randomization(name: str | None, task: str) -> str:
    """What `--randomization` means, as it is written into a run: a shipped preset's name, a file's path, or "none".

    None is the task's own preset where there is one. Raises FileNotFoundError naming the choices.
    """
    if name is None:
        return family(task) if family(task) in preset_paths() else "none"
    if name == "none" or find_preset(name) in preset_paths().values():
        return name
    return str(Path(name).absolute())


def make_randomizer(randomization: str, env: gym.Env[Any, Any], task: str) -> Randomizer | None:
    """The draws of a preset on this environment's parameters; None for "none".

    Raises:
        ConfigFileError, ConfigError: the preset is for another task, names what the environment has not, or allows what
            the engine cannot integrate.
    """
    if randomization == "none":
        return None
    table = parameters_of(env)
    if not table:
        raise ConfigError(
            f"task {task} has no named parameters, so nothing can be randomized; use --randomization none"
        )
    file = read_yaml(find_preset(randomization))
    preset = Preset.parse(file)
    if family(preset.task) != family(task):
        raise file.error(f"a preset for {preset.task}, not for {task}", "task")
    randomizer = Randomizer(preset, table)
    if is_ours(task_id(task)):
        _check_borne(env, preset.entries, randomizer.ranges)
    return randomizer


def _check_borne(env: gym.Env[Any, Any], entries: Sequence[Entry], ranges: Mapping[str, tuple[float, float]]) -> None:
    """As of `integration`, which brings the robots along: loaded when it is needed."""
    from simtoreal.integration import check_borne

    check_borne(env, tuple(entries), ranges)


def make_training_env(config: RunConfig, index: int, seed: int, *, learning: bool = False) -> gym.Env[Any, Any]:
    """Environment `index` of a run, every reset keyed by (seed, index, episode); for `learning` with choices for
    actions, episodes that are cut off, and robots that begin as nominal ones, as the run has it, and games as
    `make_env` has them. Raises as `make_env` and `make_randomizer`, and ConfigError for choices that this task's
    actions cannot be. Where choices change the last command so does who is judged (`ChangesEnv`)."""
    env = make_env(task_id(config.task), privileged=config.privileged, engine=config.engine, learning=learning)
    if config.choices_change is not None:
        env = _by_changes(env, config.choices_change, config.task)
    if learning and config.choices is not None:
        env = _in_levels(env, config.choices, config.task)
    if learning and config.episode_steps is not None:
        env = gym.wrappers.TimeLimit(env, config.episode_steps)
    randomizer = make_randomizer(config.randomization, env, config.task)
    randomizer = randomizer or Randomizer(Preset.none(config.task), parameters_of(env))
    if not learning:
        return RandomizedEnv(env, randomizer, seed, index)
    if config.curriculum is None:
        return RandomizedEnv(env, randomizer, seed, index, config.randomization_ramp)
    ranges = MovingRanges(randomizer, parameters_of(env))
    if is_ours(task_id(config.task)):
        widest = ranges.at(np.full(len(ranges.boundaries), config.curriculum.limit))
        _check_borne(env, randomizer.preset.entries, widest.ranges)
    return RandomizedEnv(env, randomizer, seed, index, curriculum=ranges, probes=config.curriculum.probes)


def _in_levels(env: gym.Env[Any, Any], choices: int | Sequence[int], task: str) -> LevelsEnv:
    """An environment whose action is one combination of so many even steps of each number; one count is for all."""
    if already := choices_of(env):
        raise ConfigError(f"choices: an action of {task} is one of {already} choices by itself; set choices to null")
    size = math.prod(env.action_space.shape or ())
    levels = (choices,) * size if isinstance(choices, int) else tuple(choices)
    if len(levels) != size:
        raise ConfigError(f"choices: one for each of the {size} numbers of an action of {task}, got {list(levels)}")
    if not 2 <= (count := math.prod(levels)) <= MOST_CHOICES:
        raise ConfigError(f"choices: from 2 to {MOST_CHOICES} combinations, {list(levels)} are {count}")
    return LevelsEnv(env, levels)


def _by_changes(env: gym.Env[Any, Any], most: float | Sequence[float], task: str) -> ChangesEnv:
    """An environment whose action changes the last command, by `most` of each number, one or one for all."""
    size = math.prod(env.action_space.shape or ())
    shares = (most,) * size if isinstance(most, int | float) else tuple(most)
    if len(shares) != size:
        raise ConfigError(
            f"choices_change: one for each of the {size} numbers of an action of {task}, got {list(shares)}"
        )
    if choices_of(env) or not env.has_wrapper_attr("command_layout"):
        raise ConfigError(f"choices_change: {task} does not show its last command; set choices_change to null")
    try:
        return ChangesEnv(env, shares)
    except ValueError as error:
        raise ConfigError(f"choices_change: {task}: {error}; set choices_change to null") from None


def task_class(task: str) -> type[Task]:
    """The class of a task of ours, to score with and to read layouts from, without simulating it.

    Raises:
        ConfigError: the task is not ours.
    """
    from simtoreal.robots.task import Task

    if made_by_file := split_task(task):
        return task_of_file(*made_by_file)
    found = load_env_creator(gym.spec(task).entry_point) if task in task_ids().values() else None  # type: ignore[arg-type]
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise ConfigError(f"task {task} is none of ours, so nobody here can score it on a robot")
    return found


def policy_part(observation: Any, known: int = 0) -> NDArray[Any]:
    """The vector, or the image, a policy sees of an observation; a teacher sees the last `known` numbers of its
    privileged part behind it."""
    part: NDArray[Any] = observation["policy"] if isinstance(observation, Mapping) else observation
    return np.concatenate([part, observation["privileged"][-known:]]) if known else part
