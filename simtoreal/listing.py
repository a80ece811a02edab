"""What there is: tasks, algorithms, presets, suites."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium as gym
from rich.table import Table

from simtoreal import build
from simtoreal.config import ALGORITHMS, ConfigError
from simtoreal.contract import Contract
from simtoreal.integration import check_borne
from simtoreal.progress import console as make_console
from simtoreal.randomization.forms import to_data
from simtoreal.randomization.randomizer import Preset, Randomizer
from simtoreal.randomization.shipped import find_preset, preset_paths, suite_paths
from simtoreal.robot_files import known_robots, name_task
from simtoreal.robot_making import FAMILIES
from simtoreal.robots.engines import DEFAULT_ENGINE


def tasks() -> dict[str, Any]:
    """Tasks with their id, summary, rates and sizes; under `broken` what is wrong with those of other packages that
    cannot be made; algorithms; presets; suites."""
    found, broken = {}, {}
    for short, full in build.task_ids().items():
        try:
            found[short] = _described(short, full)
        except Exception as error:
            if str(gym.spec(full).entry_point).startswith("simtoreal."):
                raise
            broken[short] = " ".join(str(error).split()) or type(error).__name__
    return {
        "tasks": found,
        "broken": broken,
        "families": list(FAMILIES),
        "robots": known_robots(),
        "algorithms": ALGORITHMS,
        "presets": list(preset_paths()),
    }


def _described(short: str, full: str) -> dict[str, Any]:
    env = build.make_env(full)
    try:
        contract = Contract.of(full, env)
        return {
            "id": full,
            "summary": (env.unwrapped.__doc__ or "").strip().splitlines()[0],
            "rate_hz": round(1.0 / contract.control_dt, 3),
            "seconds": env.get_wrapper_attr("horizon") * contract.control_dt,
            "observation": contract.observation.size,
            "command": contract.command.size,
            "parameters": len(contract.parameters),
            "suites": list(suite_paths(short)),
        }
    finally:
        env.close()


def print_listing(found: dict[str, Any]) -> None:
    """The listing as tables on stdout."""
    console = make_console()
    table = Table(title="tasks (any other gymnasium id works too)", title_justify="left")
    for column in ("task", "what", "rate", "length", "observation", "command", "parameters", "suites"):
        table.add_column(column)
    for name, task in found["tasks"].items():
        table.add_row(
            name,
            task["summary"],
            f"{task['rate_hz']:g} Hz",
            f"{task['seconds']:g} s",
            str(task["observation"]),
            str(task["command"]),
            str(task["parameters"]),
            ", ".join(task["suites"]),
        )
    console.print(table)
    for name, why in found["broken"].items():
        console.print(f"{name}, of another package, is left out: {why}", markup=False)
    console.print(f"of your own robot, with --robot FILE: {', '.join(found['families'])}")
    console.print(f"of a robot that is known by name, with --robot NAME: {', '.join(found['robots'])}")
    console.print("algorithms: " + "; ".join(f"{name} ({what})" for name, what in found["algorithms"].items()))
    console.print(f"presets: {', '.join(found['presets'])}; see one with --preset NAME")


def print_preset(name: str, *, robot: str | None = None, engine: str = DEFAULT_ENGINE, quiet: bool) -> dict[str, Any]:
    """One preset, resolved on its task's robot in a physics engine: each entry's range in SI, how it applies, and its
    source.

    Raises:
        ConfigError: it is for any robot of a family, and no `robot` file is given; there is no such task or engine.
        ConfigFileError: it does not fit its task's robot.
    """
    preset = Preset.load(Path(find_preset(name)))
    if preset.task in FAMILIES and robot is None:
        raise ConfigError(f"{name} is for any {preset.task}: name a robot with --robot FILE")
    try:
        task = build.task_id(name_task(preset.task, robot))
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
    env = build.make_env(task, engine=engine)
    try:
        parameters = build.parameters_of(env)
        randomizer = Randomizer(preset, parameters)
        check_borne(env, preset.entries, randomizer.ranges)
    finally:
        env.close()
    rows: list[dict[str, Any]] = [
        {
            "entry": entry.pattern,
            "how": entry.how,
            "draw": to_data(entry.distribution) | ({} if entry.pace is None else asdict(entry.pace)),
            "shared": entry.shared,
            "ranges": {name: randomizer.ranges[name] for name in names if name in randomizer.ranges},
            "unit": parameters[names[0]].unit,
            "source": entry.source,
        }
        for entry in preset.entries
        if (names := entry.matches(parameters))
    ]
    if not quiet:
        table = Table(title=f"{preset.task}, version {preset.version}", title_justify="left")
        for column in ("parameter", "how", "draw", "unit", "matches", "source"):
            table.add_column(column)
        for row in rows:
            said = row["draw"] | ({"shared": row["shared"]} if row["shared"] else {})
            draw = "; ".join(f"{kind} {value}" for kind, value in said.items())
            table.add_row(row["entry"], row["how"], draw, row["unit"], str(len(row["ranges"])), row["source"])
        make_console().print(table)
    return {"task": preset.task, "version": preset.version, "entries": rows}
