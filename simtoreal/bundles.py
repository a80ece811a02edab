"""From a run to a bundle, and what must hold of a bundle."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from simtoreal import build
from simtoreal.contract import Contract
from simtoreal.export.bundle import write_bundle
from simtoreal.export.onboard.runtime import Runtime, relative_error
from simtoreal.export.onnx import ExportError, PolicyGraph
from simtoreal.export.verify import Check, ClosedLoop, verify_bundle
from simtoreal.policies.deterministic import DeterministicActor
from simtoreal.policies.history import Driver
from simtoreal.policies.levels import grid
from simtoreal.robot_files import same_task, split_task
from simtoreal.runs import Run, RunError, output_path, versions

RECORDED_STEPS = 1_000  # of observations that go into the golden vectors
RECORDED_IMAGES = 100  # evenly spaced among them, where observations are images
CLOSED_LOOP_STEPS = 1_000


def export(
    run: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    checkpoint: str = "best",
    robot: str | None = None,
    force: bool = False,
) -> Path:
    """Write checkpoint `checkpoint` ("best", "last" or a step) of a run as the bundle folder `out`.

    Args:
        robot: the robot file of the run's task, where it lies elsewhere now.

    Raises:
        ValueError: the robot file is no longer the one that the run was trained on.
        RunError, CheckpointError: no such run or checkpoint, or a damaged one.
        ExportError: `out` exists and `force` is False, or ONNX and torch disagree.
    """
    target = output_path(out)
    source = Run.load(run, robot=robot)
    source.check_leaves("exported")
    actor, meta = source.actor(checkpoint)
    source.check_robot()
    env = build.make_training_env(source.frozen_config, 0, source.config.seed + build.EVALUATION_SEED)
    try:
        contract = Contract.of(build.task_id(source.config.task), env)
        _check_sizes(actor, contract, source)
        spec = contract.spec(
            algorithm=source.config.algorithm,
            training_ranges={name: (low, high) for name, (low, high) in source.summary["training_ranges"].items()},
            provenance={
                "run": os.path.relpath(source.path.resolve(), target.resolve()),
                "checkpoint": meta["step"],
                "seed": source.config.seed,
                "engine": source.config.engine,
                "randomization": source.config.randomization,
                "best": source.summary["best"],
                "versions": versions(),
                **({"robot": source.config.robot} if source.config.robot else {}),
            },
            history=actor.history,
            recurrent=actor.recurrent,
            choices=grid(actor.levels or (actor.choices,)) if actor.choices else None,
        )
        driver = Driver(actor)
        every = 1 if contract.image is None else RECORDED_STEPS // RECORDED_IMAGES
        driven = enumerate(_drive(env, driver, RECORDED_STEPS))
        recorded = np.stack([driver.stack for step, _ in driven if step % every == 0])
    finally:
        env.close()
    return write_bundle(target, actor=actor, spec=spec, recorded_observations=recorded, force=force)


def _check_sizes(actor: DeterministicActor, contract: Contract, run: Run) -> None:
    made_for = (actor.image or actor.observation_size, actor.action_size)
    sizes = (contract.image or contract.observation.size, contract.command.size)
    if made_for != sizes:
        raise RunError(
            f"{run.path}: its actor maps {made_for[0]} observations to {made_for[1]} actions, "
            f"task {contract.task} has {sizes[0]} and {sizes[1]}"
        )


class Policy(Protocol):
    """Who drives: observation [n], or an image, -> action [m] in [-1, 1], one episode after another."""

    def reset(self) -> None: ...

    def act(self, obs: NDArray[Any]) -> NDArray[np.float32]: ...


def _drive(env: gym.Env[Any, Any], policy: Policy, steps: int) -> Iterator[None]:
    """`steps` control steps in which `policy` drives; yields at each when it has acted."""
    obs, _ = env.reset()
    policy.reset()
    for _ in range(steps):
        action = policy.act(build.policy_part(obs))
        yield
        obs, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            obs, _ = env.reset()
            policy.reset()


class _Compared:
    """The bundle's runtime as a policy, with torch beside it."""

    def __init__(self, loop: ClosedLoop, contract: Contract) -> None:
        self._loop, self._contract = loop, contract
        self.reset = loop.reset

    def act(self, obs: NDArray[Any]) -> NDArray[np.float32]:
        return self._contract.action(self._loop.act(obs), obs).astype(np.float32)


@dataclass(frozen=True)
class Verification:
    """What `verify` found; `passed` if every check that was made did, `skipped` what could not be checked and why."""

    bundle: Path
    checks: tuple[Check, ...]
    skipped: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        checks = [asdict(check) for check in self.checks]
        return {"bundle": str(self.bundle), "passed": self.passed, "checks": checks, "skipped": list(self.skipped)}


def verify(
    bundle: str | os.PathLike[str], *, run: str | os.PathLike[str] | None = None, robot: str | None = None
) -> Verification:
    """Check a bundle: integrity, contract, ONNX, golden vectors, batches, latency, and 1,000 control steps in which the
    bundle's runtime drives the task and torch sees the same raw observations.

    Args:
        run: the run it was exported from; None takes the one its provenance names. If that is not there (the bundle was
            copied away from it) there is no torch policy to drive beside, and the check "closed loop" is skipped.
        robot: the robot file of its task, where it lies elsewhere than the bundle or the run says.

    Raises:
        ValueError: the robot file is no longer the one that the run was trained on.
        SpecError: the bundle must not be armed: tampered with, damaged, of a newer format.
        RunError: `run` was given and is no run; or the run is another than the bundle was exported from.
    """
    path = Path(bundle)
    checks = verify_bundle(path)
    if not all(check.passed for check in checks if check.name != "latency"):
        return Verification(path, tuple(checks), ("closed loop: it does not drive after a check that it did not pass",))
    runtime = Runtime(path)
    provenance = runtime.spec.provenance
    source = Path(run) if run is not None else path / str(provenance.get("run", ""))
    if run is None and not (source / "config.yaml").is_file():
        reason = f"closed loop: the run it came from is not at {source}; name it with --run"
        return Verification(path, tuple(checks), (reason,))
    origin = Run.load(source, robot=robot or _robot_file(runtime.spec.task))
    graph = _exported_network(origin, runtime)
    origin.check_robot()
    env = build.make_training_env(origin.frozen_config, 0, origin.config.seed + 2 * build.EVALUATION_SEED)
    try:
        contract = Contract.of(runtime.spec.task, env)
        contract.check(runtime.spec, str(path))
        loop = ClosedLoop(runtime, graph)
        deque(_drive(env, _Compared(loop, contract), CLOSED_LOOP_STEPS), maxlen=0)
    finally:
        env.close()
    parity = loop.parity()
    detail = (
        f"{parity.steps} control steps, largest |onnx - torch| {parity.worst:.1e} of the command's range "
        f"at step {parity.worst_step}, tolerance {parity.tolerance:.0e}"
    )
    return Verification(path, (*checks, Check("closed loop", parity.held, detail, parity.worst)))


def _robot_file(task: str) -> str | None:
    """Where the robot file of a bundle's task is, if that is of one and it is there."""
    found = split_task(task)
    return str(found[0]) if found is not None and found[0].is_file() else None


def _exported_network(run: Run, runtime: Runtime) -> PolicyGraph:
    """The network that a bundle was exported from: it gives the answers that the bundle has of it, its golden vectors.

    Raises:
        RunError: the run is of another task, algorithm or seed, has no such checkpoint, or one that answers otherwise.
        CheckpointError: a damaged checkpoint.
    """
    spec = runtime.spec
    for what, its, found in (
        ("task", spec.task, build.task_id(run.config.task)),
        ("algorithm", spec.algorithm, run.config.algorithm),
        ("seed", spec.provenance.get("seed", run.config.seed), run.config.seed),
    ):
        if found != its and not same_task(str(found), str(its)):
            raise RunError(f"{runtime.bundle} was not exported from {run.path}: its {what} is {its}, the run's {found}")
    step = str(spec.provenance.get("checkpoint", "best"))
    actor, _ = run.actor(step)
    other = f"{runtime.bundle} was not exported from checkpoint {step} of {run.path}"
    try:
        graph = PolicyGraph(actor, spec)
    except ExportError as error:
        raise RunError(f"{other}: {error}") from None
    rows, answers = runtime.golden()
    worst = float(relative_error(graph.answers(rows), answers, spec).max())
    if not worst <= spec.tolerance:
        raise RunError(
            f"{other}: on the bundle's golden vectors that policy differs by {worst:.1e} of the command's range"
        )
    return graph
