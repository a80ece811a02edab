"""Look at a task or a policy: live in a browser, or as a film."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simtoreal import build
from simtoreal.config import ConfigError
from simtoreal.contract import Contract
from simtoreal.episodes import Frame, Outcome, Policy, PolicySource, find_policies, run_episode
from simtoreal.evaluate import Progress
from simtoreal.live_session import Session
from simtoreal.randomization.messages import nearest
from simtoreal.robot_files import name_task, same_task
from simtoreal.robots.engines import DEFAULT_ENGINE
from simtoreal.video import filming

HOST, PORT = "127.0.0.1", 8080
FILMED_EPISODES = 3


class HoldStill:
    """The policy of action 0: what the robot does if nobody asks for anything."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract

    def reset(self) -> None:
        """It keeps no state."""

    def act(self, observation: NDArray[Any]) -> NDArray[np.floating]:
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
    episodes: int | None = None,
    seed: int = 0,
    randomization: str | None = "none",
    parameters: Mapping[str, float] | None = None,
    goal: Mapping[str, Sequence[float]] | None = None,
    engine: str = DEFAULT_ENGINE,
    robot: str | None = None,
    force: bool = False,
    host: str = HOST,
    port: int = PORT,
    speed: float = 1.0,
    progress: Progress | None = None,
    announce: Callable[[str], None] | None = None,
) -> PlayResult:
    """Show a task, driven by a bundle or a `module:function` or holding still: live in a browser, or filmed to `video`.

    `parameters` and `goal` go beyond the randomization: a payload, a push; a command to follow, a point to reach.

    Args:
        robot: the robot file, or an installed robot, that `task` is made of where that is a family.
        episodes: of a film, 3 unless it says otherwise; live, after how many to end: without it, when it is
            interrupted, and each episode goes on beyond its time limit.
        force: replaces an earlier film.
        host, port: where a browser finds the live one; port 0 is any that is free.
        speed: simulated seconds a second, live.
        progress: of a film, gets the control steps done and the most there can be.
        announce: gets the live one's address, once it can be opened.

    Raises:
        ConfigError: no such task, engine or policy, no episodes, a bundle of another task; live, somebody else's task,
            which has no scene, or a host or port that cannot be had.
        ValueError: no such parameter or goal, or a value out of its bounds.
        ModuleNotFoundError: viser, which serves the live one, is not installed.
    """
    if episodes is not None and episodes < 1:
        raise ConfigError(f"episodes must be 1 or more, got {episodes}")
    full = build.task_id(name_task(task, robot))
    source: PolicySource | None = None
    if policy is not None:
        (source,) = find_policies([policy])
        spec = source.spec()
        if spec is not None and not same_task(spec.task, full):
            raise ConfigError(f"{policy} is a bundle for {spec.task}, not for {full}")
    path = None if video is None else Path(video)
    if path is None and not build.is_ours(full):
        raise ConfigError(f"{task} is not one of our tasks: it has no scene to show live; pass --video FILE")
    env = build.make_env(full, render_mode=None if path is None else "rgb_array", engine=engine)
    try:
        contract = Contract.of(full, env)
        if goal and not build.is_ours(full):
            raise ConfigError(f"{task} is not one of our tasks: it has no goal to set")
        for name in parameters or {}:
            if name not in contract.parameters:
                raise ConfigError(f"no parameter {name!r}; {nearest(name, contract.parameters)}")
        randomizer = build.make_randomizer(build.find_randomization(randomization, full), env, full)
        driver: Policy = HoldStill(contract) if source is None else source.open()
        if source is not None and spec is not None:
            contract.check(spec, source.text)

        def values(episode: int) -> dict[str, float]:
            return ({} if randomizer is None else randomizer.draw(seed, 0, episode)) | dict(parameters or {})

        outcomes: Sequence[Outcome]
        if path is not None:
            count = episodes or FILMED_EPISODES
            with filming(env, path, contract.control_dt, force=force) as film:
                each_step = _counted(film, progress, count * build.episode_steps(env))
                outcomes = [
                    run_episode(
                        env, contract, driver, seed=seed + k, parameters=values(k), goal=goal, each_step=each_step
                    )
                    for k in range(count)
                ]
        else:
            session = Session(
                env,
                contract,
                driver,
                seed=seed,
                parameters=values(0),
                goal=goal,
                randomizer=randomizer or build.make_randomizer(build.find_randomization(None, full), env, full),
                episodes=episodes,
                speed=speed,
            )
            outcomes = _live(session, f"{build.display_name(full)}: {policy or 'hold still'}", host, port, announce)
    finally:
        env.close()
    return PlayResult(full, policy or "hold still", None if path is None else str(path), tuple(outcomes))


def _counted(film: Frame | None, progress: Progress | None, most: int) -> Frame:
    """What is to be called after each control step, of which there will be at most so many."""
    done = 0

    def each_step() -> None:
        nonlocal done
        done += 1
        if film is not None:
            film()
        if progress is not None:
            progress(done, most)

    return each_step


def _live(
    session: Session, title: str, host: str, port: int, announce: Callable[[str], None] | None
) -> Sequence[Outcome]:
    from simtoreal.live_viewer import Viewer

    viewer = Viewer(session, title, host, port)
    try:
        if announce is not None:
            announce(viewer.address)
        session.run(viewer.show)
    finally:
        viewer.close()
    return session.outcomes
