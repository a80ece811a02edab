"""Cases of a verdict, run by this process or by several."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import gymnasium as gym

from simtoreal import build
from simtoreal.contract import Contract
from simtoreal.episodes import Outcome, Policy, PolicySource, run_episode
from simtoreal.randomization.suites import Case


@dataclass(frozen=True)
class Job:
    """Some cases of one suite for one policy in one engine."""

    policy: int
    suite: str
    engine: str
    cases: tuple[Case, ...]


class Bench:
    """An environment for each engine and the opened policies: what a worker keeps between jobs."""

    def __init__(self, task: str, sources: Sequence[PolicySource]) -> None:
        self._sources = sources
        self._policies: dict[int, Policy] = {}
        self._task = task
        self._envs: dict[str, tuple[gym.Env[Any, Any], Contract]] = {}

    def run(self, job: Job) -> list[Outcome]:
        if job.policy not in self._policies:
            self._policies[job.policy] = self._sources[job.policy].open()
        policy = self._policies[job.policy]
        if job.engine not in self._envs:
            env = build.make_env(self._task, engine=job.engine)
            self._envs[job.engine] = env, Contract.of(self._task, env)
        env, contract = self._envs[job.engine]
        return [
            run_episode(
                env,
                contract,
                policy,
                seed=case.seed,
                parameters=case.parameters,
                schedule=None if case.schedule is None else case.schedule.begin(),
            )
            for case in job.cases
        ]

    def close(self) -> None:
        for env, _ in self._envs.values():
            env.close()


_bench: Bench | None = None


def _start_worker(task: str, sources: Sequence[PolicySource]) -> None:
    global _bench
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    _bench = Bench(task, sources)


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(job: Job) -> list[Outcome]:
    assert _bench is not None
    return _bench.run(job)


def run_jobs(
    jobs: Sequence[Job], task: str, sources: Sequence[PolicySource], workers: int
) -> Iterator[tuple[Job, list[Outcome]]]:
    """Every job with its outcomes, in the order of `jobs` whatever `workers` is.

    Raises:
        RuntimeError: a worker process died.
    """
    if workers == 1:
        bench = Bench(task, sources)
        try:
            for job in jobs:
                yield job, bench.run(job)
        finally:
            bench.close()
        return
    spawn, others = multiprocessing.get_context("spawn"), set(multiprocessing.active_children())
    with ProcessPoolExecutor(
        min(workers, len(jobs)), mp_context=spawn, initializer=_start_worker, initargs=(task, sources)
    ) as pool:
        try:
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Ctrl-C is not for the workers to answer
            try:
                futures = [pool.submit(_work, job) for job in jobs]
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            for job, future in zip(jobs, futures, strict=True):
                yield job, future.result()
        except BrokenProcessPool as error:
            reason = "a script that calls this with workers > 1 must do so under if __name__ == '__main__':"
            raise RuntimeError(f"an evaluation worker died, so nothing was written ({reason})") from error
        except BaseException:
            for worker in set(multiprocessing.active_children()) - others:
                worker.terminate()
            raise
