"""`python BUNDLE/onboard --self-test`: is this bundle whole, and does it act here as it did where it was made?

Exit status: 0 yes; 1 no, the commands differ or are none of its choices; 2 the bundle is damaged or edited, or the call
is wrong; 3 something failed that is no answer.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import traceback

FOLDER = os.path.dirname(os.path.abspath(__file__))


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(prog="onboard", description="Check the bundle that holds this folder.")
    parser.add_argument(
        "--self-test", action="store_true", help="hashes, contract, golden vectors, choices and latency"
    )
    parser.add_argument("--json", action="store_true", help="the result on stdout as one JSON object")
    parser.add_argument("--bundle", default=os.path.dirname(FOLDER), help="another bundle folder")
    options = parser.parse_args(arguments)
    if not options.self_test:
        parser.error("nothing to do; say --self-test")
    try:
        module = importlib.import_module(".runtime", __package__)  # numpy may be missing, which is said below
        runtime = module.Runtime(options.bundle)
        try:
            error, latency = runtime.golden_error(), runtime.latency()
            runtime.golden_choices()
        except module.CommandError as problem:
            result = {"passed": False, "bundle": runtime.bundle, "task": runtime.spec.task, "problem": str(problem)}
            print(json.dumps(result) if options.json else f"FAILED: {runtime.bundle} ({runtime.spec.task}): {problem}")
            return 1
    except ImportError as problem:
        print(f"{problem}; the runtime needs numpy and onnxruntime: pip install numpy onnxruntime", file=sys.stderr)
        return 2
    except (ValueError, OSError) as problem:
        print(problem, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except Exception:
        traceback.print_exc()
        return 3
    passed = error <= runtime.spec.tolerance
    result = {
        "passed": passed,
        "bundle": runtime.bundle,
        "task": runtime.spec.task,
        "contract_sha256": runtime.spec.contract_sha256(),
        "golden_error": error,
        "tolerance": runtime.spec.tolerance,
        "p50_us": latency.p50,
        "p99_us": latency.p99,
        "control_dt": runtime.spec.control_dt,
    }
    if options.json:
        print(json.dumps(result))
    else:
        print(f"{'passed' if passed else 'FAILED'}: {runtime.bundle} ({runtime.spec.task})")
        print(f"golden vectors: largest difference {error:.1e} of the range, tolerance {runtime.spec.tolerance:.0e}")
        print(f"latency: p50 {latency.p50:.1f} us, p99 {latency.p99:.1f} us")
    return 0 if passed else 1
