"""Learn: train, fine-tune, take what somebody trained."""

from __future__ import annotations

import argparse
from typing import Any

from simtoreal.arguments import count, seconds, whole
from simtoreal.robots.engines import ENGINES
from simtoreal.verbs.verb import DONE, NO, Outcome, add_moved_robot, add_robot, make_verb


def _train(verbs: Any) -> None:
    def run(options: argparse.Namespace) -> Outcome:
        from simtoreal.progress import training_progress
        from simtoreal.train import train

        with training_progress(f"{options.task} {options.algorithm or ''}".strip()) as reporter:
            result = train(
                options.task,
                algorithm=options.algorithm,
                steps=options.steps,
                seed=options.seed,
                out=options.out,
                randomization=options.randomization,
                curriculum=options.curriculum,
                engine=options.engine,
                robot=options.robot,
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

    verb = make_verb(verbs, "train", run)
    verb.add_argument("task", metavar="TASK", help="ours by short name, or any gymnasium id")
    verb.add_argument(
        "--algorithm", metavar="NAME", help="one that `simtoreal tasks` lists (default: the task's own, else sac)"
    )
    verb.add_argument(
        "--steps", type=count, metavar="N", help="environment steps, over all environments (default: the recipe's)"
    )
    verb.add_argument("--seed", type=whole)
    verb.add_argument("--out", required=True, metavar="RUN", help="the run folder to write")
    verb.add_argument("--randomization", metavar="PRESET|FILE|none", help="default: the task's own preset")
    verb.add_argument(
        "--curriculum",
        choices=("adr", "success"),
        help="ranges begin at nominal and widen as they are mastered: each by itself, or all together",
    )
    verb.add_argument("--engine", metavar="NAME", help=f"of a task of ours: {', '.join(ENGINES)}")
    add_robot(verb)
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
                robot=options.robot,
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

    verb = make_verb(verbs, "finetune", run)
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
    add_moved_robot(verb)
    verb.add_argument("--force", action="store_true", help="replace an earlier run")


def _distill(verbs: Any) -> None:
    def run(options: argparse.Namespace) -> Outcome:
        from simtoreal.distill import distill
        from simtoreal.progress import counting_progress

        with counting_progress("steps") as progress:
            result = distill(
                options.run_folder,
                out=options.out,
                steps=options.steps,
                checkpoint=options.checkpoint,
                seed=options.seed,
                assignments=options.set,
                robot=options.robot,
                force=options.force,
                progress=progress,
            )
        if not options.json:
            told, theirs = (
                "" if rate is None else f", success {rate:.0%}" for rate in (result.success, result.teacher_success)
            )
            print(
                f"{result.steps:,} steps in {result.wall_seconds:.0f} s; return {result.mean_return:.2f}{told}, of its "
                f"teacher {result.teacher_return:.2f}{theirs} (training conditions, fresh episodes)\nrun: {result.run}"
            )
        return result.to_json(), DONE

    verb = make_verb(verbs, "distill", run)
    verb.add_argument("run_folder", metavar="RUN", help="of a teacher: --set teacher=true --set privileged=true")
    verb.add_argument("--out", required=True, metavar="RUN2", help="the run folder to write")
    verb.add_argument("--steps", type=count, metavar="N", default=40_000, help="of the environments (default 40000)")
    verb.add_argument("--checkpoint", default="best", metavar="best|last|STEP", help="of RUN")
    verb.add_argument("--seed", type=whole, default=0)
    verb.add_argument("--set", action="append", default=[], metavar="name=value", help="one setting, e.g. history=32")
    add_moved_robot(verb)
    verb.add_argument("--force", action="store_true", help="replace an earlier run")


def _import(verbs: Any) -> None:
    def run(options: argparse.Namespace) -> Outcome:
        from simtoreal.imported import import_policy

        result = import_policy(
            options.model, task=options.task, robot=options.robot, out=options.out, force=options.force
        )
        if not options.json:
            print(f"{result.algorithm} of {result.steps:,} steps\nrun: {result.run}")
        return result.to_json(), DONE

    verb = make_verb(verbs, "import", run)
    verb.add_argument("model", metavar="MODEL.zip", help="what SB3's model.save wrote, of SAC, TD3, PPO or DQN")
    verb.add_argument("--task", required=True, metavar="TASK", help="that it was trained on")
    add_robot(verb)
    verb.add_argument("--out", required=True, metavar="RUN", help="the run folder to write")
    verb.add_argument("--force", action="store_true", help="replace an earlier run")


VERBS = (_train, _finetune, _distill, _import)
