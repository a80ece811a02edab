"""The named parameters of a task as a table, and those of all tasks as a page.

python -m simtoreal.parameter_list > docs/parameters.md
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from rich.table import Table

from simtoreal import build
from simtoreal.config import ConfigError
from simtoreal.progress import console as make_console
from simtoreal.robot_files import name_task
from simtoreal.robots.engines import DEFAULT_ENGINE, ENGINES
from simtoreal.robots.parameters import Parameter

ONE_OF_MANY = (  # what of a name is one of several alike
    (re.compile(r"^(link|joint)\.[^.]+\."), r"\1.*."),
    (re.compile(r"^(sensor\.[^.]+\.bias)\..+"), r"\1.*"),
    (re.compile(r"^(rotor\.thrust)\..+"), r"\1.*"),
    (re.compile(r"\.[xyz]$"), ".?"),
)
PARTS = "a robot with that part, no shipped one"
ANYONE, OTHERS = "Pendulum-v1", "anyone's environment, here Pendulum-v1"
Alike = dict[str, list[tuple[str, str, Parameter]]]
"""Pattern -> the parameters of that name: of which task, in which engine."""
HEAD = """# All parameters

Written by `python -m simtoreal.parameter_list`, from the tables that the tasks themselves have, of the parts that a
robot can have beside, and of anyone's environment (`sensor.0` is the first number of its observation). Nominal and
bounds are those of all robots together; `simtoreal tasks --parameters TASK` has one task's. What they mean physically
is in [parts.md](parts.md), how they are drawn in [randomization.md](randomization.md).

| parameter | unit | nominal | bounds | what | of |
|---|---|---|---|---|---|
"""


def parameters(task: str, *, robot: str | None = None, engine: str = DEFAULT_ENGINE) -> dict[str, Any]:
    """Every named parameter of a task: its unit, nominal value, bounds and what it is; of an engine if it is ours.

    Raises:
        ConfigError: no such task or engine, or one without named parameters.
    """
    full = build.task_id(name_task(task, robot))
    table = _table(full, engine)
    if not table:
        raise ConfigError(f"task {task} has no named parameters")
    told = ("unit", "nominal", "low", "high")
    rows = {
        name: {key: getattr(parameter, key) for key in told} | {"description": getattr(parameter, "description", "")}
        for name, parameter in table.items()
    }
    return {"task": task, "engine": engine if build.is_ours(full) else None, "parameters": rows}


def print_parameters(found: Mapping[str, Any]) -> None:
    """As a table on stdout, those that are alike in one row."""
    where = f" in {found['engine']}" if found["engine"] else ""
    table = Table(title=f"{found['task']}{where}", title_justify="left")
    for column in ("parameter", "names", "unit", "nominal", "bounds", "what"):
        table.add_column(column)
    alike: dict[str, list[dict[str, Any]]] = {}
    for name, row in found["parameters"].items():
        alike.setdefault(pattern(name), []).append(row)
    for name, rows in alike.items():
        first = rows[0]
        bounds = _span([row["low"] for row in rows] + [row["high"] for row in rows])
        nominal = _span([row["nominal"] for row in rows])
        table.add_row(name, str(len(rows)), first["unit"], nominal, bounds, first["description"])
    make_console().print(table)


def pattern(name: str) -> str:
    """A name without what makes it one of several alike."""
    for one, many in ONE_OF_MANY:
        name = one.sub(many, name)
    return name


def page() -> str:
    """All parameters of all tasks, of parts that none of them has, and of anyone's environment, as Markdown."""
    alike: Alike = {}
    for engine in ENGINES[:2]:
        for task, full in build.task_ids().items():
            _sort_in(_table(full, engine), task, engine, alike)
    known = set(alike)
    for engine in ENGINES[:2]:
        for table, label in ((_equipped(engine), PARTS), (_table(ANYONE, DEFAULT_ENGINE), OTHERS)):
            more = {name: parameter for name, parameter in table.items() if pattern(name) not in known}
            _sort_in(more, label, engine, alike)
    return HEAD + "".join(f"{line}\n" for line in _lines(alike, len(build.task_ids())))


def _sort_in(table: Mapping[str, Parameter], label: str, engine: str, alike: Alike) -> None:
    for name, parameter in table.items():
        alike.setdefault(pattern(name), []).append((label, engine, parameter))


def _lines(alike: Alike, count: int) -> Iterator[str]:
    for name in sorted(alike):
        found = [parameter for *_, parameter in alike[name]]
        engines: dict[str, set[str]] = {}
        for task, engine, _ in alike[name]:
            engines.setdefault(task, set()).add(engine)
        alone = [task for task, own in engines.items() if len(own) == 1]
        everywhere = [task for task in engines if task not in alone]
        shown = everywhere or alone
        of = "all tasks" if len(shown) == count else ", ".join(shown)
        if alone:
            where = " and ".join(sorted(set().union(*(engines[task] for task in alone))))
            of += f"; in {where} alone" + (f" {', '.join(alone)} too" if everywhere else "")
        units = ", ".join(dict.fromkeys(parameter.unit for parameter in found))
        what = "; ".join(dict.fromkeys(p.description for p in found if p.description))
        bounds = _span([p.low for p in found] + [p.high for p in found])
        yield f"| `{name}` | {units} | {_span([p.nominal for p in found])} | {bounds} | {what} | {of} |"


def _span(numbers: list[float]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:.4g}" if low == high else f"{low:.4g} … {high:.4g}"


def _equipped(engine: str) -> Mapping[str, Parameter]:
    """Of a robot with all that the shipped ones do without: a DC motor, an accelerometer, foot switches, currents."""
    from simtoreal.robots.motors import DCMotor
    from simtoreal.robots.sensors import Accelerometer, ContactSensor, TorqueSensor
    from simtoreal.robots.tasks.walk import A1Walk

    class Equipped(A1Walk):
        """An A1 with more parts."""

        robot = replace(A1Walk.robot, actuator=DCMotor((33.5,) * 12, (21.0,) * 12, voltage=24.0))
        more_sensors = (
            ContactSensor(A1Walk.legs.names),
            Accelerometer(),
            TorqueSensor(tuple(A1Walk.commanded_joints), 2.0, 1.0),
        )

    task = Equipped(engine=engine)
    try:
        return task.parameters
    finally:
        task.close()


def _table(full: str, engine: str) -> Mapping[str, Parameter]:
    env = build.make_env(full, engine=engine)
    try:
        found: Mapping[str, Any] = build.parameters_of(env)
        return found
    finally:
        env.close()


if __name__ == "__main__":
    print(page(), end="")
