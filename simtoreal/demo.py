"""The whole way on one robot: train, export, verify, judge, film."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simtoreal import build
from simtoreal.bundles import export, verify
from simtoreal.config import ConfigError, default_algorithm
from simtoreal.evaluate import Evaluation, evaluate
from simtoreal.playing import play
from simtoreal.robots.engines import DEFAULT_ENGINE
from simtoreal.runs import METRICS, claimed_output, output_path, write_json
from simtoreal.statistics import suite_in
from simtoreal.verdict import points, rate

MARKER = "demo.json"
LOOK_EVERY = 1.0  # [s]


@dataclass(frozen=True)
class Plan:
    """How long the demo of a task trains, and on how many episodes a condition it is judged."""

    steps: int
    episodes: int


PLANS = {
    "PandaReach": Plan(15_000, 20),
    "CartPoleSwingUp": Plan(30_000, 10),
    "CartPoleBalance": Plan(12_000, 10),
    "CartPoleBalanceDiscrete": Plan(40_000, 10),
    "A1Walk": Plan(70_000, 4),
}

Say = Callable[[str], None]


class DemoError(RuntimeError):
    """A stage of the demo failed."""


@dataclass(frozen=True)
class DemoResult:
    """Where everything lies and what came out."""

    out: Path
    report: Path
    film: Path
    seconds: float
    verified: bool
    table: tuple[tuple[str, str], ...]
    next_commands: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        plain = {name: str(value) if isinstance(value, Path) else value for name, value in vars(self).items()}
        return plain | {"table": dict(self.table)}


def demo(
    task: str = "PandaReach",
    *,
    out: str | Path = "runs/demo",
    seed: int = 0,
    engine: str = DEFAULT_ENGINE,
    force: bool = False,
    say: Say = print,
) -> DemoResult:
    """Train with and without randomization side by side, export and verify both, judge them on robots that neither has
    met, and film the randomized one.

    Raises:
        ConfigError: a task without a demo, or no such engine; RunError: `out` is in the way; DemoError: a training
            failed.
    """
    name = build.short_name(build.task_id(task))
    if name not in PLANS:
        raise ConfigError(f"no demo of {task}; demos: {', '.join(PLANS)}")
    build.make_env(build.task_id(name), engine=engine).close()
    folder = output_path(out)
    with claimed_output(folder, force=force, marker=MARKER):
        write_json(folder / MARKER, {"task": name, "seed": seed, "finished": False})
    return _whole_way(name, PLANS[name], folder, seed, engine, force, say)


def _whole_way(name: str, plan: Plan, folder: Path, seed: int, engine: str, force: bool, say: Say) -> DemoResult:
    began = time.perf_counter()
    kinds = {"randomized": name, "plain": "none"}
    say(
        f"1/5 training {default_algorithm(name).upper()} twice, side by side, {plan.steps:,} steps each: on randomized "
        "robots, and on the nominal one"
    )
    trained = _train(name, kinds, plan.steps, seed, engine, folder, say)
    say("2/5 exporting both as ONNX bundles")
    bundles = {kind: export(folder / f"run-{kind}", folder / kind, force=force) for kind in kinds}
    say("3/5 verifying: hashes, golden vectors, and 1,000 control steps against torch")
    verified = all((checked := verify(bundle)).passed and not checked.skipped for bundle in bundles.values())
    say("4/5 judging both bundles on robots that neither has met")
    verdict = evaluate(
        list(bundles.values()),
        out=folder / "verdict",
        episodes=plan.episodes,
        seed=seed,
        engine=engine,
        workers=2,
        force=force,
    )
    say("5/5 filming the randomized policy")
    film = folder / f"{name}.mp4"
    play(name, str(bundles["randomized"]), video=film, episodes=3, seed=seed, engine=engine, force=force)
    result = DemoResult(
        out=folder,
        report=verdict.report,
        film=film,
        seconds=time.perf_counter() - began,
        verified=verified,
        table=tuple(_table(verdict, trained, verified, engine)),
        next_commands=_next_commands(name, verdict, folder, plan.steps, engine),
    )
    write_json(folder / MARKER, {"task": name, "seed": seed, "finished": True, **result.to_json()})
    return result


def _train(
    task: str, kinds: Mapping[str, str], steps: int, seed: int, engine: str, folder: Path, say: Say
) -> dict[str, dict[str, Any]]:
    """Train each kind in a process of its own; what each printed with --json."""
    running: dict[str, subprocess.Popen[str]] = {}
    try:
        for kind, randomization in kinds.items():
            arguments = ["train", task, "--steps", str(steps), "--seed", str(seed), "--randomization", randomization]
            arguments += ["--engine", engine, "--out", str(folder / f"run-{kind}"), "--force", "--json"]
            (folder / f"run-{kind}" / METRICS).unlink(missing_ok=True)
            with (folder / f"run-{kind}.log").open("w") as log:
                running[kind] = subprocess.Popen(
                    [sys.executable, "-m", "simtoreal", *arguments], stdout=subprocess.PIPE, stderr=log, text=True
                )
        shown = 0
        while any(process.poll() is None for process in running.values()):
            time.sleep(LOOK_EVERY)
            latest = {kind: _latest(folder / f"run-{kind}" / METRICS) for kind in running}
            step = min(line.get("step", 0) for line in latest.values())
            if step // 2_000 > shown:
                shown = step // 2_000
                figures = ", ".join(
                    f"{kind} {line.get('rollout/success_rate', 0.0):.0%}" for kind, line in latest.items()
                )
                say(f"    {step:>6,} of {steps:,} steps; success while exploring: {figures}")
        done = {kind: (process, process.communicate()[0]) for kind, process in running.items()}
    finally:
        for process in running.values():
            if process.poll() is None:
                process.terminate()
                process.wait()
    for kind, (process, _) in done.items():
        if process.returncode != 0:
            said = (folder / f"run-{kind}.log").read_text().strip()[-500:]
            raise DemoError(f"training {kind} failed with exit code {process.returncode}: {said}")
    return {kind: json.loads(output) for kind, (_, output) in done.items()}


def _latest(path: Path) -> dict[str, Any]:
    """The last whole line of training figures, {} before there is one."""
    lines = path.read_text().splitlines() if path.is_file() else []
    for line in reversed(lines):
        if "rollout/ep_rew_mean" in line and line.endswith("}"):
            found: dict[str, Any] = json.loads(line)
            return found
    return {}


def _table(
    verdict: Evaluation, trained: Mapping[str, Mapping[str, Any]], verified: bool, engine: str
) -> Iterator[tuple[str, str]]:
    """About ten lines a newcomer understands: what was measured, and the figure."""
    seconds = max(result["wall_seconds"] for result in trained.values())
    yield "training, both side by side", f"{seconds:.0f} s"
    yield "bundles verified against torch", "yes" if verified else "NO"
    for suite, title in (
        ("nominal", "nominal robot"),
        ("train", "robots like those in training"),
        ("heldout", "robots never seen"),
    ):
        for bundle in verdict.summary.bundles:
            found = verdict.summary.find(bundle, suite_in(engine, suite))
            if found is not None:
                yield f"success, {title}: {bundle}", rate(found.pooled)
    for comparison in verdict.comparisons:
        if comparison.suite == suite_in(engine, "heldout") and comparison.metric == "success":
            yield f"never seen: {comparison.a} minus {comparison.b}", points(comparison.difference)
    hardest = verdict.summary.find("randomized", suite_in(engine, "heldout"))
    if hardest is not None and hardest.weakest_single is not None:
        yield "its weakest single condition", str(hardest.weakest_single.condition)


def _next_commands(task: str, verdict: Evaluation, folder: Path, steps: int, engine: str) -> tuple[str, ...]:
    unseen = [e for e in verdict.episodes if e.bundle == "randomized" and e.suite == suite_in(engine, "heldout")]
    failed = [e for e in unseen if not e.success]
    case = failed[0] if failed else verdict.episodes[-1]
    quoted = [shlex.quote(str(folder / part)) for part in ("verdict", "randomized")]
    where = "" if engine == DEFAULT_ENGINE else f" --engine {engine}"
    gate = "--gate 'success >= 0.5'"
    return (
        f"simtoreal replay {quoted[0]} {case.suite}/{case.case} --bundle {case.bundle} --video failure.mp4",
        f"simtoreal evaluate {quoted[1]} --suite heldout{where} --episodes 100 --out runs/verdict {gate}",
        f"simtoreal train {task}{where} --steps {2 * steps} --seed 1 --out runs/mine",
    )


def print_result(result: DemoResult, say: Say) -> None:
    """The closing table, the report's path and what to try next."""
    width = max(len(label) for label, _ in result.table)
    say("")
    for label, figure in result.table:
        say(f"  {label:<{width}}  {figure}")
    say("")
    say(f"  report  {result.report}")
    say(f"  film    {result.film}")
    say(f"  took    {result.seconds:.0f} s")
    say("")
    say("Try next (with the environment active, or as .venv/bin/simtoreal):")
    for command in result.next_commands:
        say(f"  {command}")
