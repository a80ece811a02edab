"""The configuration of a run: what can be asked, checked before anything is simulated."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_type_hints

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from simtoreal.randomization.curriculum import CurriculumSettings
from simtoreal.randomization.messages import nearest
from simtoreal.randomization.yaml_files import YamlFile, parse_yaml, read_yaml

Settings = TypeVar("Settings")

ALGORITHMS = {
    "sac": "our SAC: twin critics, automatic temperature",
    "td3": "our TD3: twin critics, delayed and smoothed",
    "ppo": "our PPO: generalized advantages, clipped steps",
    "reinforce": "our REINFORCE: whole episodes, with a learned baseline or without",
    "dqn": "our DQN, for choices; the parts of Rainbow are switches",
    "rainbow": "our DQN with all of these",
    "qlearning": "our tabular Q-learning, for choices and observations that are states or cut into bins",
    "sb3-sac": "Stable-Baselines3's SAC",
    "sb3-td3": "Stable-Baselines3's TD3",
    "sb3-ppo": "Stable-Baselines3's PPO",
    "sb3-dqn": "Stable-Baselines3's DQN, for choices",
}


SAME_AS = {
    "AliengoWalk": "A1Walk",
    "Balance": "CartPoleBalance",
    "KukaReach": "PandaReach",
    "PixelCartPoleRGB": "PixelCartPole",
    "Reach": "PandaReach",
    "Taxi-v3": "Taxi-v4",
    "Walk": "A1Walk",
    "XArmReach": "PandaReach",
}
"""Whose recipe a task has, where it is not its own."""

MOST_CHOICES = 4096
LEAST_CHANGE = 1e-4  # of an action: less is lost in float32 commands
MAY_DIFFER = ("steps", "workers", "step_timeout", "compile")  # between a run and its resumption


class ConfigError(ValueError):
    """A configuration that cannot run; the message names the field."""


class RunConfig(BaseModel):
    """Everything a training run depends on; written as `config.yaml` beside its results."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    task: str
    algorithm: Literal[
        "sac", "td3", "ppo", "reinforce", "dqn", "rainbow", "qlearning", "sb3-sac", "sb3-td3", "sb3-ppo", "sb3-dqn"
    ] = "sac"
    steps: int = Field(ge=1)
    seed: int = Field(default=0, ge=0, lt=2**31)
    engine: Literal["pybullet", "mujoco", "mujoco-shipped"] = "pybullet"  # of our tasks
    randomization: str = "none"
    randomization_ramp: tuple[int, int] = (0, 0)  # episodes of each environment from and to which draws widen
    curriculum: CurriculumSettings | None = None  # ranges that begin at nominal and widen as they are mastered
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Field(default=1, ge=1, le=256)
    envs: int = Field(default=1, ge=1, le=1024)
    workers: int = Field(default=0, ge=0, le=256)  # processes for the environments; 0 keeps them in this one
    step_timeout: float = Field(default=60.0, gt=0)  # [s] a worker may take for a step of all its environments
    privileged: bool | Literal["state"] = False  # "state": without the drawn parameters
    teacher: bool = False  # the actor sees the drawn parameters too: to be distilled, never to be exported
    augment: int = Field(
        default=0, ge=0, le=16
    )  # further transitions the task derives from each: mirrored, other goals
    mirror: bool = False  # learn from the mirror image of each motion too, where a task has sides
    choices: int | tuple[int, ...] | None = None  # even steps of each number of an action: one combination is chosen
    choices_change: float | tuple[float, ...] | None = (
        None  # choices count from the last command: the most that 1 adds to each number of an action
    )
    episode_steps: int | None = Field(default=None, ge=1)  # that cut off what is learned from; never what is judged
    evaluate_every: int = Field(default=2_500, ge=1)
    evaluate_episodes: int = Field(default=20, ge=1)
    checkpoint_every: int | None = Field(default=None, ge=1)
    save_every: int = Field(default=2_500, ge=1)  # steps between checkpoints to resume from
    resumable: bool = True  # the replay is stored too, by what was added since the last checkpoint
    agent: dict[str, Any] = Field(default_factory=dict)
    robot: dict[str, str] | None = (
        None  # what tells the robot file of the task from other versions of it: written, not set
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        _check_switch(value, cls.model_fields[str(info.field_name)].annotation)
        return value

    @field_validator("randomization_ramp")
    @classmethod
    def _one_after_the_other(cls, ramp: tuple[int, int]) -> tuple[int, int]:
        if not 0 <= ramp[0] <= ramp[1]:
            raise ValueError(f"two episodes, from the one on draws widen, from the other on they are whole, got {ramp}")
        return ramp

    @field_validator("curriculum", mode="before")
    @classmethod
    def _known(cls, curriculum: Any) -> Any:
        if isinstance(curriculum, Mapping):
            check_names(curriculum, inspect.signature(CurriculumSettings).parameters)
            for name, value in curriculum.items():
                if isinstance(value, bool):
                    raise ValueError(f"{name} takes neither true nor false, got {str(value).lower()}")
        elif not isinstance(curriculum, CurriculumSettings | None):
            raise ValueError(f"settings of a curriculum are needed (curriculum.kind=adr), got {curriculum!r}")
        return curriculum

    @field_validator("curriculum")
    @classmethod
    def _something_to_widen(cls, curriculum: CurriculumSettings | None, info: ValidationInfo) -> Any:
        if curriculum is not None and info.data.get("randomization") == "none":
            raise ValueError("nothing is randomized, so there is nothing to widen; give a preset by --randomization")
        return curriculum

    @field_validator("teacher")
    @classmethod
    def _something_to_know(cls, teacher: bool, info: ValidationInfo) -> bool:
        if teacher and info.data.get("privileged") is not True:
            raise ValueError("a teacher sees the drawn parameters, so it needs privileged: true")
        if teacher and info.data.get("randomization") == "none":
            raise ValueError("nothing is randomized, so there is nothing to know; give a preset by --randomization")
        return teacher

    @field_validator("choices", mode="before")
    @classmethod
    def _steps_to_choose_from(cls, choices: Any) -> Any:
        if choices is None:
            return None
        counts = choices if isinstance(choices, list | tuple) else [choices]
        if not counts or not all(type(count) is int and 1 <= count <= MOST_CHOICES for count in counts):
            raise ValueError(
                f"from 1 (held at 0) to {MOST_CHOICES} even steps from -1 to 1, or a list of counts for each number of "
                f"an action, got {choices!r}"
            )
        return choices

    @field_validator("choices_change", mode="before")
    @classmethod
    def _most_of_each(cls, change: Any, info: ValidationInfo) -> Any:
        if change is None:
            return None
        shares = change if isinstance(change, list | tuple) else [change]
        if not shares or not all(type(share) in (int, float) and LEAST_CHANGE <= share <= 2 for share in shares):
            raise ValueError(
                f"from {LEAST_CHANGE:g} to 2, what a choice adds to an action from -1 to 1 at most, or a list of that "
                f"for each number of it, got {change!r}"
            )
        if info.data.get("choices") is None:
            raise ValueError("choices say in how many steps; set them, or choices_change to null")
        return change

    @field_validator("workers")
    @classmethod
    def _one_environment_each(cls, workers: int, info: ValidationInfo) -> int:
        if workers > info.data.get("envs", workers):
            raise ValueError(f"{workers} workers need at least as many environments; raise --envs")
        return workers


def make_config(
    task: str,
    *,
    algorithm: str,
    overrides: Mapping[str, Any],
    defaults: Mapping[str, Any] | None = None,
    config_file: Path | None = None,
    assignments: Sequence[str] = (),
) -> RunConfig:
    """The resolved configuration: `defaults`, then our recipe for the task, then a file, then arguments, then
    `path=value` assignments.

    Raises:
        ConfigError: unknown key or algorithm, value of the wrong kind or out of range; with the file and line where
            one is at fault (ConfigFileError, also a ValueError).
    """
    if algorithm not in ALGORITHMS:
        raise ConfigError(f"no algorithm {algorithm!r}; {nearest(algorithm, ALGORITHMS)}")
    merged: dict[str, Any] = {**(defaults or {}), "task": task, "algorithm": algorithm}
    merged |= _copy(recipe(task, algorithm))
    return _resolved(merged, overrides, config_file, assignments)


def amended_config(
    config: RunConfig,
    *,
    overrides: Mapping[str, Any],
    config_file: Path | None = None,
    assignments: Sequence[str] = (),
) -> RunConfig:
    """What a configuration would be under further arguments. Raises as `make_config` does."""
    return _resolved(config.model_dump(exclude_none=True), overrides, config_file, assignments)


def _resolved(
    merged: dict[str, Any], overrides: Mapping[str, Any], config_file: Path | None, assignments: Sequence[str]
) -> RunConfig:
    task, algorithm = merged["task"], merged["algorithm"]
    file = None
    if config_file is not None:
        file = read_yaml(config_file)
        data = file.mapping(allowed=tuple(RunConfig.model_fields))
        if data.get("task", task) != task or data.get("algorithm", algorithm) != algorithm:
            raise ConfigError(
                f"{config_file} is for {data.get('task')} {data.get('algorithm')}, not {task} {algorithm}"
            )
        merged = _merge(merged, data)
    merged = _merge(merged, {key: value for key, value in overrides.items() if value is not None})
    merged = _merge(merged, parse_assignments(assignments))
    if (merged["task"], merged["algorithm"]) != (task, algorithm):
        raise ConfigError("task and algorithm are arguments of their own; --set cannot change them")
    if "steps" not in merged:
        raise ConfigError(f"no recipe says how many steps {algorithm} takes to learn {task}: pass --steps")
    return _checked(merged, file)


def _checked(data: Mapping[str, Any], file: YamlFile | None) -> RunConfig:
    """The configuration that `data` is. Raises ConfigError, and ConfigFileError about what stands in `file`."""
    check_names(data, RunConfig.model_fields)
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        field = str(error.errors()[0]["loc"][0])
        given = {} if file is None else file.mapping()
        if file is not None and field in given and given[field] == data[field]:
            raise file.error(_said(error), field) from None
        raise ConfigError(_said(error)) from None


def _said(error: ValidationError, prefix: str = "") -> str:
    """The first thing that pydantic found: where, after `prefix`, what is expected, what was given."""
    first = error.errors()[0]
    where = (prefix + ".".join(map(str, first["loc"]))).rstrip(".")
    own = first["type"] == "value_error"  # a check of ours, whose words hold the value
    said = "a list is needed" if first["type"] == "tuple_type" else first["msg"]
    text = str(first["ctx"]["error"]) if own else f"{said}, got {first['input']!r}"
    return f"{where}: {text}" if where else text


def check_names(given: Iterable[str], known: Iterable[str], prefix: str = "") -> None:
    """Raises ConfigError naming, after `prefix`, the first setting that is not known."""
    choices = list(known)
    for name in given:
        if name not in choices:
            raise ConfigError(f"no setting {prefix}{name}; {nearest(name, choices)}")


def settings_of(kind: type[Settings], given: Mapping[str, Any], prefix: str = "") -> Settings:
    """A dataclass of settings from what a user gave of them. Raises ConfigError naming, after `prefix`, the one that it
    has not or cannot be."""
    check_names(given, inspect.signature(kind).parameters, prefix)
    hints = get_type_hints(kind)
    for name, value in given.items():
        try:
            _check_switch(value, hints[name])
        except ValueError as error:
            raise ConfigError(f"{prefix}{name}: {error}") from None
    try:
        return TypeAdapter(kind).validate_python(given)
    except ValidationError as error:
        raise ConfigError(_said(error, prefix)) from None


def _check_switch(value: Any, hint: Any) -> None:
    """Raises ValueError for true or false, alone or in a list, where a value of type `hint` has numbers."""
    kinds = set(_parts(hint))
    given = value if isinstance(value, list | tuple) else [value]
    switch = next((part for part in given if isinstance(part, bool)), None)
    if switch is not None and bool not in kinds and {int, float} & kinds:
        raise ValueError(f"a number is needed, got {str(switch).lower()}")


def _parts(hint: Any) -> Iterator[Any]:
    """A type, and those that it is made of."""
    yield hint
    for part in get_args(hint):
        yield from _parts(part)


def parse_assignments(texts: Sequence[str]) -> dict[str, Any]:
    """`path=value` texts as one tree, the later ones over the earlier. Raises ConfigError."""
    tree: dict[str, Any] = {}
    for text in texts:
        tree = _merge(tree, _assignment(text))
    return tree


def difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """The first setting, as a dotted path, that differs between two configurations, with both values.

    Those of `MAY_DIFFER` may: no result depends on the workers, a run may go on for longer, and where nothing can be
    compiled it may go on without (the last bits are then others).
    """
    for name in sorted({*one, *other} - {*MAY_DIFFER}):
        a, b = one.get(name), other.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            if found := difference(a, b):
                return f"{name}.{found[0]}", *found[1:]
        elif a != b:
            return name, a, b
    return None


def load_config(path: Path) -> RunConfig:
    """The `config.yaml` of a run. Raises ConfigFileError naming file and line, FileNotFoundError."""
    file = read_yaml(path)
    return _checked(file.mapping(allowed=tuple(RunConfig.model_fields), required=("task", "steps")), file)


@cache
def _recipes() -> dict[str, Any]:
    out = {}
    for entry in files("simtoreal").joinpath("recipes").iterdir():
        if entry.name.endswith(".yaml"):
            out[entry.name.removesuffix(".yaml")] = parse_yaml(entry.read_text(), entry.name).mapping()
    return out


def recipe(task: str, algorithm: str) -> dict[str, Any]:
    """Our settings for a task and an algorithm, empty where there are none: they were tuned, see docs/tuning.md. Of
    `module:Id-v0` they are under the id."""
    found: dict[str, Any] = _recipes_of(task).get(algorithm, {})
    return found


def default_algorithm(task: str) -> str:
    """Who learns a task unless someone else is asked for: the first that we have settings for, else SAC."""
    return next(iter(_recipes_of(task)), "sac")


def _recipes_of(task: str) -> dict[str, Any]:
    name = task.rpartition(":")[2]
    found: dict[str, Any] = _recipes().get(SAME_AS.get(name, name), {})
    return found


def _copy(data: Any) -> Any:
    return {key: _copy(value) for key, value in data.items()} if isinstance(data, Mapping) else data


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = _merge(out[key], value) if both else value
    return out


def _assignment(text: str) -> dict[str, Any]:
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise ConfigError(f"--set expects path=value, got {text!r}")
    tree: Any = parse_yaml(f"value: {value}", f"--set {text}").mapping()["value"]
    for key in reversed(path.split(".")):
        tree = {key: tree}
    return dict(tree)
