"""What runs in a worker: a `LocalVectorEnv` of its environments, between shared memory and a channel."""

from __future__ import annotations

import ctypes
import os
import pickle
import select
import signal
import threading
import traceback
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from simtoreal.errors import EnvError, in_one_line
from simtoreal.shared_memory import LINE, Channel, ChannelClosed, SharedBlock
from simtoreal.workers import EnvFactory, LocalVectorEnv

# Messages of a parent, and a worker's answers: DONE (a start, or a step without news), NEWS of a step, RESULT, ERROR;
# and ECHO, which is answered by itself.
STEP, CLOSE, RESET, REPLACE, CALL, ECHO = b"s", b"c", b"T", b"P", b"A", b"O"
DONE, NEWS, RESULT, ERROR = b"d", b"N", b"R", b"E"

WORDS = LINE // 8  # a worker's of the array "busy": environment, whether it resets, and the CPU of the last step
CPU = 2
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
current_cpu: Callable[[], int] = getattr(ctypes.CDLL(None), "sched_getcpu", lambda: -1)
"""The CPU that runs the caller; -1 where that is not known."""

parent_ends: weakref.WeakSet[Channel] = weakref.WeakSet()
"""The parent's ends of all channels in this process. A forked worker must close them: as long as anyone holds one, its
worker does not learn of the parent's death."""


@dataclass(frozen=True)
class Seat:
    """A worker's place: its number and its rows of the shared block."""

    worker: int
    first: int
    count: int

    @property
    def envs(self) -> range:
        return range(self.first, self.first + self.count)

    @property
    def rows(self) -> slice:
        return slice(self.first, self.first + self.count)

    def __str__(self) -> str:
        envs = f"environment {self.first}" if self.count == 1 else f"environments {self.first}-{self.envs[-1]}"
        return f"worker {self.worker} ({envs})"


def block_fields(prototype: gym.Env[Any, Any], envs: int, workers: int) -> dict[str, tuple[tuple[int, ...], Any]]:
    """The arrays of a `SharedBlock` for `envs` environments like `prototype`, and one counter a worker.

    Raises:
        ValueError: a space that is no array and no dictionary of arrays.
    """
    fields: dict[str, tuple[tuple[int, ...], Any]] = {
        "reward": ((envs,), np.float64),
        "terminated": ((envs,), np.bool_),
        "truncated": ((envs,), np.bool_),
        "valid": ((envs,), np.bool_),
        "return": ((envs,), np.float64),  # of the running episode
        "length": ((envs,), np.int64),
        "episode": ((envs,), np.int64),  # its number, -1 where the environment does not count
        "signals": ((envs, reward_size(prototype)), np.float64),
    }
    parts = {"action": prototype.action_space}
    for key, space in observation_parts(prototype.observation_space).items():
        parts |= {f"obs {key}": space, f"final {key}": space}
    for name, space in parts.items():
        if space.shape is None:
            raise ValueError(f"worker processes need spaces of arrays, got {space} for {name}; use --workers 0")
        fields[name] = ((envs, *space.shape), space.dtype)
    return fields | {"busy": ((workers * WORDS,), np.int64)}


def observation_parts(space: spaces.Space[Any]) -> dict[str, spaces.Space[Any]]:
    """The arrays that an observation consists of; a single one has the name ""."""
    return dict(space.spaces) if isinstance(space, spaces.Dict) else {"": space}


def reward_size(env: gym.Env[Any, Any]) -> int:
    """How many numbers the reward signals of an environment have, by its `reward_layout`; 0 without one."""
    return int(env.get_wrapper_attr("reward_layout").size) if env.has_wrapper_attr("reward_layout") else 0


def serve(block: SharedBlock, channel: Channel, seat: Seat, factories: bytes, main_thread: bool) -> None:
    """The life of a worker: make its environments, then do as it is told until the channel closes.

    Args:
        factories: a pickled list of `EnvFactory`.
        main_thread: the parent started this from its main thread.
    """
    for signum in (signal.SIGINT, signal.SIGTERM):  # a terminal's Ctrl-C is the parent's to answer, after a checkpoint
        signal.signal(signum, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    for end in list(parent_ends):
        end.close()
    _die_with_parent(channel, main_thread)
    busy = block.arrays["busy"][seat.worker * WORDS :][:1]
    try:
        make: list[EnvFactory] = pickle.loads(factories)
        envs = LocalVectorEnv([_noted(busy, i, factory) for i, factory in enumerate(make)])
    except BaseException as error:
        channel.send(ERROR, _report(error, int(busy[0])))
        return
    try:
        _Worker(block, channel, seat, envs).loop()
    except ChannelClosed:
        pass  # the parent is gone or wants no more
    finally:
        envs.close()


def _die_with_parent(channel: Channel, main_thread: bool) -> None:
    """Leave no orphan. The thread notices the parent's end in the middle of a long step, the kernel's signal even in
    the middle of a C call that never gives Python back. The signal goes off when the *thread* that started this
    process ends, so it is of use only if that is the main one."""
    if main_thread:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    def watch() -> None:
        poll = select.poll()
        poll.register(channel.read_fd, 0)  # nothing but the hang-up, which is always reported
        poll.poll()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _noted(busy: NDArray[np.int64], i: int, factory: EnvFactory) -> EnvFactory:
    def make() -> gym.Env[Any, Any]:
        busy[0] = i
        return factory()

    return make


def _report(error: BaseException, env: int) -> tuple[int, str, str]:
    """Environment, one line, and the whole traceback."""
    if isinstance(error, EnvError):
        error = error.__cause__ or error
    return env, in_one_line(error), "".join(traceback.format_exception(error))


class _Worker:
    """Environments between their rows of the block and the channel."""

    def __init__(self, block: SharedBlock, channel: Channel, seat: Seat, envs: LocalVectorEnv) -> None:
        self._channel, self._envs, self._seat = channel, envs, seat
        words = block.arrays.pop("busy")[seat.worker * WORDS :]
        envs.busy, self._cpu = words[:2], words[CPU : CPU + 1]
        envs.busy[1] = False  # whatever the one before died of
        rows = block.rows(seat.rows)
        self._action, self._signals = rows.pop("action"), rows.pop("signals")
        self._return, self._length, self._episode = (rows.pop(name) for name in ("return", "length", "episode"))
        self._obs = {key: rows[f"obs {key}"] for key in observation_parts(envs.single_observation_space)}
        self._final = {key: rows[f"final {key}"] for key in self._obs}
        self._ends = [rows[name] for name in ("reward", "terminated", "truncated")]
        self._valid = rows["valid"]
        self._fields = tuple(envs.prototype.get_wrapper_attr("reward_layout").slices) if self._signals.size else ()
        self._counts = [
            all(env.has_wrapper_attr(name) for name in ("set_next_episode", "episode")) for env in envs.envs
        ]

    def loop(self) -> None:
        commands: dict[bytes, Callable[..., Any]] = {RESET: self._reset, REPLACE: self._replace, CALL: self._call}
        self._channel.send(DONE)
        while True:
            kind, payload = self._channel.receive()
            if kind == CLOSE:
                return
            try:
                if kind == ECHO:
                    self._channel.send(ECHO, payload)
                    continue
                if kind == STEP:
                    news = self._step()
                    answer: tuple[bytes, Any] = (NEWS, news) if news else (DONE, None)
                else:
                    answer = (RESULT, commands[kind](*payload))
                    for i in range(self._envs.num_envs):
                        self._count(i)
                self._channel.send(*answer)
            except ChannelClosed:
                raise
            except BaseException as error:
                self._channel.send(ERROR, _report(error, int(self._envs.busy[0])))

    def _step(self) -> dict[str, Any]:
        """Step; what does not fit into the block, by its name in the infos and the environment."""
        news: dict[str, Any] = {}
        obs, *ends, infos = self._envs.step(self._action.copy())
        self._put(self._obs, obs)
        for mine, array in zip(self._ends, ends, strict=True):
            mine[:] = array
        self._valid[:] = infos["valid"]
        self._return[:], self._length[:] = self._envs.episode_return, self._envs.episode_length
        self._cpu[0] = current_cpu()
        signals = infos["reward_signals"]
        if self._fields and None not in signals:
            for row, values in zip(self._signals, signals, strict=True):
                row[:] = [number for name in self._fields for number in values[name]]
        elif self._fields or any(values is not None for values in signals):
            news["reward_signals"] = signals
        if "final_info" in infos:
            for i, (final, info) in enumerate(zip(infos["final_obs"], infos["final_info"], strict=True)):
                if info is not None:
                    last = {key: np.asarray(final[key] if key else final)[None] for key in self._final}
                    self._put({key: rows[i : i + 1] for key, rows in self._final.items()}, last)
                    self._count(i)
            news["final_info"] = list(infos["final_info"])
        return news

    def _call(self, name: str, arguments: Sequence[Any]) -> Any:
        return getattr(self._envs, name)(*arguments)

    def _reset(self, seeds: Sequence[int | None], options: dict[str, Any] | None) -> list[dict[str, Any]]:
        obs, infos = self._envs.reset(seed=seeds, options=options)
        self._put(self._obs, obs)
        self._return[:], self._length[:] = 0.0, 0
        infos_of_each: list[dict[str, Any]] = infos["reset_info"]
        return infos_of_each

    def _replace(self, seeds: Sequence[int | None], restart: int) -> None:
        """Take the place of a worker that died: each environment goes on with its next episode; one that cannot be
        told so is seeded anew from its seed and the number of the restart."""
        again: list[int | None] = []
        for env, counts, seed, episode in zip(
            self._envs.envs, self._counts, seeds, self._episode.tolist(), strict=True
        ):
            if counts:
                env.get_wrapper_attr("set_next_episode")(seed, episode + 1)
            again.append(
                None if counts or seed is None else int(np.random.SeedSequence([seed, restart]).generate_state(1)[0])
            )
        self._reset(again, None)

    def _put(self, rows: dict[str, NDArray[Any]], obs: Any) -> None:
        for key, mine in rows.items():
            array = obs[key] if isinstance(obs, dict) else obs
            if array.shape != mine.shape:
                raise ValueError(f"observations {key} have shape {array.shape}, their space says {mine.shape}")
            mine[...] = array

    def _count(self, i: int) -> None:
        if self._counts[i]:
            self._episode[i] = self._envs.envs[i].get_wrapper_attr("episode")
