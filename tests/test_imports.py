"""All the ways in: `python -m simtoreal`, `python -m pytest` and a script, each from the root, from elsewhere, and
from a built wheel; and how little `simtoreal --help` costs."""

import json
import os
import shutil
import site
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from simtoreal.build import task_ids

ROOT = Path(__file__).parents[1]
VERBS = [
    "tasks", "inspect", "train", "finetune", "distill", "import", "export", "verify", "evaluate", "sensitivity",
    "replay", "play", "demo", "bench",
]  # fmt: skip
SOURCES = ("simtoreal", "robots", "randomization", "policies", "export", "pyproject.toml", "README.md", "LICENSE")
SCRIPT = """
import json, simtoreal, gymnasium
from simtoreal.config import default_algorithm, recipe
from simtoreal.randomization.shipped import preset_paths, suite_paths
tasks = simtoreal.tasks()["tasks"]
found = {
    "files": [module.__file__ for module in (
        simtoreal, __import__("simtoreal.robots").robots, __import__("simtoreal.randomization").randomization,
        __import__("simtoreal.policies").policies, __import__("simtoreal.export.onboard").export)],
    "observations": {name: task["observation"] for name, task in tasks.items()},
    "presets": sorted(preset_paths()),
    "suites": {name: sorted(suite_paths(name)) for name in tasks},
    "recipes": all(recipe(name, default_algorithm(name)) for name in tasks),
}
env = gymnasium.make("simtoreal/PandaReach-v0")
found["first"] = env.reset(seed=0)[0].tolist()
print(json.dumps(found))
"""


def run(python: Path, *arguments: str, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [python, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_requirements_are_locked_in_a_fresh_clone(tmp_path):
    """With a uv that only notes what it is asked to do: the real one asks the network."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    uv = tmp_path / "bin" / "uv"
    uv.parent.mkdir()
    uv.write_text('#!/bin/sh\necho "$@" > asked.txt\n')
    uv.chmod(0o755)
    path = f"{uv.parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["make", "lock"], cwd=tmp_path, env=os.environ | {"PATH": path}, check=True, capture_output=True)
    assert "--override build/no-torch.txt" in (tmp_path / "asked.txt").read_text()
    assert (tmp_path / "build" / "no-torch.txt").read_text() == "torch; python_version < '3'\n"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The interpreter of a fresh environment that holds the built wheel; its dependencies are those of this one."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    pip = ["-m", "pip", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-index", "--no-build-isolation"]
    run(Path(sys.executable), *pip, "wheel", *options, "--wheel-dir", str(folder / "dist"), str(source), cwd=folder)
    shutil.rmtree(source)
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    (built,) = (folder / "dist").glob("*.whl")
    run(Path(sys.executable), *pip, "--python", str(python), "install", *options[:2], str(built), cwd=folder)
    (home,) = (folder / "venv").glob("lib/python*/site-packages")
    packages = [path for path in (*site.getsitepackages(), site.getusersitepackages()) if Path(path).is_dir()]
    (home / "dependencies.pth").write_text("\n".join(packages))
    return python


@pytest.fixture(params=["root", "elsewhere", "wheel"])
def way(request, tmp_path):
    """The interpreter, the working folder, and where the code must come from."""
    if request.param == "wheel":
        python = request.getfixturevalue("wheel")
        return python, tmp_path, python.parents[1]
    return Path(sys.executable), ROOT if request.param == "root" else tmp_path, ROOT


def test_a_script(way, tmp_path):
    python, cwd, home = way
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    found = json.loads(run(python, str(script), cwd=cwd))
    assert all(Path(file).is_relative_to(home) for file in found["files"])
    sizes = {"A1Walk": 46, "CartPoleSwingUp": 6, "KukaReach": 27, "PandaReach": len(found["first"]), "XArmReach": 24}
    assert sizes.items() <= found["observations"].items()
    assert list(found["observations"]) == list(task_ids())
    assert found["presets"] == sorted(path.stem for path in (ROOT / "randomization" / "presets").iterdir())
    assert set(found["presets"]) >= set(sizes)
    shipped = {name for name in found["presets"] if name in found["observations"]}
    assert {name: suites for name, suites in found["suites"].items() if suites} == {
        name: ["heldout", "nominal", *(["terrain"] if name.endswith("Walk") else []), "train"]
        for name in sorted(shipped)
    }
    assert found["recipes"]


def test_the_module(way):
    python, cwd, _ = way
    found = json.loads(run(python, "-m", "simtoreal", "tasks", "--json", cwd=cwd))
    assert {name: task["id"] for name, task in found["tasks"].items()} == task_ids()


def test_pytest(way):
    python, cwd, _ = way
    some = str(ROOT / "tests" / "export" / "test_spec.py")
    options = ["--collect-only", "-q", "-p", "no:cacheprovider"]
    assert "test_spec.py" in run(python, "-m", "pytest", *options, some, cwd=cwd)


def test_the_console_script_of_the_wheel(wheel, tmp_path):
    assert "Take a robot controller" in run(wheel.with_name("simtoreal"), "--help", cwd=tmp_path)


def test_help_answers_at_once_and_lists_exactly_the_verbs():
    code = (
        "import sys, resource\n"
        "from simtoreal.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "spent = resource.getrusage(resource.RUSAGE_SELF)\n"
        "heavy = {'torch', 'pybullet', 'stable_baselines3', 'onnx', 'onnxruntime', 'scipy'} & set(sys.modules)\n"
        "print(heavy, file=sys.stderr)\n"
        "print(spent.ru_utime + spent.ru_stime, file=sys.stderr)\n"
    )
    seconds = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        heavy, spent = done.stderr.strip().splitlines()
        assert heavy == "set()"
        seconds.append(float(spent))
    assert min(seconds) < 0.5
    listed = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ") and line[2].isalpha()]
    assert sorted(listed) == sorted(VERBS)


def test_what_simulates_and_judges_needs_no_torch(tmp_path):
    """Nor do workers: torch would be two thirds of their memory, and of the time in which they come up."""
    code = (
        "import sys\n"
        "from simtoreal.cli import main\n"
        "import simtoreal.playing, simtoreal.sensitivity, simtoreal.worker_process\n"
        f"main(['evaluate', 'examples/bundles/pandareach', '--suite', 'nominal', '--episodes', '1', "
        f"'--out', {str(tmp_path / 'verdict')!r}])\n"
        "print('torch' in sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "False"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb, capsys):
    from simtoreal.cli import main

    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert f"usage: simtoreal {verb} " in text
    assert "--json" in text


def test_importing_the_package_loads_nothing_heavy_and_offers_the_verbs():
    functions = ["import_policy" if verb == "import" else verb for verb in VERBS]  # `import` is a word of Python's
    code = (
        "import sys, simtoreal, gymnasium\n"
        "heavy = {'torch', 'pybullet', 'stable_baselines3', 'onnx', 'onnxruntime', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert 'simtoreal/CartPoleSwingUp-v0' in gymnasium.registry\n"
        "import simtoreal.train, simtoreal.evaluate, simtoreal.export.bundle\n"
        f"assert all(callable(getattr(simtoreal, name)) for name in {functions})\n"
        "assert simtoreal.train.train and simtoreal.export.Spec\n"
        "print(sorted(simtoreal.tasks()['tasks']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "CartPoleSwingUp" in done.stdout
