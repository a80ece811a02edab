"""A task looked through: the sensors of its robot, what a policy sees and commands, and whether the first give it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from simtoreal.build import display_name, is_ours, make_env, task_id
from simtoreal.config import ConfigError
from simtoreal.progress import console as make_console
from simtoreal.robot_files import split_task
from simtoreal.robots.layout import Field
from simtoreal.robots.lint import unsensed
from simtoreal.robots.task import Task
from simtoreal.trial import Trial, trial


@dataclass(frozen=True)
class TaskInspection:
    """`sensors`: each one's parameters by name; `unsensed`: fields of the observation that no sensor gives; `trial`:
    how the robot of a robot file holds still."""

    task: str
    sensors: dict[str, list[str]]
    observation: tuple[Field, ...]
    command: tuple[Field, ...]
    unsensed: list[str]
    trial: Trial | None = None

    @property
    def sound(self) -> bool:
        """Can it be trained, and leave the simulator?"""
        return not self.unsensed and (self.trial is None or self.trial.sound)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def inspect_task(task: str) -> TaskInspection:
    """The sensors of a task's robot, and the lint: does each field of its observation follow from them?

    Raises:
        ConfigError: no such task, or one that is not ours and so names no sensors.
        FileNotFoundError: no such robot file.
    """
    full = task_id(task)
    described = split_task(full)
    if described and not described[0].is_file():
        raise FileNotFoundError(f"{described[0]}: no such robot file")
    if not is_ours(full):
        raise ConfigError(f"task {task} is none of ours: it does not say what its sensors are")
    env = make_env(full)
    try:
        made = env.unwrapped
        assert isinstance(made, Task)
        return TaskInspection(
            display_name(full),
            {sensor.name: [parameter.name for parameter in sensor.parameters()] for sensor in made.sensors},
            made.observation_layout.fields,
            made.command_layout.fields,
            unsensed(made),
            trial(full) if described else None,
        )
    finally:
        env.close()


def print_task(found: TaskInspection) -> None:
    """As tables on stdout."""
    console = make_console()
    table = Table(title=f"{found.task}: sensors", title_justify="left")
    for column in ("sensor", "parameters"):
        table.add_column(column)
    for name, parameters in found.sensors.items():
        table.add_row(name, ", ".join(parameters))
    console.print(table)
    for title, fields in (("observation", found.observation), ("command", found.command)):
        table = Table(title=title, title_justify="left")
        for column in ("field", "size", "unit", "frame", "what"):
            table.add_column(column)
        for field in fields:
            table.add_row(field.name, str(field.size), field.unit, field.frame, field.description)
        console.print(table)
    for name in found.unsensed:
        console.print(f"error: observation {name}: no sensor of the robot gives it", soft_wrap=True, markup=False)
    if not found.unsensed:
        console.print("every field of the observation follows from the sensors, the command, the goal and the clock")
    if found.trial:
        console.print(f"trial: {found.trial.said}", soft_wrap=True, markup=False)
