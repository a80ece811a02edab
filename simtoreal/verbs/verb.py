"""What every verb of the command line is made of."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

DONE, NO = 0, 1
ONE_LINE = {
    "tasks": "list tasks, algorithms, presets and suites",
    "inspect": "look a robot's URDF through: joints, limits, inertias, problems",
    "play": "look at a task or a policy, live in a browser or as a film",
    "train": "train a policy and leave a run folder",
    "finetune": "fine-tune a policy on a robot within a budget of robot seconds; keep the base unless it is better",
    "distill": "make a policy that can leave of a teacher that sees the robot's parameters",
    "import": "make a run of somebody's Stable-Baselines3 zip, without unpickling it",
    "export": "turn a run into a self-describing ONNX bundle",
    "verify": "check a bundle: integrity, contract, parity with torch, latency",
    "evaluate": "judge bundles over suites and write a report",
    "sensitivity": "rank the parameters by what they cost a policy, as a table and a tornado plot",
    "replay": "run one evaluated episode again, exactly",
    "demo": "the whole way on one robot, in minutes",
    "bench": "the benchmarks, as a table",
}

Outcome = tuple[dict[str, Any], int]


def make_verb(
    verbs: Any, name: str, run: Callable[[argparse.Namespace], Outcome], more: str | None = None
) -> argparse.ArgumentParser:
    """The parser of a verb that does `run`, among those of `verbs`; its help ends with `more`, as it stands."""
    verb: argparse.ArgumentParser = verbs.add_parser(
        name,
        description=ONE_LINE[name].capitalize() + ".",
        help=ONE_LINE[name],
        epilog=more,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.add_argument("--json", action="store_true", help="the result as one JSON object on stdout")
    verb.set_defaults(run=run)
    return verb


def add_robot(verb: argparse.ArgumentParser) -> None:
    """The option that makes a family a task."""
    verb.add_argument(
        "--robot", metavar="FILE|NAME", help="of a family (Walk, Reach): a robot.yaml, or a robot that is installed"
    )


def add_moved_robot(verb: argparse.ArgumentParser) -> None:
    """The option of a verb that knows its robot file, which may lie elsewhere now."""
    verb.add_argument("--robot", metavar="FILE", help="where the task's robot.yaml lies now, if elsewhere")


def success_text(reached: bool | None) -> str:
    """In words."""
    return {True: "success", False: "no success", None: "this task reports no success"}[reached]
