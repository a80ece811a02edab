"""Supervised worker processes, together one vector environment."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import pickle
import sys
import time
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from multiprocessing import resource_tracker
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import CloudpickleWrapper, batch_space
from numpy.typing import NDArray

from simtoreal import worker_process as w
from simtoreal.shared_memory import SharedBlock
from simtoreal.worker_handle import Died, Hung, Raised, Worker, WorkerError, WorkerRestart
from simtoreal.workers import EnvFactory, as_actions

START_TIMEOUT = 120.0  # [s] for a process to come up and make its environments: imports, on a busy machine
CLOSE_GRACE = 2.0  # [s] for all workers together to close their environments before they are killed
News = list[tuple[slice, dict[str, Any]]]  # of a step: rows, and what they have to say beside their arrays


class SignalRows(Sequence[Mapping[str, list[float]]]):
    """The reward signals of each environment, name -> numbers, made from one array [E, S] when they are looked at."""

    def __init__(self, values: NDArray[np.float64], slices: Mapping[str, slice]) -> None:
        self._values, self._slices = values, slices

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, i: Any) -> Any:
        row = self._values[i].tolist()
        return {name: row[part] for name, part in self._slices.items()}


class WorkerVectorEnv(VectorEnv[Any, NDArray[Any], NDArray[Any]]):
    """A `LocalVectorEnv` whose environments live in worker processes; the same results, bit for bit.

    Every step's numbers cross in shared memory; what has no fixed size (`final_info`, a reset's infos, a traceback)
    crosses on a pipe. Of a step's own infos only `physics_fault` and `reward_signals` cross, as `infos["valid"]` and
    `infos["reward_signals"]`; others are dropped until an episode's last, which `final_info` holds whole. The
    environments are dealt to the workers in order, as evenly as possible.

    A worker that dies in a step, or between steps, is replaced, up to `max_restarts` times each: its environments'
    transitions of that step are lost. They are marked by `infos["lost"]` [E] (only there when something was lost),
    invalid (`infos["valid"]`), truncated, with the last observation as `final_obs`; each environment goes on with its
    next episode. `restarts` counts, and a `WorkerRestart` warning says what happened.

    Args:
        factories: as for `LocalVectorEnv`; they are pickled (by cloudpickle, so a lambda will do).
        workers: processes; at most one an environment.
        timeout: [s] for a step, a reset or a call in all of a worker's environments.
        max_restarts: of each worker.
        start_method: "spawn" starts a clean interpreter: torch's and BLAS's threads, and whatever locks they hold, do
            not survive a fork. "fork" is for processes that have none, and starts at once.

    Raises:
        WorkerError: a worker could not start. Later, from any method: an environment raised, took longer than
            `timeout`, or a worker died once too often, or in a reset or a call. All workers are gone then.
        ValueError: no workers or more than environments, spaces that are no arrays, or not Linux.
    """

    def __init__(
        self,
        factories: Sequence[EnvFactory],
        workers: int,
        *,
        timeout: float = 60.0,
        max_restarts: int = 3,
        start_method: Literal["spawn", "fork"] = "spawn",
    ) -> None:
        self.closed = True  # there is nothing to close yet
        if not 1 <= workers <= len(factories):
            raise ValueError(f"from 1 worker to one for each of {len(factories)} environments, got {workers}")
        if sys.platform != "linux":
            raise ValueError("worker processes need Linux; use --workers 0")
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.num_envs = n = len(factories)
        self.restarts = 0
        self._timeout, self._max_restarts = timeout, max_restarts
        self._prototype = factories[0]()
        self.single_observation_space = self._prototype.observation_space
        self.single_action_space = self._prototype.action_space
        self.observation_space = batch_space(self.single_observation_space, n)
        self.action_space = batch_space(self.single_action_space, n)
        layout = self._prototype.get_wrapper_attr("reward_layout") if w.reward_size(self._prototype) else None
        self._slices: Mapping[str, slice] = layout.slices if layout is not None else {}
        self._seeds: list[int | None] = [None] * n
        self._kept: dict[str, tuple[Any, ...]] = {}  # by `keep`
        self._keys = tuple(w.observation_parts(self.single_observation_space))
        self._block = SharedBlock(w.block_fields(self._prototype, n, workers))
        self._arrays = self._block.arrays
        self._doing, self._limit = "", 0.0  # what the workers were last asked for, and the time [s] they have for it
        self._context = multiprocessing.get_context(start_method)
        bounds = np.linspace(0, n, workers + 1).astype(int).tolist()
        seats = [w.Seat(k, a, b - a) for k, (a, b) in enumerate(pairwise(bounds))]
        self._workers = [
            Worker(seat, pickle.dumps([CloudpickleWrapper(factory) for factory in factories[seat.rows]]))
            for seat in seats
        ]
        self._owner, self.closed = os.getpid(), False
        _open.add(self)
        try:
            resource_tracker.ensure_running()  # it unblocks the signals that are blocked while a worker starts
            self._start(self._workers)
        except BaseException:
            self.close()
            raise

    @property
    def prototype(self) -> gym.Env[Any, Any]:
        """An environment in this process, to ask what they declare; not to be stepped."""
        return self._prototype

    @property
    def pids(self) -> list[int]:
        """The workers' process ids."""
        return [worker.pid for worker in self._workers if worker.pid is not None]

    @property
    def cpu_seconds(self) -> float:
        """CPU time of the present workers so far."""
        return sum(worker.cpu_seconds for worker in self._workers)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """As `LocalVectorEnv.reset`."""
        if not isinstance(seed, Sequence):
            seed = [None if seed is None else seed + i for i in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"{self.num_envs} seeds are needed, got {len(seed)}")
        infos = self._request("reset", w.RESET, [(seed[worker.seat.rows], options) for worker in self._workers])
        self._seeds = list(seed)
        return self._observation(), {"reset_info": [info for part in infos for info in part]}

    def call(self, name: str, *arguments: Any, each: Sequence[Any] | None = None) -> list[Any]:
        """What the method `name` of each worker's `LocalVectorEnv` returns, with these arguments.

        `each` [E], if given, is a last argument, of which every worker gets the part of its environments.
        """
        parts = [() if each is None else (each[worker.seat.rows],) for worker in self._workers]
        return self._request(name, w.CALL, [(name, (*arguments, *part)) for part in parts])

    def keep(self, name: str, *arguments: Any) -> None:
        """Call the method `name` of every environment, and of those of a worker that is replaced later, before their
        first reset."""
        self._kept[name] = arguments
        self.call("keep", name, *arguments)

    def step(self, actions: NDArray[Any]) -> tuple[Any, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """As `LocalVectorEnv.step`, and see the class for `infos["lost"]`."""
        deadline = self._begin("step", self._timeout)
        self._arrays["action"][...] = as_actions(actions, self.action_space)
        cpus, here = self._arrays["busy"][w.CPU :: w.WORDS].tolist(), w.current_cpu()
        # Last whom this process would share its CPU with: the kernel may let a worker run at once in place of who woke
        # it, and the others would not be asked before that one's step was over.
        for worker in sorted(self._workers, key=lambda worker: cpus[worker.seat.worker] == here):
            worker.ask(w.STEP, None, deadline)
        news: News = []
        dead: list[tuple[Worker, str]] = []
        for worker in self._workers:
            try:
                answer = self._answer(worker, deadline)
            except Died as death:
                dead.append((worker, str(death)))
            else:
                if answer is not None:
                    news.append((worker.seat.rows, answer))
        infos: dict[str, Any] = {}
        if dead:
            infos["lost"] = np.zeros(self.num_envs, bool)
        for worker, how in dead:
            infos["lost"][worker.seat.rows] = True
            news.append((worker.seat.rows, self._replace(worker, how)))
        a = self._arrays
        terminated, truncated = a["terminated"].copy(), a["truncated"].copy()
        infos |= {"valid": a["valid"].copy(), "reward_signals": self._signals(news)}
        ended = terminated | truncated
        if ended.any():
            infos |= self._final(ended, news)
        return self._observation(), a["reward"].copy(), terminated, truncated, infos

    def close_extras(self, **kwargs: Any) -> None:
        """End every worker within seconds, whatever state it is in."""
        if os.getpid() != self._owner:
            return  # the copy of a forked process, whose workers these are not
        deadline = time.monotonic() + CLOSE_GRACE
        for worker in self._workers:
            if worker.pid is not None:
                worker.ask(w.CLOSE, None, time.monotonic())
        for worker in self._workers:
            worker.end(deadline)
        self._block.close()
        self._prototype.close()

    def __del__(self) -> None:
        self.close()

    def _signals(self, news: News) -> Sequence[Any]:
        signals: Any = [None] * self.num_envs
        if self._slices:
            signals = SignalRows(self._arrays["signals"].copy(), self._slices)
        for rows, part in news:
            if "reward_signals" in part:
                signals = list(signals)
                signals[rows] = part["reward_signals"]
        return signals

    def _final(self, ended: NDArray[np.bool_], news: News) -> dict[str, Any]:
        final_obs, final_info = np.empty(self.num_envs, object), np.empty(self.num_envs, object)
        for rows, part in news:
            if "final_info" in part:
                final_info[rows] = part["final_info"]
        for i in np.flatnonzero(ended):
            final_obs[i] = self._observation("final", i)
        return {"final_obs": final_obs, "final_info": final_info}

    def _observation(self, which: str = "obs", row: Any = ...) -> Any:
        parts = {key: np.array(self._arrays[f"{which} {key}"][row]) for key in self._keys}
        return parts if isinstance(self.single_observation_space, spaces.Dict) else parts[""]

    def _begin(self, doing: str, limit: float) -> float:
        """Be ready to ask for something; the deadline of its answers. What an exception cut short here, a
        KeyboardInterrupt say, is finished first and its result dropped."""
        if self.closed:
            raise gym.error.ClosedEnvironmentError("these environments are closed")
        for worker in self._workers:
            if worker.pending:
                try:
                    self._heard(worker, worker.settle, time.monotonic() + self._limit)
                except Died:
                    continue  # and it will be found dead again
        self._doing, self._limit = doing, limit
        return time.monotonic() + limit

    def _answer(self, worker: Worker, deadline: float) -> Any:
        """A worker's answer. Raises Died, and WorkerError when an environment raised or hangs."""
        return self._heard(worker, worker.answer, deadline)

    def _heard(self, worker: Worker, hear: Callable[[float], Any], deadline: float) -> Any:
        """What `hear` gives by the deadline. Raises Died, and WorkerError when an environment raised or hangs."""
        try:
            return hear(deadline)
        except Hung:
            i, at = self._place(worker)
            what = f"environment {i} did not return from {at} within {self._limit:g} s"
            failure = self._failed(worker, f"{what}; worker {worker.seat.worker} was killed", [i])
        except Raised as error:
            i = worker.seat.first + error.env
            message = f"environment {i} in worker {worker.seat.worker} raised {error.line}"
            failure = self._failed(worker, message, [i], error.traceback)
        raise failure

    def _place(self, worker: Worker) -> tuple[int, str]:
        """Which environment a worker is busy with, and where in its life that is."""
        env, resetting = self._arrays["busy"][worker.seat.worker * w.WORDS :][:2].tolist()
        i = worker.seat.first + env
        if self._doing != "step":
            return i, self._doing
        step = int(self._arrays["length"][i]) + 1
        return i, f"the reset after step {step} of its episode" if resetting else f"step {step} of its episode"

    def _failed(self, worker: Worker, message: str, envs: Sequence[int] = (), traceback: str = "") -> WorkerError:
        """The error to raise, after the end of all workers."""
        self.close()
        return WorkerError(message, worker.seat.worker, envs or worker.seat.envs, traceback)

    def _request(self, doing: str, kind: bytes, payloads: Sequence[Any]) -> list[Any]:
        deadline = self._begin(doing, self._timeout)
        for worker, payload in zip(self._workers, payloads, strict=True):
            worker.ask(kind, payload, deadline)
        return [self._certain(worker, deadline) for worker in self._workers]

    def _certain(self, worker: Worker, deadline: float) -> Any:
        """An answer where a death cannot be made up for."""
        try:
            return self._answer(worker, deadline)
        except Died as how:
            failure = self._failed(worker, f"{worker.seat} {how} during {self._doing}")
        raise failure

    def _start(self, workers: Sequence[Worker]) -> None:
        self._doing = "its start (a script that starts workers must do so under if __name__ == '__main__':)"
        self._limit = START_TIMEOUT
        for worker in workers:
            try:
                worker.start(self._context, self._block)
            except OSError as error:
                raise self._failed(worker, f"{worker.seat} could not be started: {error}") from error
        for worker in workers:
            self._certain(worker, time.monotonic() + START_TIMEOUT)

    def _replace(self, worker: Worker, how: str) -> dict[str, Any]:
        """Put another process in a dead one's place; what is to be said of its lost transitions."""
        a, rows = self._arrays, worker.seat.rows
        i, at = self._place(worker)
        event = f"{worker.seat} {how} while environment {i} was at {at}"
        if worker.restarts >= self._max_restarts:
            raise self._failed(worker, f"{event}, after {worker.restarts} restarts")
        warnings.warn(f"{event}; it is restarted", WorkerRestart, stacklevel=3)
        worker.restarts += 1
        self.restarts += 1
        so_far = zip(a["return"][rows].tolist(), a["length"][rows].tolist(), strict=True)
        lost = [{"worker_restart": event, "episode": {"r": r, "l": length + 1}} for r, length in so_far]
        for key in self._keys:
            a[f"final {key}"][rows] = a[f"obs {key}"][rows]
        worker.end(time.monotonic())
        self._start([worker])
        deadline = self._begin("its restart", self._timeout)
        for name, arguments in self._kept.items():
            worker.ask(w.CALL, ("keep", (name, *arguments)), deadline)
            self._certain(worker, deadline)
        worker.ask(w.REPLACE, (self._seeds[rows], worker.restarts), deadline)
        self._certain(worker, deadline)
        self._doing = "step"
        for name, value in {"reward": 0.0, "terminated": False, "truncated": True, "valid": False}.items():
            a[name][rows] = value
        return {"final_info": lost}


_open: weakref.WeakSet[WorkerVectorEnv] = weakref.WeakSet()


@atexit.register  # before multiprocessing's own, which would wait for the workers without end
def _close_all() -> None:
    for envs in list(_open):
        envs.close()
