"""The folder that travels with a bundle, run as a robot would: by itself, in another process."""

from __future__ import annotations

import ast
import json
import os
import py_compile
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import pytest

from simtoreal.export import onboard, verify_bundle

SOURCES = sorted(Path(onboard.__file__).parent.glob("*.py"))


def run(*arguments: str | Path, python: str | Path = sys.executable, **kwargs) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    command = [str(python), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False, **kwargs)


def test_the_self_test_passes_where_only_numpy_and_onnxruntime_are(pristine, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True, timeout=120)
    python = tmp_path / "venv" / "bin" / "python"
    wanted = [f"numpy=={version('numpy')}", f"onnxruntime=={version('onnxruntime')}"]
    pip = ("-m", "pip", "--python", python, "--quiet", "--disable-pip-version-check")
    installed = run(*pip, "install", "--no-compile", *wanted)
    assert installed.returncode == 0, installed.stderr
    absent = run("-c", "import simtoreal", python=python, cwd=tmp_path)
    assert "No module named 'simtoreal'" in absent.stderr
    result = run(pristine / "onboard", "--self-test", python=python, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("passed: ")


def test_json_is_one_object_on_stdout(pristine):
    result = run(pristine / "onboard", "--self-test", "--json")
    answer = json.loads(result.stdout)
    assert result.returncode == 0
    assert answer["passed"] is True
    assert answer["golden_error"] < 1e-6
    assert 0 < answer["p50_us"] <= answer["p99_us"]


def test_it_runs_anywhere_without_a_warning_any_number_of_times(pristine, tmp_path):
    bundle = Path(shutil.copytree(pristine, tmp_path / "mein Bündel (2)"))
    for _ in range(2):  # Python caches __main__.py in the bundle on the first
        result = run("-W", "error", "onboard", "--self-test", cwd=bundle)
        assert (result.returncode, result.stderr) == (0, "")


def test_a_renamed_folder_still_finds_itself(pristine, tmp_path):
    bundle = Path(shutil.copytree(pristine, tmp_path / "b"))
    shutil.copytree(bundle / "onboard", tmp_path / "my.robot")
    assert run(tmp_path / "my.robot", "--self-test", "--bundle", bundle).returncode == 0


def test_it_runs_as_an_installed_module_too(pristine):
    root = Path(__file__).parents[2]
    command = ["-m", "simtoreal.export.onboard", "--self-test", "--bundle", pristine]
    assert run(*command, cwd=root).returncode == 0
    refused = run(*command[:-2], cwd=root)
    assert refused.returncode == 2
    assert "is this a bundle?" in refused.stderr


def test_commands_that_differ_are_a_no(bundle, resign):
    with np.load(bundle / "golden.npz") as data:
        np.savez(bundle / "golden.npz", observation=data["observation"], command=data["command"] + np.float32(0.01))
    resign(bundle)
    result = run(bundle / "onboard", "--self-test", "--json")
    assert result.returncode == 1
    assert json.loads(result.stdout)["passed"] is False
    assert run(bundle / "onboard", "--self-test").stdout.startswith("FAILED")


@pytest.mark.parametrize("name", ["policy.onnx", "spec.json", "golden.npz", "onboard/checks.py"])
def test_tampering_is_refused_in_one_line(bundle, name):
    path = bundle / name
    path.write_bytes(path.read_bytes().replace(b"0", b"1", 1) if name == "spec.json" else path.read_bytes() + b"\n")
    result = run(bundle / "onboard", "--self-test", "--json")
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert name in result.stderr


def test_a_policy_that_gives_no_number_is_a_no(bundle, resign):
    model = onnx.load(bundle / "policy.onnx")
    weights = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    weights.raw_data = np.full(len(weights.raw_data) // 4, np.nan, np.float32).tobytes()
    (bundle / "policy.onnx").write_bytes(model.SerializeToString())
    resign(bundle)
    result = run(bundle / "onboard", "--self-test")
    assert (result.returncode, result.stderr) == (1, "")
    assert result.stdout.startswith("FAILED")
    assert '"command" is not finite' in result.stdout
    assert json.loads(run(bundle / "onboard", "--self-test", "--json").stdout)["passed"] is False
    assert [check.name for check in verify_bundle(bundle) if not check.passed] == ["golden"]


@pytest.mark.parametrize("arguments", [[], ["--selftest"], ["--self-test", "extra"]])
def test_a_wrong_call_is_answered_with_the_usage(pristine, arguments):
    result = run(pristine / "onboard", *arguments)
    assert result.returncode == 2
    assert "usage: onboard" in result.stderr


def test_a_missing_library_is_named(pristine):
    """`-S` and `-I` leave the standard library alone."""
    result = run("-I", "-S", pristine / "onboard", "--self-test")
    assert result.returncode == 2
    assert "pip install numpy onnxruntime" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_module_beside_the_bundle_cannot_take_the_place_of_a_library(bundle):
    (bundle / "onboard" / "numpy.py").write_text("raise SystemExit(77)")
    result = run(bundle / "onboard", "--self-test")
    assert result.returncode == 2
    assert "numpy.py is not listed" in result.stderr


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_onboard_is_python_3_8_on_numpy_and_onnxruntime_alone(source):
    tree = ast.parse(source.read_text(), feature_version=(3, 8))
    modules = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules.append(node.module)
    allowed = set(sys.stdlib_module_names) | {"numpy", "onnxruntime"}
    assert {name.split(".")[0] for name in modules} <= allowed


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import simtoreal.export", ["torch", "onnx", "onnxruntime"]),
        ("from simtoreal.export import Spec, Field, read_spec, check_files", ["torch", "onnx", "onnxruntime"]),
        ("from simtoreal.export import Runtime", ["torch", "onnx"]),
    ],
)
def test_importing_loads_no_more_than_is_used(code, absent):
    result = run(
        "-c", f"{code}; import sys; print([m for m in {absent} if m in sys.modules])", cwd=SOURCES[0].parents[2]
    )
    assert result.stdout.strip() == "[]", result.stderr


def test_every_public_name_is_there():
    from simtoreal import export

    for name in export.__all__:
        assert getattr(export, name).__name__ == name
    assert set(dir(export)) == set(export.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = export.nonsense


def test_bytecode_that_lies_beside_the_sources_does_not_run(pristine, tmp_path):
    """It has no hash: Python itself would load it in place of the module that has one."""
    bundle, mark = tmp_path / "bundle", tmp_path / "ran"
    shutil.copytree(pristine, bundle, ignore=shutil.ignore_patterns("__pycache__"))
    source = tmp_path / "checks.py"
    source.write_text((bundle / "onboard" / "checks.py").read_text() + f"\nopen({str(mark)!r}, 'w').close()\n")
    cache = bundle / "onboard" / "__pycache__"
    cache.mkdir()
    compiled = cache / f"checks.{sys.implementation.cache_tag}.pyc"
    py_compile.compile(str(source), str(compiled), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    result = run(bundle / "onboard", "--self-test", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert not mark.exists()


@pytest.mark.parametrize("name", ["json", "argparse", "__future__", "importlib", "os", "sys", "encodings", "onboard"])
def test_a_file_named_as_a_module_is_not_run_before_it_is_found_out(pristine, tmp_path, name):
    bundle, mark = tmp_path / "bundle", tmp_path / "ran"
    shutil.copytree(pristine, bundle, ignore=shutil.ignore_patterns("__pycache__"))
    (bundle / "onboard" / f"{name}.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    result = run(bundle / "onboard", "--self-test", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert f"onboard/{name}.py is not listed" in result.stderr
    assert not mark.exists()


@pytest.mark.parametrize(
    "name", ["onboard/__pycache__/evil.cpython-311.pyc", "onboard/__pycache__/x", "__pycache__/deep/x"]
)
def test_nothing_but_what_was_compiled_of_a_listed_module_may_lie_in_pycache(pristine, tmp_path, name):
    bundle = tmp_path / "bundle"
    shutil.copytree(pristine, bundle, ignore=shutil.ignore_patterns("__pycache__"))
    (bundle / name).parent.mkdir(parents=True)
    (bundle / name).write_bytes(b"")
    result = run(bundle / "onboard", "--self-test", cwd=tmp_path)
    assert result.returncode == 2
    assert f"{Path(name).name} is not listed" in result.stderr
