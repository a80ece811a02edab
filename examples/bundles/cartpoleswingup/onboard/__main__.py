"""`python BUNDLE/onboard --self-test`: is this bundle whole, and does it act here as it did where it was made?

Exit status: 0 yes; 1 no, the commands differ; 2 the bundle is damaged or edited, or the call is wrong;
3 something failed that is no answer.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import sys
import traceback

FOLDER = os.path.dirname(os.path.abspath(__file__))


def own_package() -> str:
    """The name of the package that holds this file; run as a folder there is none yet, so it is loaded as `onboard`."""
    if __package__:
        return __package__
    # Python put this folder on the path: spec.py and its like would be found as top-level modules, by anybody.
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != FOLDER]
    sys.dont_write_bytecode = True  # a bundle stays as it was written
    sys.pycache_prefix = os.devnull  # and only what has a hash runs: no bytecode that lies beside it
    source = os.path.join(FOLDER, "__init__.py")
    spec = importlib.util.spec_from_file_location("onboard", source, submodule_search_locations=[FOLDER])
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules["onboard"] = package
    spec.loader.exec_module(package)
    return "onboard"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(prog="onboard", description="Check the bundle that holds this folder.")
    parser.add_argument("--self-test", action="store_true", help="hashes, contract, golden vectors and latency")
    parser.add_argument("--json", action="store_true", help="the result on stdout as one JSON object")
    parser.add_argument("--bundle", default=os.path.dirname(FOLDER), help="another bundle folder")
    options = parser.parse_args(arguments)
    if not options.self_test:
        parser.error("nothing to do; say --self-test")
    try:
        module = importlib.import_module(own_package() + ".runtime")
        runtime = module.Runtime(options.bundle)
        try:
            error, latency = runtime.golden_error(), runtime.latency()
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


if __name__ == "__main__":
    sys.exit(main())
