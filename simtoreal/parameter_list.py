"""The named parameters of a task as a table, and those of all tasks as a page.

python -m simtoreal.parameter_list > docs/parameters.md
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
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
HEAD = """# All parameters

Written by `python -m simtoreal.parameter_list`, from the tables that the tasks themselves have. Nominal and bounds are
those of all robots together; `simtoreal tasks --parameters TASK` has one task's. What they mean physically is in
[parts.md](parts.md), how they are drawn in [randomization.md](randomization.md).

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
    """All parameters of all tasks, as Markdown."""
    alike: dict[str, list[tuple[str, Parameter]]] = {}
    engines: dict[str, set[str]] = {}
    for task, full in build.task_ids().items():
        for engine in ENGINES[:2]:
            for name, parameter in _table(full, engine).items():
                alike.setdefault(pattern(name), []).append((task, parameter))
                engines.setdefault(pattern(name), set()).add(engine)
    return HEAD + "".join(f"{line}\n" for line in _lines(alike, engines, len(build.task_ids())))


def _lines(
    alike: Mapping[str, list[tuple[str, Parameter]]], engines: Mapping[str, set[str]], count: int
) -> Iterator[str]:
    for name in sorted(alike):
        found = [parameter for _, parameter in alike[name]]
        tasks = list(dict.fromkeys(task for task, _ in alike[name]))
        of = "all tasks" if len(tasks) == count else ", ".join(tasks)
        if len(engines[name]) == 1:
            of += f"; in {next(iter(engines[name]))} alone"
        units = ", ".join(dict.fromkeys(parameter.unit for parameter in found))
        what = "; ".join(dict.fromkeys(p.description for p in found if p.description))
        bounds = _span([p.low for p in found] + [p.high for p in found])
        yield f"| `{name}` | {units} | {_span([p.nominal for p in found])} | {bounds} | {what} | {of} |"


def _span(numbers: list[float]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:.4g}" if low == high else f"{low:.4g} … {high:.4g}"


def _table(full: str, engine: str) -> Mapping[str, Parameter]:
    env = build.make_env(full, engine=engine)
    try:
        found: Mapping[str, Any] = build.parameters_of(env)
        return found
    finally:
        env.close()


if __name__ == "__main__":
    print(page(), end="")
