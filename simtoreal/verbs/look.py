"""Look: the lists, a robot or a policy, an episode again."""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from simtoreal.arguments import count, named_number, named_numbers, once_each, port, rate, whole
from simtoreal.robots.engines import DEFAULT_ENGINE, ENGINES
from simtoreal.verbs.verb import DONE, NO, Outcome, add_moved_robot, add_robot, make_verb, success_text

PLAY_EXAMPLES = """examples:
  simtoreal play A1Walk examples/bundles/a1walk
        a page at http://127.0.0.1:8080: the robot, a slider for every parameter, pushes, the command
  simtoreal play PandaReach runs/bundle --engine mujoco --speed 0.25 --parameter link.panda_hand.payload=2
  simtoreal play A1Walk examples/bundles/a1walk --video walk.mp4 --episodes 1 --goal velocity_command=0.6

Live it is for our own tasks; somebody else's (CartPole-v1) is filmed. docs/play.md says what the page offers."""


def _tasks(verbs: Any) -> None:
    def run(options: argparse.Namespace) -> Outcome:
        from simtoreal.listing import print_listing, print_preset, tasks

        if options.parameters is not None and options.preset is not None:
            raise ValueError("tasks: name --preset or --parameters, not both")
        if options.parameters is not None:
            from simtoreal.parameter_list import parameters, print_parameters

            shown = parameters(options.parameters, robot=options.robot, engine=options.engine)
            if not options.json:
                print_parameters(shown)
            return shown, DONE
        if options.preset is not None:
            told = print_preset(options.preset, robot=options.robot, engine=options.engine, quiet=options.json)
            return told, DONE
        if options.robot is not None:
            raise ValueError("tasks: --robot is of a preset or a family: name --preset or --parameters too")
        found = tasks()
        if not options.json:
            print_listing(found)
        return found, DONE

    verb = make_verb(verbs, "tasks", run)
    verb.add_argument(
        "--preset", metavar="NAME|FILE", help="print one preset as a table, with the source of each range"
    )
    verb.add_argument("--parameters", metavar="TASK", help="print a task's named parameters, with their bounds")
    verb.add_argument("--engine", default=DEFAULT_ENGINE, metavar="NAME", help="whose parameters (default pybullet)")
    add_robot(verb)


def is_task(name: str) -> bool:
    """Is it a task's name (A1Walk, robot.yaml:Walk), not a file's?"""
    file, colon, _ = name.partition(":")
    return bool(colon) or not (Path(file).suffix or "/" in file or Path(file).exists())


def _inspect(verbs: Any) -> None:
    def run(options: argparse.Namespace) -> Outcome:
        from simtoreal.inspecting import inspect, print_inspection, write_robot_file

        if is_task(options.what):
            from simtoreal.task_inspection import inspect_task, print_task

            if options.write is not None:
                raise ValueError(f"--write makes a robot file of a URDF, not of the task {options.what}")
            seen = inspect_task(options.what)
            if not options.json:
                print_task(seen)
            return seen.to_json(), DONE if seen.sound else NO
        found = inspect(options.what)
        result = found.to_json()
        if options.write is not None:
            result["robot_file"] = write_robot_file(options.what, options.write, force=options.force)
        tried = result.get("robot_file", {}).get("trial", {"sound": True})
        if not options.json:
            print_inspection(found)
            if options.write is not None:
                print(f"robot file: {options.write}; {tried['said']}")
        return result, DONE if found.usable and tried["sound"] else NO

    verb = make_verb(verbs, "inspect", run)
    verb.add_argument("what", metavar="URDF|TASK", help="a robot's file, or a task: its sensors and what it observes")
    verb.add_argument(
        "--write", metavar="FILE", help="propose a robot.yaml, which makes it a walker, a reacher or a balancer"
    )
    verb.add_argument("--force", action="store_true", help="replace an earlier robot.yaml")


def _play(verbs: Any) -> None:
    def run(options: argparse.Namespace) -> Outcome:
        from simtoreal.playing import play
        from simtoreal.progress import counting_progress

        def announce(address: str) -> None:
            print(f"open {address} in a browser; Ctrl-C ends it", file=sys.stderr, flush=True)

        with counting_progress("steps") if options.video else nullcontext() as progress:
            result = play(
                options.task,
                options.policy,
                video=options.video,
                episodes=options.episodes,
                seed=options.seed,
                randomization=options.randomization,
                parameters=once_each("--parameter", options.parameter),
                goal=once_each("--goal", options.goal),
                engine=options.engine,
                robot=options.robot,
                force=options.force,
                host=options.host,
                port=options.port,
                speed=options.speed,
                progress=progress,
                announce=announce,
            )
        if not options.json:
            for number, o in enumerate(result.outcomes):
                why = f" ({o.unmet})" if o.unmet else ""
                print(f"episode {number}: return {o.return_:.2f}, {success_text(o.success)}{why}, {o.length} steps")
            if result.video:
                print(f"film: {result.video}")
        return result.to_json(), DONE

    verb = make_verb(verbs, "play", run, PLAY_EXAMPLES)
    verb.add_argument("task", metavar="TASK")
    verb.add_argument(
        "policy", nargs="?", metavar="BUNDLE", help="a bundle or module:function; without it the robot holds still"
    )
    verb.add_argument(
        "--video", metavar="FILE", help="write .mp4 or .gif, 30 frames a simulated second, instead of playing live"
    )
    verb.add_argument("--host", default="127.0.0.1", help="live: whom to serve (default 127.0.0.1: this machine alone)")
    verb.add_argument("--port", type=port, default=8080, help="live: where (default 8080; 0 is any that is free)")
    verb.add_argument(
        "--speed", type=rate, default=1.0, metavar="X", help="live: simulated seconds a second (default 1)"
    )
    verb.add_argument("--engine", default=DEFAULT_ENGINE, metavar="NAME", help=f"one of {', '.join(ENGINES)}")
    add_robot(verb)
    verb.add_argument(
        "--episodes",
        type=count,
        metavar="N",
        help="of a film (default 3); live: end after so many, each cut at its time limit (default: no end)",
    )
    verb.add_argument("--seed", type=whole, default=0)
    verb.add_argument("--randomization", metavar="PRESET|FILE|none", default="none")
    verb.add_argument(
        "--parameter",
        type=named_number,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of the robot, e.g. push.speed=1; repeatable",
    )
    verb.add_argument(
        "--goal",
        type=named_numbers,
        action="append",
        default=[],
        metavar="NAME=VALUE,...",
        help="instead of a drawn one, e.g. velocity_command=0.5; repeatable",
    )
    verb.add_argument("--force", action="store_true", help="replace an earlier film")


def _replay(verbs: Any) -> None:
    def run(options: argparse.Namespace) -> Outcome:
        from simtoreal.film import replay

        result = replay(
            options.folder,
            options.case,
            bundle=options.bundle,
            task=options.task,
            robot=options.robot,
            video=options.video,
            force=options.force,
        )
        if not options.json:
            how = "identical" if result.identical else f"DIFFERENT in {', '.join(result.differing)}"
            returns = f"return {result.replayed_return!r}, recorded {result.recorded_return!r}"
            print(f"{result.case} by {result.bundle}: {returns}: {how}")
            print(f"{success_text(result.success)} after {result.length} steps")
            if result.video:
                print(f"film: {result.video}")
        return result.to_json(), DONE if result.identical else NO

    verb = make_verb(verbs, "replay", run)
    verb.add_argument("folder", metavar="DIR", help="an evaluation")
    verb.add_argument("case", metavar="CASE", help="suite/condition/number, as the report prints it")
    verb.add_argument("--bundle", metavar="NAME", help="where several were judged, or a module:function")
    verb.add_argument("--task", metavar="TASK", help="where it is a module:Id-v0")
    add_moved_robot(verb)
    verb.add_argument("--video", metavar="FILE", help=".mp4 or .gif")
    verb.add_argument("--force", action="store_true", help="replace an earlier film")


VERBS = (_tasks, _inspect, _play, _replay)
