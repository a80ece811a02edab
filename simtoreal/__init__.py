"""simtoreal: take a robot controller from simulation to hardware.

Importing this package registers the gymnasium ids and nothing heavier; everything else is loaded when first used:

    import simtoreal
    run = simtoreal.train("PandaReach", steps=30_000, out="runs/reach").run
    bundle = simtoreal.export(run, "bundles/reach")
    verdict = simtoreal.evaluate([bundle], out="verdicts/reach")
    command = simtoreal.Runtime(bundle).act(observation)
"""

from __future__ import annotations

import importlib
import sys
import warnings as _warnings
from importlib.metadata import entry_points as _entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as _gymnasium

__version__ = "0.1.0"

if not (Path(__file__).parent / "robots").is_dir():
    # In a source checkout the four islands are siblings of this folder; installed, they lie inside it.
    __path__.append(str(Path(__file__).parent.parent))

for _id, _entry in {
    "A1Walk": "simtoreal.robots.tasks.walk:A1Walk",
    "AliengoWalk": "simtoreal.robots.tasks.walk:AliengoWalk",
    "CartPoleBalance": "simtoreal.robots.tasks.cartpole:CartPoleBalance",
    "CartPoleBalanceDiscrete": "simtoreal.robots.tasks.cartpole:CartPoleBalanceDiscrete",
    "CartPoleSwingUp": "simtoreal.robots.tasks.cartpole:CartPoleSwingUp",
    "KukaReach": "simtoreal.robots.tasks.reach:KukaReach",
    "PandaPush": "simtoreal.robots.tasks.push:PandaPush",
    "PandaReach": "simtoreal.robots.tasks.reach:PandaReach",
    "PixelCartPole": "simtoreal.robots.tasks.pixels:PixelCartPole",
    "PixelCartPoleRGB": "simtoreal.robots.tasks.pixels:PixelCartPoleRGB",
    "QuadrotorHover": "simtoreal.robots.tasks.quadrotor:QuadrotorHover",
    "QuadrotorTrajectory": "simtoreal.robots.tasks.quadrotor:QuadrotorTrajectory",
    "RacecarPath": "simtoreal.robots.tasks.racecar:RacecarPath",
    "XArmReach": "simtoreal.robots.tasks.reach:XArmReach",
}.items():
    _gymnasium.register(f"simtoreal/{_id}-v0", entry_point=_entry)

for _point in _entry_points(group="simtoreal.tasks"):  # of other packages: name -> module:class, a robots.task.Task
    if f"simtoreal/{_point.name}-v0" in _gymnasium.registry:
        _warnings.warn(f"{_point.value} is a task called {_point.name}, which is taken", stacklevel=2)
    else:
        _gymnasium.register(f"simtoreal/{_point.name}-v0", entry_point=_point.value)

_VERBS = {
    "train": "simtoreal.train",
    "finetune": "simtoreal.finetune",
    "distill": "simtoreal.distill",
    "import_policy": "simtoreal.imported",
    "export": "simtoreal.bundles",
    "verify": "simtoreal.bundles",
    "evaluate": "simtoreal.evaluate",
    "sensitivity": "simtoreal.sensitivity",
    "replay": "simtoreal.film",
    "play": "simtoreal.playing",
    "demo": "simtoreal.demo",
    "bench": "simtoreal.bench",
    "tasks": "simtoreal.listing",
    "inspect": "simtoreal.inspecting",
}
_OTHERS = {"Runtime": "simtoreal.export.onboard.runtime", "make_env": "simtoreal.build"}


class _Verb(ModuleType):
    """A module that shares its name with a verb (`simtoreal.train`) is called as that verb."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        verb = self.__name__.rpartition(".")[2]
        return getattr(importlib.import_module(_VERBS[verb]), verb)(*arguments, **options)


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        if name in _VERBS and type(value) is ModuleType:
            value.__class__ = _Verb
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name in _OTHERS:
        return getattr(importlib.import_module(_OTHERS[name]), name)
    if name in _VERBS:
        home = importlib.import_module(_VERBS[name])
        return home if home.__name__ == f"{__name__}.{name}" else getattr(home, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_VERBS, *_OTHERS})
