"""Benchmarks of the learners: gradient steps, whole learning loops, inference; one process, one thread.

Both sides do the same work: networks, batch, minibatches, epochs and environments are those in the row; what it says of
precision is ours, the peers' products are fp32. The environment of the loops costs nothing, so a loop's figure is all
that a learner adds to a simulation.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv

from simtoreal import bench_sbx
from simtoreal.measuring import Row, interleaved
from simtoreal.policies.dqn import DQN
from simtoreal.policies.loops import off_policy
from simtoreal.policies.on_policy import on_policy
from simtoreal.policies.ppo import PPO, PPOConfig
from simtoreal.policies.prioritized import AnyReplay
from simtoreal.policies.products import arithmetic, made_in, product
from simtoreal.policies.replay import Replay
from simtoreal.policies.sac import SAC, SACConfig
from simtoreal.policies.td3 import TD3, TD3Config
from simtoreal.policies.updates import CapturedUpdates, EachUpdate, Updates

OBSERVATION, ACTION, HIDDEN, BATCH = 48, 12, (256, 256), 256  # the size of a quadruped's policy
SIZE = f"observation {OBSERVATION}, action {ACTION}, 2x{HIDDEN[0]}, batch {BATCH}"
MODES = {  # matmul_precision, and whether gradient steps are compiled -> what it is on a CPU
    ("highest", False): "fp32",
    ("highest", True): "fp32, compiled",
    ("medium", True): "bf16 products, compiled",
}
FILLED = 4096  # transitions in the replay
THREADED = 60  # gradient steps a round of those on two threads and on one
PPO_ENVS, PPO_ROLLOUT, PPO_BATCH, PPO_EPOCHS, PPO_HIDDEN = 8, 256, 64, 10, (64, 64)
PPO_SIZE = f"{PPO_ENVS} environments x {PPO_ROLLOUT} steps, batch {PPO_BATCH}, {PPO_EPOCHS} epochs, 2x64"


class FreeVector(VectorEnv[Any, Any, Any]):
    """`n` environments that cost nothing: observations drawn beforehand, reward 1, episodes of 500 steps."""

    def __init__(self, n: int, action_size: int = ACTION) -> None:
        self.num_envs, self.metadata = n, {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.single_observation_space = gym.spaces.Box(-np.inf, np.inf, (OBSERVATION,), np.float32)
        self.single_action_space = gym.spaces.Box(-1, 1, (action_size,), np.float32)
        self._drawn = np.random.default_rng(0).standard_normal((501, n, OBSERVATION)).astype(np.float32)
        self._none, self._all, self._reward = np.zeros(n, bool), np.ones(n, bool), np.ones(n)
        self._t = 0

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self._t = 0
        return self._drawn[0], {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self._t += 1
        if self._t < 500:
            return self._drawn[self._t], self._reward, self._none, self._none, {"valid": self._all}
        self._t = 0
        final = np.empty(self.num_envs, object)
        final[:] = list(self._drawn[500])
        infos = {"valid": self._all, "final_obs": final}
        return self._drawn[0], self._reward, self._none, self._all, infos


def filled_replay(device: str = "cpu") -> Replay:
    """A replay of random transitions."""
    rng = np.random.default_rng(0)
    replay = Replay(FILLED, OBSERVATION, ACTION, device=device)
    replay.add(
        rng.standard_normal((FILLED, OBSERVATION), np.float32),
        rng.uniform(-1, 1, (FILLED, ACTION)).astype(np.float32),
        rng.standard_normal(FILLED).astype(np.float32),
        rng.standard_normal((FILLED, OBSERVATION), np.float32),
        np.zeros(FILLED, np.float32),
    )
    return replay


def ours(name: str, precision: str = "highest", device: str = "cpu") -> SAC | TD3:
    """Our SAC or TD3 of the benchmark's size."""
    settings: dict[str, Any] = {"hidden": HIDDEN, "batch_size": BATCH, "matmul_precision": precision}
    if name == "sac":
        return SAC(OBSERVATION, ACTION, 0, SACConfig(**settings), device=device)
    return TD3(OBSERVATION, ACTION, 0, TD3Config(**settings), device=device)


def sb3(name: str, device: str = "cpu") -> Any:
    """Stable-Baselines3's SAC or TD3 of the same size, its replay filled too."""
    from simtoreal.policies.baselines import learn_sb3

    settings = {"batch_size": BATCH, "policy_kwargs": {"net_arch": list(HIDDEN)}, "learning_starts": 0}
    baseline = learn_sb3(name, FreeVector(1), settings, steps=10**9, seed=0, report_every=100, device=device)
    fill(baseline.model)
    return baseline


def fill(model: Any) -> None:
    """Random transitions for the replay of Stable-Baselines3's or SBX's learner."""
    rng = np.random.default_rng(0)
    for _ in range(FILLED):
        row = rng.standard_normal((2, 1, OBSERVATION)).astype(np.float32)
        action = rng.uniform(-1, 1, (1, ACTION)).astype(np.float32)
        model.replay_buffer.add(row[0], row[1], action, np.zeros(1), np.zeros(1), [{}])


def multiplications(name: str) -> float:
    """Multiply-adds of matrix products in one of our gradient steps: networks of n inputs and m outputs, B samples.

    A pass forward is one, the gradient to the weights one, that to the layers below one less the first layer. SAC: two
    targets, two critics forward and back, two critics for the actor forward and back to the action, the actor for both
    observations and back. TD3: one critic for the actor, which is improved every other step.
    """
    h1, h2 = HIDDEN
    critic = (OBSERVATION + ACTION) * h1 + h1 * h2 + h2
    outputs = 2 * ACTION if name == "sac" else ACTION
    actor = OBSERVATION * h1 + h1 * h2 + h2 * outputs
    inner_critic, inner_actor = h1 * h2 + h2, h1 * h2 + h2 * outputs
    critics = 2 * critic + 2 * critic + 2 * (critic + inner_critic)
    improve = (2 if name == "sac" else 1) * (critic + inner_critic + ACTION * h1) + 2 * actor + inner_actor
    return BATCH * (critics + actor + improve * (1.0 if name == "sac" else 0.5))


def product_limit(precision: str) -> float:
    """The most multiply-adds a second that a product of this size reaches here."""
    with arithmetic(precision, torch.device("cpu")):
        dtype = made_in(BATCH, HIDDEN[0], BATCH, torch.device("cpu"))
    a, b = (torch.randn(BATCH, HIDDEN[0]).to(dtype) for _ in range(2))
    with torch.inference_mode(), arithmetic(precision, torch.device("cpu")):
        times = []
        for _ in range(30):
            began = time.process_time()
            for _ in range(20):
                product(a, b)
            times.append((time.process_time() - began) / 20)
    return BATCH * HIDDEN[0] * BATCH / min(times[5:])


def bench_update(rounds: int) -> list[Row]:
    """A gradient step of SAC and TD3 against Stable-Baselines3's, and SBX's where that is installed."""
    rows, replay = [], filled_replay()
    for name in ("sac", "td3"):
        model = sb3(name).model
        peers: dict[str, tuple[Any, int]] = {"Stable-Baselines3": (model, 1)}  # model, and updates in one call
        if bench_sbx.installed():
            theirs = bench_sbx.learner(name, model.get_env(), BATCH, HIDDEN)
            theirs.set_logger(model.logger)
            fill(theirs)
            peers["SBX (JAX), 40 updates a call"] = theirs, 40
        for (precision, compiled), said in MODES.items():
            updates = updates_of(ours(name, precision), replay, compiled)
            share = multiplications(name) / product_limit(precision)
            for peer, (other, each) in peers.items():
                with bench_sbx.one_cpu():
                    a, b, ratio = interleaved(
                        partial(update_ours, updates, each, torch.Generator().manual_seed(0)),
                        partial(other.train, gradient_steps=each, batch_size=BATCH),
                        repeat=40 // each,
                        rounds=rounds,
                    )
                what = f"{name.upper()} updates, {SIZE}, {said}; {share * each / a:.0%} of the product limit"
                rows.append(Row("update", what, each / a, peer, each / b, "updates/s", ratio))
    return rows


def updates_of(agent: SAC | TD3 | DQN, replay: AnyReplay, compiled: bool) -> Updates:
    """Gradient steps of ours on batches of a replay."""
    batch = agent.config.batch_size
    return CapturedUpdates(agent, replay, batch, compiled=True) if compiled else EachUpdate(agent, replay, batch)


def update_ours(updates: Updates, times: int, generator: torch.Generator) -> None:
    """So many gradient steps, and what they measured."""
    for _ in range(times):
        updates.step(generator)
    updates.means()


def bench_threads(rounds: int) -> list[Row]:
    """Gradient steps of SAC on two threads against those on one, by the wall clock."""
    rows, replay = [], filled_replay()
    for (precision, compiled), said in MODES.items():
        two, one = (_on_threads(n, updates_of(ours("sac", precision), replay, compiled)) for n in (2, 1))
        a, b, ratio = interleaved(two, one, repeat=1, rounds=rounds, clock=time.perf_counter)
        what = f"SAC updates on two threads, {SIZE}, {said}"
        rows.append(Row("threads", what, THREADED / a, "one thread", THREADED / b, "updates/s", ratio))
    return rows


def _on_threads(n: int, updates: Updates) -> Callable[[], None]:
    """Gradient steps on so many threads, for which they are also compiled."""
    generator = torch.Generator().manual_seed(0)

    def work() -> None:
        torch.set_num_threads(n)
        update_ours(updates, THREADED, generator)

    return work


def bench_loop(rounds: int) -> list[Row]:
    """Whole learning loops on an environment that costs nothing, against Stable-Baselines3's."""
    rows = []
    for name in ("sac", "td3"):
        peer = iter(sb3(name))
        for (precision, compiled), said in MODES.items():
            agent, replay = ours(name, precision), filled_replay()
            loop = off_policy(
                agent, FreeVector(1), replay, steps=10**9, seed=0, batch_size=BATCH, learning_starts=0,
                report_every=100, updates=updates_of(agent, replay, compiled),
            )  # fmt: skip
            what = f"{name.upper()} loop, one environment, an update a step, {SIZE}, {said}"
            rows.append(loop_row(what, loop, peer, 100, rounds))
    theirs = iter(sb3_ppo())
    for compiled, said in ((False, "fp32"), (True, "fp32, compiled")):
        loop = our_ppo(compiled=compiled)[1]
        rows.append(loop_row(f"PPO loop, {PPO_SIZE}, {said}", loop, theirs, PPO_ENVS * PPO_ROLLOUT, rounds))
    return rows


def our_ppo(device: str = "cpu", compiled: bool = False) -> tuple[PPO, Iterator[Any]]:
    """Our PPO of the benchmark's size, and its loop."""
    config = PPOConfig(
        rollout=PPO_ROLLOUT, batch_size=PPO_BATCH, epochs=PPO_EPOCHS, hidden=PPO_HIDDEN, compile=compiled
    )
    agent = PPO(OBSERVATION, ACTION, config=config, device=device)
    envs = FreeVector(PPO_ENVS)
    return agent, on_policy(agent, envs, steps=10**9, seed=0, rollout=PPO_ROLLOUT, gamma=0.99, gae_lambda=0.95)


def sb3_ppo(device: str = "cpu") -> Any:
    """Stable-Baselines3's."""
    from simtoreal.policies.baselines import learn_sb3

    settings = {
        "n_steps": PPO_ROLLOUT,
        "batch_size": PPO_BATCH,
        "n_epochs": PPO_EPOCHS,
        "policy_kwargs": {"net_arch": list(PPO_HIDDEN)},
    }
    return learn_sb3("ppo", FreeVector(PPO_ENVS), settings, steps=10**9, seed=0, report_every=1, device=device)


def loop_row(what: str, mine: Iterator[Any], theirs: Iterator[Any], steps: int, rounds: int, row: str = "loop") -> Row:
    """Of two loops that report every so many steps."""
    a, b, ratio = interleaved(lambda: next(mine), lambda: next(theirs), repeat=1, rounds=rounds)
    return Row(row, what, steps / a, "Stable-Baselines3", steps / b, "steps/s", ratio)


def bench_inference(rounds: int) -> list[Row]:
    """One inference of the exported policy through the onboard runtime against torch and SB3's predict."""
    from simtoreal.export.bundle import write_bundle
    from simtoreal.export.onboard.layout import CommandMap, Field
    from simtoreal.export.onboard.runtime import Runtime
    from simtoreal.export.onboard.spec import Spec

    actor, model = ours("sac").actor(), sb3("sac").model
    ones = (1.0,) * ACTION
    spec = Spec(
        task="bench",
        algorithm="sac",
        control_dt=0.02,
        observation=(Field("observation", OBSERVATION, "-"),),
        command=(Field("command", ACTION, "-"),),
        command_map=CommandMap((0.0,) * ACTION, ones, tuple(-x for x in ones), ones),
    )
    observations = np.random.default_rng(0).standard_normal((64, OBSERVATION)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        runtime = Runtime(
            write_bundle(Path(folder) / "bundle", actor=actor, spec=spec, recorded_observations=observations)
        )
    one = observations[0]

    def onboard() -> None:
        runtime.act(one)

    def in_torch() -> None:
        with torch.inference_mode():
            actor(torch.from_numpy(one)[None])

    rows = []
    for name, peer in (
        ("torch", in_torch),
        ("Stable-Baselines3 predict", lambda: model.predict(one, deterministic=True)),
    ):
        mine, theirs, ratio = interleaved(onboard, peer, repeat=1000, rounds=rounds)
        what = f"one inference, {OBSERVATION} -> 256 -> 256 -> {ACTION}, checks included"
        rows.append(Row("inference", what, mine * 1e6, name, theirs * 1e6, "us", ratio))
    return rows
