"""The whole way through the command line, as a script would go it, in paths with spaces and letters of all kinds."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simtoreal.conftest import quick

ROOT = Path(__file__).parents[2]


def simtoreal(folder, *arguments, code=0):
    """One verb in a process of its own; stdout must be one JSON object."""
    done = subprocess.run(
        [sys.executable, "-m", "simtoreal", *map(str, arguments), "--json"],
        cwd=folder, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout)


@pytest.fixture(params=["CartPoleSwingUp in a shell", "PandaReach in this process"])
def way(request, tmp_path, monkeypatch, cli):
    """A task, and how its verbs are run: the arguments and the exit code expected, the JSON object returned."""
    task, _, where = request.param.partition(" in ")
    folder = tmp_path / "ein Ordner für 机器人"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def here(*arguments, code=0):
        said = cli(*arguments, "--json")
        assert said.code == code, said.err
        return said.result

    def shell(*arguments, code=0):
        return simtoreal(folder, *arguments, code=code)

    return task, folder, shell if where == "a shell" else here


def test_train_export_verify_evaluate_replay(way):
    task, folder, run = way
    quick = ["evaluate_every=200", "evaluate_episodes=1", "agent.learning_starts=50", "agent.updates_per_step=0.1"]
    sets = [part for text in quick for part in ("--set", text)]
    trained = run("train", task, "--steps", 200, "--out", "der Lauf", "--envs", 2, *sets)
    assert trained["steps"] == 200
    assert run("export", "der Lauf", "--out", "das Bündel") == {"bundle": "das Bündel"}
    verified = run("verify", "das Bündel")
    assert verified["passed"]
    judged = run(
        "evaluate", "das Bündel", "--suite", "nominal", "--episodes", 3, "--out", "Urteil & mehr",
        "--gate", "return_mean > -1e9", "--gate", "success >= 0.99", code=1,
    )  # fmt: skip
    assert [gate["passed"] for gate in judged["gates"]] == [True, False]
    assert judged["bundles"] == ["das Bündel"]
    assert (folder / judged["report"]).is_file()
    replayed = run("replay", "Urteil & mehr", "nominal/nominal/2")
    assert replayed["identical"]
    assert sorted(path.name for path in folder.iterdir()) == ["Urteil & mehr", "das Bündel", "der Lauf"]


def test_a_policy_with_a_history_goes_the_whole_way(tmp_path, cli):
    run, bundle, verdict = (tmp_path / name for name in ("run", "bundle", "verdict"))
    sets = [f"--set={text}" for text in (*quick(), "agent.history=3")]
    cli("train", "CartPoleSwingUp", "--steps", 300, "--out", run, "--set=agent.history=0").refused(
        "history must be from 1 to 64, got 0"
    )
    assert cli("train", "CartPoleSwingUp", "--steps", 300, "--envs", 2, "--out", run, *sets).code == 0
    assert cli("export", run, "--out", bundle).code == 0
    verified = cli("verify", bundle, "--json").result
    checks = {check["name"]: check for check in verified["checks"]}
    assert verified["passed"]
    assert checks["schema"]["detail"] == "format 2, 6 x 3 -> 1"
    assert "1000 control steps" in checks["closed loop"]["detail"]
    assert cli("evaluate", bundle, "--suite", "nominal", "--episodes", 3, "--out", verdict).code == 0
    for case in (0, 2):  # each episode begins with a history of its own
        assert cli("replay", verdict, f"nominal/nominal/{case}", "--json").result["identical"]
    done = subprocess.run([sys.executable, bundle / "onboard", "--self-test"], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_onboard_code_of_a_bundle_runs_without_this_package(randomized, tmp_path):
    code = "import sys, runpy; sys.path = [p for p in sys.path if p != ''];" + (
        f"sys.argv = ['onboard', '--self-test', '--json']; runpy.run_path({str(randomized.bundle / 'onboard')!r}, "
        "run_name='__main__')"
    )
    check = "import atexit, sys; atexit.register(lambda: print(sorted({'torch', 'simtoreal', 'onnx', 'gymnasium'}"
    check += " & set(sys.modules)), file=sys.stderr));"
    done = subprocess.run(
        [sys.executable, "-c", check + code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip().splitlines()[-1] == "[]"
    assert json.loads(done.stdout)


def test_a_bare_command_from_a_shell(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "simtoreal", "export", "nowhere", "--out", "bundle"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "simtoreal: nowhere is not a run: no config.yaml and summary.json in it\n"
    assert not list(tmp_path.iterdir())


def test_a_reader_that_has_seen_enough_is_no_fault():
    with subprocess.Popen(
        [sys.executable, "-m", "simtoreal", "tasks"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as listing:
        listing.stdout.close()
        assert listing.wait(60) == 141
        assert listing.stderr.read() == ""


def test_a_failure_inside_is_never_read_as_a_verdict(monkeypatch, cli):
    monkeypatch.setattr("simtoreal.listing.tasks", lambda: 1 / 0)
    said = cli("tasks", "--json")
    assert (said.code, said.out) == (3, "")
    (line,) = said.err.splitlines()
    assert line == "simtoreal: ZeroDivisionError: division by zero (SIMTOREAL_TRACEBACK=1 shows where)"
    monkeypatch.setattr("simtoreal.listing.tasks", lambda: exec("raise KeyboardInterrupt"))
    assert cli("tasks").code == 130
    monkeypatch.setattr("simtoreal.listing.tasks", lambda: signal.raise_signal(signal.SIGTERM))
    assert cli("tasks").code == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_only_the_result_is_on_stdout(monkeypatch, cli):
    def chatty():
        print("from Python")
        os.system("echo from a child")
        os.write(1, b"from C\n")
        return {"tasks": {}}

    monkeypatch.setattr("simtoreal.listing.tasks", chatty)
    said = cli("tasks", "--json")
    assert said.out == '{"tasks": {}}\n'
    assert {"from Python", "from a child", "from C"} <= set(said.err.splitlines())


def test_a_preset_is_shown_with_its_sources(cli):
    said = cli("tasks", "--preset", "PandaReach", "--json")
    assert said.result["task"] == "PandaReach"
    assert all(entry["source"] and entry["unit"] for entry in said.result["entries"])
    cli("tasks", "--preset", "nope", "--json").refused("choices: A1Walk, ")
    assert "source" in cli("tasks", "--preset", "CartPoleSwingUp").out


def test_a_preset_is_of_an_engine_and_of_a_task_that_is_there(tmp_path, cli):
    preset = tmp_path / "mine.yaml"
    preset.write_text("task: PandaReach\nversion: 1\nentries:\n  joint.*.armature: {uniform: [0.0, 0.1]}\n")
    shown = ("tasks", "--preset", preset, "--json")
    cli(*shown).refused("mine.yaml:4: joint.*.armature: pattern matches no parameter; choices: joint.")
    assert cli(*shown, "--engine", "mujoco").result["entries"][0]["unit"] == "kg m^2"
    cli(*shown, "--engine", "ode").refused("no engine 'ode'")
    preset.write_text("task: Nonsense\nversion: 1\nentries: {gravity: 9.0}\n")
    cli(*shown).refused(f"{preset}: no task 'Nonsense'; choices: ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["demo", "Pendulum-v1"], "demos: PandaReach, CartPoleSwingUp"),
        (
            ["bench", "nope"],
            "no benchmark 'nope'; choices: dqn, gpu, inference, loop, overhead, randomization, reset, step, threads, u",
        ),
        (["bench", "--rounds", "0"], "must be a whole number from 1"),
    ],
)
def test_bad_input_elsewhere(arguments, words, tmp_path, monkeypatch, cli):
    monkeypatch.chdir(tmp_path)
    cli(*arguments).refused(words)
    assert not list(tmp_path.iterdir())


def test_the_demo_writes_over_nothing_but_a_demo(tmp_path, cli):
    (tmp_path / "thesis.txt").write_text("years of work")
    cli("demo", "--out", tmp_path).refused("exists; choose another folder or pass --force")
    cli("demo", "--out", tmp_path, "--force").refused("holds no demo.json")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
