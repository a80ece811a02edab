"""Twenty times kill -9 (`make soak`): a training that is killed at random instants ends as an undisturbed one does.

    python tests/soak.py [--kills 20] [--seed 0] [--steps N] [--out DIR] [TASK ...]

Every start is an interpreter of its own with the task's own settings and preset, under `python -m simtoreal train`.
Prints what was killed when, and ends with 1 if any bit of the results differs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "simtoreal"))
from killing import command, ended, start, train_through_all_kills, unlike

SETTINGS = ("save_every=200", "evaluate_every=1000", "evaluate_episodes=5")


def soak(task: str, folder: Path, *, kills: int, steps: int, seed: int) -> bool:
    arguments = [task, "--steps", str(steps), "--seed", str(seed), *(f"--set={setting}" for setting in SETTINGS)]
    began = time.monotonic()
    if ended(start(command(arguments, folder / "undisturbed")), 3600) != 0:
        raise SystemExit(f"{task}: the undisturbed training failed")
    alone = time.monotonic() - began
    said = train_through_all_kills(arguments, folder / "killed", kills=kills, seed=seed, steps=steps)
    if said["code"] != 0:
        raise SystemExit(f"{task}: a training ended with {said['code']}, after kills at {said['steps']}")
    found = unlike(folder / "undisturbed", folder / "killed")
    result = json.loads((folder / "killed" / "summary.json").read_text())
    print(
        f"{task}: {steps} steps, {alone:.0f} s undisturbed; {said['kills']} kills, newest checkpoint then at "
        f"{said['steps']}; resumed at {result['resumed_at']}; "
        f"{'identical bit for bit' if not found else 'DIFFERS: ' + ', '.join(found)}",
        flush=True,
    )
    return not found and said["kills"] == kills


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="*", default=["CartPoleSwingUp", "PandaReach"], metavar="TASK")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="default: a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.out or Path(temporary)
        alike = [
            soak(task, folder / task, kills=options.kills, steps=options.steps, seed=options.seed)
            for task in options.tasks
        ]
    return 0 if all(alike) else 1


if __name__ == "__main__":
    sys.exit(main())
