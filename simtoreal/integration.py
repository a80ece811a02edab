"""Whether a file's ranges leave what the physics engines can integrate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym

from simtoreal.randomization.randomizer import Entry, assign
from simtoreal.robots.stability import hardest
from simtoreal.robots.task import Task


def check_borne(env: gym.Env[Any, Any], entries: tuple[Entry, ...], ranges: Mapping[str, tuple[float, float]]) -> None:
    """Raises ConfigFileError, with file and line, where the damping that `entries` allow at a joint is more than the
    engines bear of what it moves at least. Environments that are not ours are their own concern."""
    task: Any = env.unwrapped
    if not isinstance(task, Task):
        return
    found = hardest(task, ranges)
    if found is None or found.share <= 1.0:
        return
    chosen = assign(entries, task.parameters)
    name = f"joint.{found.joint}.damping"
    lighter = [e for n, e in chosen.items() if n.startswith("link.") and n.endswith((".mass", ".inertia"))]
    entry = chosen.get(name) or next(iter(lighter), None)
    if entry is None:  # it is the robot's own, and its trial's to tell
        return
    unit = task.parameters[name].unit
    high = ranges.get(name, (0.0, task.parameters[name].nominal))[1]
    raise entry.error(
        f"{name} up to {high:.4g} {unit} would destabilise the integrator: with the lightest links of these ranges the "
        f"joint bears at most {found.most:.3g} {unit} in physics steps of {1e3 * task.physics_dt:g} ms"
    )
