"""Trainings that are really killed, again and again, and resumed; and whether two runs are alike.

As a script, in a process of its own so that what it forks has few threads and its imports done:
    python killing.py '{"arguments": ["PandaReach", ...], "out": RUN, "kills": 6, "seed": 0, "at": "times"}'
"""

from __future__ import annotations

import importlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

CLOCKS = ("seconds", "time/fps", "wall_seconds", "cpu_seconds", "metrics_bytes", "resumed_at")


def without_clocks(data: Any) -> Any:
    """`data` without what a clock, or the number of breaks, decides."""
    if isinstance(data, dict):
        return {key: without_clocks(value) for key, value in data.items() if key not in CLOCKS}
    return data


def lines(run: Path) -> list[dict[str, Any]]:
    return [without_clocks(json.loads(line)) for line in (run / "metrics.jsonl").read_text().splitlines()]


def checkpoint(run: Path, step: int) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    folder = run / "checkpoints" / str(step)
    meta = json.loads((folder / "checkpoint.json").read_text())["meta"]
    return load_file(folder / "agent.safetensors"), meta


def replay(run: Path, memory: dict[str, Any]) -> dict[str, torch.Tensor]:
    """All rows that a checkpoint names and still needs, in their order; nothing where the learner keeps none."""
    if not memory["chunks"]:
        return {}
    parts = [load_file(run / "replay" / f"{first}-{last}.safetensors") for first, last, _ in memory["chunks"]]
    skip = memory["oldest"] - memory["chunks"][0][0]
    return {name: torch.cat([part[name] for part in parts])[skip:] for name in parts[0]}


def odd(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[str]:
    return [n for n in {*one, *other} if n not in one or n not in other or not torch.equal(one[n], other[n])]


def unlike(one: Path, other: Path) -> list[str]:
    """What differs, bit for bit, between two finished runs: metrics, summaries, last checkpoints, replays."""
    ours, theirs = lines(one), lines(other)
    found = [f"metrics.jsonl line {i}" for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b]
    if len(ours) != len(theirs):
        found.append(f"{len(ours)} and {len(theirs)} lines of metrics")
    a, b = (without_clocks(json.loads((run / "summary.json").read_text())) for run in (one, other))
    found += [f"summary {key}" for key in a if a[key] != b.get(key)]
    (tensors, meta), (their_tensors, their_meta) = (checkpoint(run, a["steps"]) for run in (one, other))
    found += odd(tensors, their_tensors)
    rows = replay(one, meta["memory"]), replay(other, their_meta["memory"])
    found += [f"replay {name}" for name in odd(*rows)]
    for each in (meta, their_meta):
        each["memory"] = (each["memory"]["added"], each["memory"]["oldest"])
    meta["standing"], their_meta["standing"] = without_clocks(meta["standing"]), without_clocks(their_meta["standing"])
    return found + [f"meta {key}" for key in meta if meta[key] != their_meta.get(key)]


def newest(run: Path) -> int:
    """The step of the newest checkpoint, 0 before the first."""
    return max((int(path.name) for path in (run / "checkpoints").glob("[0-9]*")), default=0)


def command(arguments: Sequence[str], out: Path) -> list[str]:
    """The command that begins the run, or that goes on with it."""
    if (out / "config.yaml").is_file():
        return ["train", arguments[0], "--out", str(out), "--resume"]
    return ["train", *arguments, "--out", str(out)] + (["--force"] if out.exists() else [])


def fork(words: Sequence[str], die_at: int = 0) -> int:
    """Run the command line in a child; with `die_at` it is killed before that one of its calls that change the disk."""
    pid = os.fork()
    if pid:
        return pid
    from simtoreal.cli import main

    if die_at:
        left = [die_at]
        for name in ("fsync", "replace", "unlink", "rmdir", "mkdir"):
            real = getattr(os, name)

            def dying(*given: Any, _real: Any = real, **named: Any) -> Any:
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return _real(*given, **named)

            setattr(os, name, dying)
    try:
        os._exit(main(words))
    finally:
        os._exit(99)


def start(words: Sequence[str]) -> int:
    """Run the command line in a fresh interpreter."""
    quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    return os.posix_spawn(sys.executable, [sys.executable, "-m", "simtoreal", *words], os.environ, file_actions=quiet)


def ended(pid: int, seconds: float) -> int | None:
    """The exit code of a child that ends within `seconds`, negative for a signal; else None."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None


def kill(pid: int, seconds: float) -> int:
    """The exit code of a child that is killed after `seconds`, if it is still there then."""
    code = ended(pid, seconds)
    if code is None:
        os.kill(pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code


def train_through_kills(
    arguments: Sequence[str], out: Path, *, kills: int, seed: int, at: str = "times", within: float = 0.0
) -> dict[str, Any]:
    """Train to the end through `kills` times kill -9, each followed by `--resume`.

    `at` "times": up to `within` seconds after the start, later after one that came before any progress; "calls": before
    a random call that changes the disk.
    """
    rng, steps, patience = random.Random(seed), [], 1.0
    for _ in range(kills):
        before, words = newest(out), command(arguments, out)
        if at == "calls":
            code = kill(fork(words, die_at=rng.randint(1, round(25 * patience))), 120)
        else:
            code = kill(fork(words), rng.uniform(0.05, within) * patience)
        if code != -signal.SIGKILL:
            return {"kills": len(steps), "steps": steps, "code": code}
        steps.append(newest(out))
        patience = 1.0 if newest(out) > before else patience * 1.5
    return {"kills": len(steps), "steps": steps, "code": ended(fork(command(arguments, out)), 600)}


def train_through_all_kills(
    arguments: Sequence[str], out: Path, *, kills: int, seed: int, steps: int
) -> dict[str, Any]:
    """As above, each start an interpreter of its own, and the kills spread over all of a training of `steps`.

    Three in four come at an instant after a random step was reached, the others within 5 s of the start.
    """
    rng, seen = random.Random(seed), []
    for target in sorted(rng.uniform(0, 0.9 * steps) for _ in range(kills)):
        pid, code = start(command(arguments, out)), None
        if rng.random() < 0.75:
            while code is None and newest(out) < target:
                code = ended(pid, 0.01)
        code = kill(pid, rng.uniform(0, 5)) if code is None else code
        seen.append(newest(out))
        if code != -signal.SIGKILL:
            return {"kills": len(seen) - 1, "steps": seen, "code": code}
    return {"kills": len(seen), "steps": seen, "code": ended(start(command(arguments, out)), 3600)}


def import_everything() -> None:
    """Whatever a training imports on its way, so that no child has to: only training time is left to be killed in."""
    import simtoreal.cli
    import simtoreal.train

    importlib.import_module("torch.utils.tensorboard")
    for name in ("sac", "loops", "replay", "baselines"):
        importlib.import_module(f"simtoreal.policies.{name}")
    for task in simtoreal.build.task_ids().values():
        simtoreal.build.make_env(task).close()
    weight = torch.zeros(1, requires_grad=True)
    weight.sum().backward()
    torch.optim.Adam([weight], fused=True).step()


if __name__ == "__main__":
    torch.set_num_threads(1)
    import_everything()
    order = json.loads(sys.argv[1])
    print(json.dumps(train_through_kills(order.pop("arguments"), Path(order.pop("out")), **order)))
