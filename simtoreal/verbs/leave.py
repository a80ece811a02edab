"""Leave: a bundle, and what shows that it is sound."""

from __future__ import annotations

import argparse
from typing import Any

from simtoreal.verbs.verb import DONE, NO, Outcome, add_moved_robot, make_verb


def _export(verbs: Any) -> None:
    def run(options: argparse.Namespace) -> Outcome:
        from simtoreal.bundles import export

        path = export(
            options.run_folder,
            options.out,
            checkpoint=options.checkpoint,
            robot=options.robot,
            force=options.force,
        )
        if not options.json:
            print(f"bundle: {path}")
        return {"bundle": str(path)}, DONE

    verb = make_verb(verbs, "export", run)
    verb.add_argument("run_folder", metavar="RUN")
    verb.add_argument("--out", required=True, metavar="BUNDLE")
    verb.add_argument("--checkpoint", default="best", metavar="best|last|STEP")
    add_moved_robot(verb)
    verb.add_argument("--force", action="store_true", help="replace an earlier bundle")


def _verify(verbs: Any) -> None:
    def run(options: argparse.Namespace) -> Outcome:
        from simtoreal.bundles import verify

        result = verify(options.bundle, run=options.run_folder, robot=options.robot)
        if not options.json:
            for check in result.checks:
                print(f"{'ok  ' if check.passed else 'FAIL'}  {check.name:<12}  {check.detail}")
            for reason in result.skipped:
                print(f"skip  {reason}")
            passed = "passed, but for what was skipped" if result.skipped else "passed"
            print(passed if result.passed else "not passed")
        return result.to_json(), DONE if result.passed else NO

    verb = make_verb(verbs, "verify", run)
    verb.add_argument("bundle", metavar="BUNDLE")
    verb.add_argument(
        "--run", dest="run_folder", metavar="RUN", help="the run it came from (default: as the bundle says)"
    )
    add_moved_robot(verb)


VERBS = (_export, _verify)
