"""The bundles of examples/bundles: a randomized policy of each task, to look at and to judge before training anything.

    python examples/bundles.py [TASK ...] [--folder runs/bundles]

Trains what is missing (some minutes on one core each, A1Walk half an hour), and exports the best
checkpoint.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from trained import trained

import simtoreal

TASKS = ("CartPoleSwingUp", "PandaReach", "A1Walk")
SEED = 0
OUT = Path(__file__).parent / "bundles"


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"of {', '.join(TASKS)}; default: all")
    parser.add_argument("--folder", type=Path, default=Path("runs/bundles"))
    options = parser.parse_args()
    if unknown := set(options.tasks) - set(TASKS):
        parser.error(f"no bundle of {', '.join(sorted(unknown))}; tasks: {', '.join(TASKS)}")
    for task in options.tasks or TASKS:
        run = trained(task, options.folder / task, seed=SEED)
        bundle = simtoreal.export(run, OUT / task.lower(), force=True)
        verification = simtoreal.verify(bundle)
        assert verification.passed, verification
        print(f"{task}: {bundle}")


if __name__ == "__main__":
    main()
