"""One short training of each kind, exported, for all tests of the bridge; and the command line in this process."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

import simtoreal
from simtoreal.cli import main
from simtoreal.config import recipe

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job: its children would not see Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, str(Path(__file__).parent))
from drift import gone, workers_of

torch.set_num_threads(1)
STEPS = 600  # more than one episode
QUICK = ("evaluate_every=200", "evaluate_episodes=1")
SMALL = {
    "sac": ("agent.hidden=[16, 16]", "agent.learning_starts=50", "agent.updates_per_step=0.1", "agent.batch_size=32"),
    "td3": ("agent.hidden=[16, 16]", "agent.learning_starts=50", "agent.updates_per_step=0.1", "agent.batch_size=32"),
    "ppo": ("agent.hidden=[16, 16]", "agent.rollout=50", "agent.epochs=2"),
    "reinforce": ("agent.hidden=[16, 16]",),
    "dqn": ("agent.hidden=[16, 16]", "agent.learning_starts=50", "agent.batch_size=32"),
    "rainbow": ("agent.hidden=[16, 16]", "agent.learning_starts=50", "agent.batch_size=32", "agent.buffer_size=500"),
    "qlearning": ("agent.bins=[3, 3, 6, 6]", "agent.low=[-2.4, -2, -0.2, -2]", "agent.high=[2.4, 2, 0.2, 2]"),
    "sb3-ppo": ("agent.policy_kwargs.net_arch=[16, 16]", "agent.n_steps=50", "agent.batch_size=50"),
    "sb3-dqn": (
        "agent.policy_kwargs.net_arch=[16, 16]",
        "agent.learning_starts=50",
        "agent.exploration_initial_eps=0.05",
    ),
    "sb3-td3": ("agent.policy_kwargs.net_arch=[16, 16]", "agent.learning_starts=50", "agent.train_freq=10"),
    "sb3-sac": ("agent.policy_kwargs.net_arch=[16, 16]", "agent.learning_starts=50", "agent.train_freq=10"),
}


def quick(algorithm: str = "sac") -> list[str]:
    """Settings under which a training takes about a second."""
    return [*QUICK, *SMALL[algorithm]]


@dataclass(frozen=True)
class Trained:
    """A run and the bundle exported from it."""

    run: Path
    bundle: Path


def train_and_export(folder: Path, name: str, algorithm: str = "sac", **options: Any) -> Trained:
    result = simtoreal.train(
        "CartPoleSwingUp", steps=STEPS, out=folder / f"run-{name}", algorithm=algorithm,
        assignments=quick(algorithm), **options,
    )  # fmt: skip
    return Trained(result.run, simtoreal.export(result.run, folder / name))


@pytest.fixture(scope="session")
def randomized(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Our SAC on the task's own preset. No test may change it."""
    assert recipe("CartPoleSwingUp", "sac")
    return train_and_export(tmp_path_factory.mktemp("randomized"), "randomized", checkpoint_every=400)


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Our SAC on the nominal robot. No test may change it."""
    return train_and_export(tmp_path_factory.mktemp("plain"), "plain", randomization="none", seed=1)


@pytest.fixture(scope="session")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Stable-Baselines3's SAC. No test may change it."""
    return train_and_export(tmp_path_factory.mktemp("baseline"), "baseline", "sb3-sac")


@dataclass(frozen=True)
class Said:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> dict[str, Any]:
        """stdout, which must be one JSON object and nothing else."""
        found: dict[str, Any] = json.loads(self.out)
        return found

    def refused(self, words: str) -> None:
        """Bad input: 2, one line on stderr that says `words`, nothing on stdout."""
        assert (self.code, self.out) == (2, ""), self
        (line,) = self.err.strip().splitlines()
        assert words in line, line
        assert "Traceback" not in line


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Run the command line in this process."""

    def run(*arguments: object) -> Said:
        capfd.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = capfd.readouterr()
        return Said(code, said.out, said.err)

    return run


@pytest.fixture
def controllers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Write a controller's module; its name for the command line."""
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))

    def write(body: str) -> str:
        name = f"controller_{abs(hash((str(tmp_path), body))):x}"
        (folder / f"{name}.py").write_text(f"import os, signal\nimport numpy as np\n\n\n{body}\n")
        return f"{name}:act"

    return write


@pytest.fixture
def nothing_stays() -> Iterator[None]:
    """A test that starts workers leaves no process and no file in shared memory behind."""
    before, names = set(workers_of(psutil.Process())), set(os.listdir("/dev/shm"))
    yield
    assert not gone([p.pid for p in workers_of(psutil.Process()) if p not in before], 1)
    deadline = time.monotonic() + 5
    while (left := new_files(names) - held_by_others()) and time.monotonic() < deadline:
        time.sleep(0.1)  # others' come and go between the two looks
    assert not left


def new_files(names: set[str]) -> set[int]:
    """Inodes of what lies in shared memory beside `names`."""
    inodes = set()
    for name in set(os.listdir("/dev/shm")) - names:
        with suppress(FileNotFoundError):
            inodes.add(os.stat(f"/dev/shm/{name}").st_ino)
    return inodes


def held_by_others() -> set[int]:
    """Inodes in shared memory that a living process which is not of this test's has open: the machine is not ours.

    By inode and not by name, because the C library makes a semaphore under another name than it then gives it, and
    /proc goes on telling the first.
    """
    mine = psutil.Process()
    family = {mine.pid, *(child.pid for child in mine.children(recursive=True))}
    inodes = set()
    for pid in set(psutil.pids()) - family:
        with suppress(FileNotFoundError, PermissionError, ProcessLookupError):
            for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
                _, _, _, _, inode, *path = line.split(maxsplit=5)
                if path and path[0].startswith("/dev/shm/"):
                    inodes.add(int(inode))
    return inodes
