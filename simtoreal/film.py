"""Look at it: films of episodes, played live or replayed exactly."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from simtoreal import build
from simtoreal.config import ConfigError
from simtoreal.episodes import Outcome, Policy, PolicySource, find_policies, run_episode
from simtoreal.evaluate import read_evaluation
from simtoreal.randomization.messages import nearest
from simtoreal.runs import RunError

FORMATS = (".mp4", ".gif")


@contextmanager
def filming(env: gym.Env[Any, Any], video: Path | None, control_dt: float) -> Iterator[Callable[[], None] | None]:
    """A function that takes a frame of `env` into the file `video` (.mp4 or .gif); None when there is no video.

    The file appears only once it is complete.
    """
    if video is None:
        yield None
        return
    if video.suffix not in FORMATS:
        raise ConfigError(f"{video}: a film is {' or '.join(FORMATS)}")
    if not video.parent.is_dir():
        raise ConfigError(f"{video}: no folder {video.parent}")
    import imageio.v2 as imageio

    partial = video.with_name(f".{video.stem}.partial{video.suffix}")
    options: dict[str, Any] = {"fps": 1.0 / control_dt}
    options |= {"macro_block_size": 8, "quality": 7} if video.suffix == ".mp4" else {"loop": 0}
    writer = imageio.get_writer(str(partial), **options)
    try:
        yield lambda: writer.append_data(frame(env))
    except BaseException:
        writer.close()
        partial.unlink(missing_ok=True)
        raise
    writer.close()
    os.replace(partial, video)


def frame(env: gym.Env[Any, Any]) -> NDArray[np.uint8]:
    """The current image [h, w, 3]."""
    image: Any = env.render()
    return np.asarray(image, np.uint8)


class HoldStill:
    """The policy of action 0: what the robot does if nobody asks for anything."""

    def __init__(self, contract: build.Contract) -> None:
        self._contract = contract

    def reset(self) -> None:
        """It keeps no state."""

    def act(self, observation: NDArray[np.float32]) -> NDArray[np.floating]:
        zero = np.zeros(self._contract.command.size)
        return self._contract.command.command(zero, observation, self._contract.observation)


@dataclass(frozen=True)
class PlayResult:
    """What was seen."""

    task: str
    policy: str
    video: str | None
    outcomes: tuple[Outcome, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def play(
    task: str,
    policy: str | None = None,
    *,
    video: str | os.PathLike[str] | None = None,
    episodes: int = 3,
    seed: int = 0,
    randomization: str | None = "none",
) -> PlayResult:
    """Show a task, driven by a bundle or a `module:function` or holding still, in a window or, with `video`, in a file.

    Raises:
        ConfigError: no such task or policy, a bundle of another task, no display and no `video`.
    """
    full = build.task_id(task)
    source: PolicySource | None = None
    if policy is not None:
        (source,) = find_policies([policy])
        spec = source.spec()
        if spec is not None and spec.task != full:
            raise ConfigError(f"{policy} is a bundle for {spec.task}, not for {full}")
    path = None if video is None else Path(video)
    if path is None and not os.environ.get("DISPLAY"):
        raise ConfigError("no display to open a window on; pass --video FILE")
    env = build.make_env(full, render_mode="human" if path is None else "rgb_array")
    try:
        contract = build.Contract.of(full, env)
        short = build.short_name(full)
        randomizer = build.make_randomizer(build.find_randomization(randomization, short), env, short)
        driver: Policy = HoldStill(contract) if source is None else source.open()
        outcomes = []
        with filming(env, path, contract.control_dt) as each_step:
            for episode in range(episodes):
                parameters = {} if randomizer is None else randomizer.draw(seed, 0, episode)
                outcomes.append(
                    run_episode(env, contract, driver, seed=seed + episode, parameters=parameters, each_step=each_step)
                )
    finally:
        env.close()
    return PlayResult(full, policy or "hold still", None if path is None else str(path), tuple(outcomes))


@dataclass(frozen=True)
class ReplayResult:
    """A recorded episode beside the same episode again; `identical` only if return, length and outcome are equal."""

    case: str
    bundle: str
    recorded_return: float
    replayed_return: float
    identical: bool
    success: bool
    length: int
    video: str | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def replay(
    folder: str | os.PathLike[str],
    case: str,
    *,
    bundle: str | None = None,
    video: str | os.PathLike[str] | None = None,
) -> ReplayResult:
    """Run one row of an evaluation again, from its recorded parameters and seed.

    Args:
        case: "suite/condition/number", as the report prints it.
        bundle: needed where the evaluation judged several.

    Raises:
        RunError: no such evaluation, case or bundle; SpecError: the bundle was changed.
    """
    rows, provenance = read_evaluation(Path(folder))
    here = [row for row in rows if f"{row.suite}/{row.case}" == case and bundle in (None, row.bundle)]
    if not here:
        names = {row.bundle for row in rows}
        if bundle is not None and bundle not in names:
            raise RunError(f"{folder} judged no {bundle!r}; {nearest(bundle, names)}")
        raise RunError(
            f"{folder} has no case {case!r}; {nearest(case, dict.fromkeys(f'{r.suite}/{r.case}' for r in rows))}"
        )
    if len(here) > 1:
        raise RunError(f"case {case} was run by {', '.join(r.bundle for r in here)}; choose one with --bundle")
    (row,) = here
    identity = provenance["policies"][row.bundle]
    source = PolicySource(identity.get("path") or identity["controller"], row.bundle, "path" in identity)
    path = None if video is None else Path(video)
    env = build.make_env(provenance["task"], render_mode=None if path is None else "rgb_array")
    try:
        contract = build.Contract.of(provenance["task"], env)
        with filming(env, path, contract.control_dt) as each_step:
            outcome = run_episode(
                env, contract, source.open(), seed=row.seed, parameters=row.parameters, each_step=each_step
            )
    finally:
        env.close()
    same = (outcome.return_, outcome.length, outcome.success, outcome.parameters) == (
        row.return_,
        row.length,
        row.success,
        row.parameters,
    )
    return ReplayResult(
        case,
        row.bundle,
        row.return_,
        outcome.return_,
        same,
        outcome.success,
        outcome.length,
        None if path is None else str(path),
    )
