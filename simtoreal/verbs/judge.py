"""Judge: policies over suites, the whole way, the benchmarks."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from simtoreal.arguments import count, whole
from simtoreal.robots.engines import DEFAULT_ENGINE, ENGINES
from simtoreal.verbs.verb import DONE, NO, Outcome, add_robot, make_verb


def _evaluate(verbs: Any) -> None:
    def run(options: argparse.Namespace) -> Outcome:
        from simtoreal.evaluate import evaluate
        from simtoreal.progress import counting_progress
        from simtoreal.verdict import verdict

        with counting_progress("episodes") as progress:
            result = evaluate(
                options.policies,
                out=options.out,
                suites=options.suite,
                episodes=options.episodes,
                seed=options.seed,
                engine=options.engine or DEFAULT_ENGINE,
                workers=options.workers,
                gates=options.gate,
                task=options.task,
                robot=options.robot,
                force=options.force,
                progress=progress,
            )
        if not options.json:
            for sentence in verdict(result.summary, result.comparisons, result.engine_comparisons):
                print(sentence)
            for gate in result.gates:
                print(gate.text)
            print(f"report: {result.report}")
        return result.to_json(), DONE if result.passed else NO

    verb = make_verb(verbs, "evaluate", run)
    verb.add_argument("policies", nargs="+", metavar="BUNDLE|module:function")
    verb.add_argument(
        "--suite", action="append", default=[], metavar="NAME|FILE", help="repeatable; default: all of the task"
    )
    verb.add_argument("--episodes", type=count, default=20, help="for each condition (default 20)")
    verb.add_argument("--seed", type=whole, default=0)
    verb.add_argument("--out", required=True, metavar="DIR")
    verb.add_argument(
        "--engine",
        action="append",
        default=[],
        metavar="NAME",
        help=f"repeatable; each suite is run in every one (default {DEFAULT_ENGINE}; {', '.join(ENGINES[1:])})",
    )
    verb.add_argument("--workers", type=count, default=1, metavar="K")
    verb.add_argument(
        "--gate",
        action="append",
        default=[],
        metavar="GATE",
        help="[suite/condition:]metric op number, e.g. 'success >= 0.9'",
    )
    verb.add_argument("--task", metavar="TASK", help="where only controllers are judged")
    add_robot(verb)
    verb.add_argument("--force", action="store_true", help="replace an earlier evaluation")


def _sensitivity(verbs: Any) -> None:
    def run(options: argparse.Namespace) -> Outcome:
        from simtoreal.progress import counting_progress
        from simtoreal.sensitivity import print_sensitivity, sensitivity

        with counting_progress("episodes") as progress:
            result = sensitivity(
                options.policy,
                out=options.out,
                randomization=options.randomization,
                method=options.method,
                metric=options.metric,
                trajectories=options.trajectories,
                episodes=options.episodes,
                seed=options.seed,
                engine=options.engine,
                workers=options.workers,
                task=options.task,
                robot=options.robot,
                force=options.force,
                progress=progress,
            )
        if not options.json:
            print_sensitivity(result)
        return result.to_json(), DONE

    verb = make_verb(verbs, "sensitivity", run)
    verb.add_argument("policy", metavar="BUNDLE|module:function")
    verb.add_argument("--out", required=True, metavar="DIR")
    verb.add_argument(
        "--randomization", metavar="PRESET|FILE", help="whose ranges are looked through (default: the task's preset)"
    )
    verb.add_argument("--method", default="morris", metavar="NAME", help="morris (default) or sobol")
    verb.add_argument("--metric", metavar="NAME", help="return (default) or success")
    verb.add_argument(
        "--trajectories",
        type=count,
        default=80,
        metavar="N",
        help="of the screening, each an episode more than the preset has entries (default 80; of sobol a power of two)",
    )
    verb.add_argument(
        "--episodes", type=count, default=20, metavar="N", help="for each end of each entry's range (default 20)"
    )
    verb.add_argument("--seed", type=whole, default=0)
    verb.add_argument("--engine", default=DEFAULT_ENGINE, metavar="NAME", help=f"one of {', '.join(ENGINES)}")
    verb.add_argument("--workers", type=count, default=1, metavar="K")
    verb.add_argument("--task", metavar="TASK", help="of a controller")
    add_robot(verb)
    verb.add_argument("--force", action="store_true", help="replace an earlier one")


def _demo(verbs: Any) -> None:
    def run(options: argparse.Namespace) -> Outcome:
        from simtoreal.demo import demo, print_result

        def say(text: str) -> None:
            print(text, file=sys.stderr if options.json else sys.stdout, flush=True)

        result = demo(
            options.task, out=options.out, seed=options.seed, engine=options.engine, force=options.force, say=say
        )
        print_result(result, say)
        return result.to_json(), DONE if result.verified else NO

    verb = make_verb(verbs, "demo", run)
    verb.add_argument("task", nargs="?", default="PandaReach", metavar="TASK")
    verb.add_argument("--out", default="runs/demo", metavar="DIR")
    verb.add_argument("--seed", type=whole, default=0)
    verb.add_argument("--engine", metavar="NAME", default=DEFAULT_ENGINE, help=f"one of {', '.join(ENGINES)}")
    verb.add_argument("--force", action="store_true", help="replace an earlier demo")


def _bench(verbs: Any) -> None:
    def run(options: argparse.Namespace) -> Outcome:
        from simtoreal.bench import bench, print_bench

        result = bench(options.names, rounds=options.rounds)
        if not options.json:
            print_bench(result)
        return result, DONE

    verb = make_verb(verbs, "bench", run)
    verb.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="step, reset, randomization, overhead, update, threads, loop, inference, dqn, workers, gpu "
        "(default: all that can be)",
    )
    verb.add_argument("--rounds", type=count, default=5, help="interleaved repetitions (default 5)")


VERBS = (_evaluate, _sensitivity, _demo, _bench)
