"""The verbs of the command line: what each takes, calls and prints."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from simtoreal.arguments import count, named_number, named_numbers, once_each, seconds, whole

# Heavy imports stay inside the verbs, so that --help answers at once.

DONE, NO = 0, 1
ONE_LINE = {
    "tasks": "list tasks, algorithms, presets and suites",
    "play": "look at a task or a policy, in a window or as a film",
    "train": "train a policy and leave a run folder",
    "finetune": "fine-tune a policy on a robot within a budget of robot seconds; keep the base unless it is better",
    "import": "make a run of somebody's Stable-Baselines3 zip, without unpickling it",
    "export": "turn a run into a self-describing ONNX bundle",
    "verify": "check a bundle: integrity, contract, parity with torch, latency",
    "evaluate": "judge bundles over suites and write a report",
    "replay": "run one evaluated episode again, exactly",
    "demo": "the whole way on one robot, in minutes",
    "bench": "the benchmarks, as a table",
}

Outcome = tuple[dict[str, Any], int]


def _verb(verbs: Any, name: str, run: Callable[[argparse.Namespace], Outcome]) -> argparse.ArgumentParser:
    verb: argparse.ArgumentParser = verbs.add_parser(
        name, description=ONE_LINE[name].capitalize() + ".", help=ONE_LINE[name]
    )
    verb.add_argument("--json", action="store_true", help="the result as one JSON object on stdout")
    verb.set_defaults(run=run)
    return verb


def _success(reached: bool | None) -> str:
    return {True: "success", False: "no success", None: "this task reports no success"}[reached]


def _tasks(verbs: Any) -> None:
    def run(options: argparse.Namespace) -> Outcome:
        from simtoreal.listing import print_listing, print_preset, tasks

        if options.preset is not None:
            table = print_preset(options.preset, quiet=options.json)
            return table, DONE
        found = tasks()
        if not options.json:
            print_listing(found)
        return found, DONE

    verb = _verb(verbs, "tasks", run)
    verb.add_argument(
        "--preset", metavar="NAME|FILE", help="print one preset as a table, with the source of each range"
    )


def _play(verbs: Any) -> None:
    def run(options: argparse.Namespace) -> Outcome:
        from simtoreal.film import play
        from simtoreal.progress import counting_progress

        with counting_progress("steps") as progress:
            result = play(
                options.task,
                options.policy,
                video=options.video,
                episodes=options.episodes,
                seed=options.seed,
                randomization=options.randomization,
                parameters=once_each("--parameter", options.parameter),
                goal=once_each("--goal", options.goal),
                force=options.force,
                progress=progress,
            )
        if not options.json:
            for number, o in enumerate(result.outcomes):
                why = f" ({o.unmet})" if o.unmet else ""
                print(f"episode {number}: return {o.return_:.2f}, {_success(o.success)}{why}, {o.length} steps")
            if result.video:
                print(f"film: {result.video}")
        return result.to_json(), DONE

    verb = _verb(verbs, "play", run)
    verb.add_argument("task", metavar="TASK")
    verb.add_argument(
        "policy", nargs="?", metavar="BUNDLE", help="a bundle or module:function; without it the robot holds still"
    )
    verb.add_argument("--video", metavar="FILE", help="write .mp4 or .gif instead of opening a window")
    verb.add_argument("--episodes", type=count, default=3)
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


def _train(verbs: Any) -> None:
    def run(options: argparse.Namespace) -> Outcome:
        from simtoreal.progress import training_progress
        from simtoreal.train import train

        if options.steps is None and not options.resume:
            raise ValueError("train: --steps is required, unless --resume goes on with a run")
        with training_progress(options.steps, f"{options.task} {options.algorithm or ''}".strip()) as reporter:
            result = train(
                options.task,
                algorithm=options.algorithm,
                steps=options.steps,
                seed=options.seed,
                out=options.out,
                randomization=options.randomization,
                device=options.device,
                envs=options.envs,
                workers=options.workers,
                checkpoint_every=options.checkpoint_every,
                config_file=options.config,
                assignments=options.set,
                force=options.force,
                resume=options.resume,
                fall_back=options.fall_back,
                reporter=reporter,
            )
        if not options.json:
            success = "" if result.best_success is None else f", success {result.best_success:.0%}"
            if result.was_finished:
                print(f"{result.run} was finished already; --resume with more --steps trains on")
            print(
                f"{result.steps:,} steps in {result.wall_seconds:.0f} s; best checkpoint at {result.best_step:,}: "
                f"return {result.best_return:.2f}{success} (training conditions, fresh episodes)\nrun: {result.run}"
            )
        return result.to_json(), DONE

    verb = _verb(verbs, "train", run)
    verb.add_argument("task", metavar="TASK", help="ours by short name, or any gymnasium id")
    verb.add_argument("--algorithm", metavar="NAME", help="one that `simtoreal tasks` lists (default sac)")
    verb.add_argument("--steps", type=count, metavar="N", help="environment steps, over all environments")
    verb.add_argument("--seed", type=whole)
    verb.add_argument("--out", required=True, metavar="RUN", help="the run folder to write")
    verb.add_argument("--randomization", metavar="PRESET|FILE|none", help="default: the task's own preset")
    verb.add_argument("--device", choices=("auto", "cpu", "cuda"))
    verb.add_argument("--envs", type=count, metavar="K", help="environments stepped together")
    verb.add_argument("--workers", type=whole, metavar="W", help="processes they are dealt to (default 0: this one)")
    verb.add_argument("--config", metavar="FILE", help="YAML with settings of the run")
    verb.add_argument(
        "--set", action="append", default=[], metavar="path=value", help="one setting, e.g. agent.gamma=0.98"
    )
    verb.add_argument(
        "--checkpoint-every", type=count, metavar="N", help="keep a checkpoint every N steps, beside best and last"
    )
    verb.add_argument("--force", action="store_true", help="replace an earlier run")
    verb.add_argument(
        "--resume", action="store_true", help="go on with the run from its newest checkpoint, bit for bit on a CPU"
    )
    verb.add_argument(
        "--fall-back", action="store_true", help="with --resume: where the newest is damaged, from the newest sound one"
    )


def _finetune(verbs: Any) -> None:
    def run(options: argparse.Namespace) -> Outcome:
        from simtoreal.finetune import finetune
        from simtoreal.progress import counting_progress

        with counting_progress("robot s") as progress:
            result = finetune(
                options.run_folder,
                target=options.target,
                robot_seconds=options.robot_seconds,
                out=options.out,
                checkpoint=options.checkpoint,
                seed=options.seed,
                max_falls=options.max_falls,
                max_stops=options.max_stops,
                max_violations=options.max_violations,
                assignments=options.set,
                force=options.force,
                progress=progress,
            )
        if not options.json:
            print(
                f"{result.reason}\n{result.robot_seconds:.0f} robot seconds, {result.rollouts} rollouts, "
                f"{result.falls} falls, {result.stops} stops, {result.violations} control steps beyond a limit, "
                f"{result.rollbacks} roll-backs\nrun: {result.run}"
            )
        return result.to_json(), DONE if result.accepted else NO

    verb = _verb(verbs, "finetune", run)
    verb.add_argument("run_folder", metavar="RUN")
    verb.add_argument(
        "--target", required=True, metavar="FILE|LINK", help="a target file, or a robot at tcp://HOST:PORT or unix:PATH"
    )
    verb.add_argument(
        "--robot-seconds", type=seconds, required=True, metavar="S", help="all the robot may spend, judging included"
    )
    verb.add_argument("--out", required=True, metavar="RUN2", help="the run folder to write")
    verb.add_argument("--checkpoint", default="best", metavar="best|last|STEP", help="of RUN, to start from")
    verb.add_argument("--seed", type=whole, default=0)
    verb.add_argument(
        "--max-falls", type=count, metavar="N", default=20, help="stop and keep the base then (default 20)"
    )
    verb.add_argument(
        "--max-stops", type=count, metavar="N", default=20, help="of its own: stop and keep the base then (default 20)"
    )
    verb.add_argument(
        "--max-violations",
        metavar="N",
        type=count,
        default=1_000,
        help="control steps beyond a limit: stop and keep the base then (default 1000)",
    )
    verb.add_argument(
        "--set", action="append", default=[], metavar="name=value", help="one setting of the learner, e.g. noise=0.05"
    )
    verb.add_argument("--force", action="store_true", help="replace an earlier run")


def _import(verbs: Any) -> None:
    def run(options: argparse.Namespace) -> Outcome:
        from simtoreal.imported import import_policy

        result = import_policy(options.model, task=options.task, out=options.out, force=options.force)
        if not options.json:
            print(f"{result.algorithm} of {result.steps:,} steps\nrun: {result.run}")
        return result.to_json(), DONE

    verb = _verb(verbs, "import", run)
    verb.add_argument("model", metavar="MODEL.zip", help="what SB3's model.save wrote, of SAC, TD3, PPO or DQN")
    verb.add_argument("--task", required=True, metavar="TASK", help="that it was trained on")
    verb.add_argument("--out", required=True, metavar="RUN", help="the run folder to write")
    verb.add_argument("--force", action="store_true", help="replace an earlier run")


def _export(verbs: Any) -> None:
    def run(options: argparse.Namespace) -> Outcome:
        from simtoreal.bundles import export

        path = export(options.run_folder, options.out, checkpoint=options.checkpoint, force=options.force)
        if not options.json:
            print(f"bundle: {path}")
        return {"bundle": str(path)}, DONE

    verb = _verb(verbs, "export", run)
    verb.add_argument("run_folder", metavar="RUN")
    verb.add_argument("--out", required=True, metavar="BUNDLE")
    verb.add_argument("--checkpoint", default="best", metavar="best|last|STEP")
    verb.add_argument("--force", action="store_true", help="replace an earlier bundle")


def _verify(verbs: Any) -> None:
    def run(options: argparse.Namespace) -> Outcome:
        from simtoreal.bundles import verify

        result = verify(options.bundle, run=options.run_folder)
        if not options.json:
            for check in result.checks:
                print(f"{'ok  ' if check.passed else 'FAIL'}  {check.name:<12}  {check.detail}")
            for reason in result.skipped:
                print(f"skip  {reason}")
            passed = "passed, but for what was skipped" if result.skipped else "passed"
            print(passed if result.passed else "not passed")
        return result.to_json(), DONE if result.passed else NO

    verb = _verb(verbs, "verify", run)
    verb.add_argument("bundle", metavar="BUNDLE")
    verb.add_argument(
        "--run", dest="run_folder", metavar="RUN", help="the run it came from (default: as the bundle says)"
    )


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
                engine=options.engine,
                workers=options.workers,
                gates=options.gate,
                task=options.task,
                force=options.force,
                progress=progress,
            )
        if not options.json:
            for sentence in verdict(result.summary, result.comparisons):
                print(sentence)
            for gate in result.gates:
                print(gate.text)
            print(f"report: {result.report}")
        return result.to_json(), DONE if result.passed else NO

    verb = _verb(verbs, "evaluate", run)
    verb.add_argument("policies", nargs="+", metavar="BUNDLE|module:function")
    verb.add_argument(
        "--suite", action="append", default=[], metavar="NAME|FILE", help="repeatable; default: all of the task"
    )
    verb.add_argument("--episodes", type=count, default=20, help="for each condition (default 20)")
    verb.add_argument("--seed", type=whole, default=0)
    verb.add_argument("--out", required=True, metavar="DIR")
    verb.add_argument("--engine", default="pybullet", metavar="NAME")
    verb.add_argument("--workers", type=count, default=1, metavar="K")
    verb.add_argument(
        "--gate",
        action="append",
        default=[],
        metavar="GATE",
        help="[suite/condition:]metric op number, e.g. 'success >= 0.9'",
    )
    verb.add_argument("--task", metavar="TASK", help="where only controllers are judged")
    verb.add_argument("--force", action="store_true", help="replace an earlier evaluation")


def _replay(verbs: Any) -> None:
    def run(options: argparse.Namespace) -> Outcome:
        from simtoreal.film import replay

        result = replay(
            options.folder,
            options.case,
            bundle=options.bundle,
            task=options.task,
            video=options.video,
            force=options.force,
        )
        if not options.json:
            how = "identical" if result.identical else f"DIFFERENT in {', '.join(result.differing)}"
            returns = f"return {result.replayed_return!r}, recorded {result.recorded_return!r}"
            print(f"{result.case} by {result.bundle}: {returns}: {how}")
            print(f"{_success(result.success)} after {result.length} steps")
            if result.video:
                print(f"film: {result.video}")
        return result.to_json(), DONE if result.identical else NO

    verb = _verb(verbs, "replay", run)
    verb.add_argument("folder", metavar="DIR", help="an evaluation")
    verb.add_argument("case", metavar="CASE", help="suite/condition/number, as the report prints it")
    verb.add_argument("--bundle", metavar="NAME", help="where several were judged, or a module:function")
    verb.add_argument("--task", metavar="TASK", help="where it is a module:Id-v0")
    verb.add_argument("--video", metavar="FILE", help=".mp4 or .gif")
    verb.add_argument("--force", action="store_true", help="replace an earlier film")


def _demo(verbs: Any) -> None:
    def run(options: argparse.Namespace) -> Outcome:
        from simtoreal.demo import demo, print_result

        def say(text: str) -> None:
            print(text, file=sys.stderr if options.json else sys.stdout, flush=True)

        result = demo(options.task, out=options.out, seed=options.seed, force=options.force, say=say)
        print_result(result, say)
        return result.to_json(), DONE if result.verified else NO

    verb = _verb(verbs, "demo", run)
    verb.add_argument("task", nargs="?", default="PandaReach", metavar="TASK")
    verb.add_argument("--out", default="runs/demo", metavar="DIR")
    verb.add_argument("--seed", type=whole, default=0)
    verb.add_argument("--force", action="store_true", help="replace an earlier demo")


def _bench(verbs: Any) -> None:
    def run(options: argparse.Namespace) -> Outcome:
        from simtoreal.bench import bench, print_bench

        result = bench(options.names, rounds=options.rounds)
        if not options.json:
            print_bench(result)
        return result, DONE

    verb = _verb(verbs, "bench", run)
    verb.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="step, reset, update, loop, inference, workers, gpu (default: all that can be)",
    )
    verb.add_argument("--rounds", type=count, default=5, help="interleaved repetitions (default 5)")


VERBS = (
    _tasks,
    _play,
    _train,
    _finetune,
    _import,
    _export,
    _verify,
    _evaluate,
    _replay,
    _demo,
    _bench,
)
