"""Randomization: named physical parameters drawn anew every episode, and the suites a policy is judged under.

Nothing is imported until it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simtoreal.randomization.curriculum import Curriculum, CurriculumSettings, MovingRanges
    from simtoreal.randomization.distributions import (
        Affine,
        Choice,
        Constant,
        Distribution,
        Intervals,
        LogUniform,
        TruncatedNormal,
        Uniform,
    )
    from simtoreal.randomization.philox import episode_seed, philox4x32, uniforms
    from simtoreal.randomization.randomizer import Entry, Parameter, Preset, Randomizer
    from simtoreal.randomization.shipped import find_preset, find_suite, preset_paths, suite_paths, write_suites
    from simtoreal.randomization.signals import SignalsEnv
    from simtoreal.randomization.suites import (
        Case,
        Condition,
        NothingHeldOutError,
        Suite,
        heldout,
        is_held_out,
        severity,
        write_suite,
    )
    from simtoreal.randomization.wrapper import RandomizedEnv
    from simtoreal.randomization.yaml_files import (
        ConfigFileError,
        YamlFile,
        dump_yaml,
        load_yaml,
        read_yaml,
        write_yaml,
    )

_HOMES = {
    "curriculum": "Curriculum CurriculumSettings MovingRanges",
    "distributions": "Affine Choice Constant Distribution Intervals LogUniform TruncatedNormal Uniform",
    "philox": "episode_seed philox4x32 uniforms",
    "randomizer": "Entry Parameter Preset Randomizer",
    "shipped": "find_preset find_suite preset_paths suite_paths write_suites",
    "signals": "SignalsEnv",
    "suites": "Case Condition NothingHeldOutError Suite heldout is_held_out severity write_suite",
    "wrapper": "RandomizedEnv",
    "yaml_files": "ConfigFileError YamlFile dump_yaml load_yaml read_yaml write_yaml",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = [
    "Affine",
    "Case",
    "Choice",
    "Condition",
    "ConfigFileError",
    "Constant",
    "Curriculum",
    "CurriculumSettings",
    "Distribution",
    "Entry",
    "Intervals",
    "LogUniform",
    "MovingRanges",
    "NothingHeldOutError",
    "Parameter",
    "Preset",
    "RandomizedEnv",
    "Randomizer",
    "SignalsEnv",
    "Suite",
    "TruncatedNormal",
    "Uniform",
    "YamlFile",
    "dump_yaml",
    "episode_seed",
    "find_preset",
    "find_suite",
    "heldout",
    "is_held_out",
    "load_yaml",
    "philox4x32",
    "preset_paths",
    "read_yaml",
    "severity",
    "suite_paths",
    "uniforms",
    "write_suite",
    "write_suites",
    "write_yaml",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
