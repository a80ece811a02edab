import csv
import html
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from fnmatch import fnmatchcase

import numpy as np
import psutil
import pytest

import simtoreal
from simtoreal.config import ConfigError
from simtoreal.evaluate import PhysicsFailure, evaluate, known_ranges
from simtoreal.records import read_episodes
from simtoreal.robots.engines import MUJOCO_ALONE
from simtoreal.runs import RunError
from tests.simtoreal.conftest import quick

FALLS = "def act(observation):\n    return [10.0]"
STILL = "def act(observation):\n    return np.zeros(1)"
FIXED = (
    "bundle", "suite", "condition", "case", "seed", "engine", "return", "success", "length", "falls", "violations",
    "held_out",
)  # fmt: skip


@pytest.fixture(scope="module")
def verdict(randomized, plain, tmp_path_factory):
    """Both bundles on all three suites, two episodes a condition."""
    out = tmp_path_factory.mktemp("verdict") / "both"
    return evaluate([randomized.bundle, plain.bundle], out=out, episodes=2, seed=5)


def suite(folder, text):
    path = folder / "mine.yaml"
    path.write_text(f"task: CartPoleSwingUp\nname: mine\nversion: 1\n{text}")
    return path


def test_the_table_has_a_row_an_episode_and_a_column_a_parameter(verdict):
    with (verdict.out / "episodes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert set(FIXED) <= rows[0].keys()
    assert {"link.pole.mass", "actuator.latency", "sensor.pole_angle.noise"} <= rows[0].keys()
    conditions = {suite.suite: len(suite.conditions) for suite in verdict.summary.suites}
    assert set(conditions) == {"nominal", "train", "heldout"}
    assert len(rows) == 2 * 2 * sum(conditions.values())
    assert all(value != "" for row in rows for name, value in row.items() if name != "unmet")
    assert read_episodes(verdict.out / "episodes.csv") == list(verdict.episodes)


def test_every_bundle_meets_the_same_cases(verdict):
    def met(bundle):
        return [(e.suite, e.case, e.seed, e.parameters) for e in verdict.episodes if e.bundle == bundle]

    assert met("randomized") == met("plain")
    drawn = [tuple(e.parameters.items()) for e in verdict.episodes if e.bundle == "plain" and e.suite == "heldout"]
    assert len(set(drawn)) == len(drawn)
    assert {c.a for c in verdict.comparisons} | {c.b for c in verdict.comparisons} == {"randomized", "plain"}


def test_what_is_held_out_depends_on_the_training(verdict):
    def labels(bundle, suite):
        return {e.held_out for e in verdict.episodes if (e.bundle, e.suite) == (bundle, suite)}

    assert labels("randomized", "heldout") == labels("plain", "heldout") == {True}
    assert labels("randomized", "train") == {False}
    assert labels("plain", "train") == {True}
    assert labels("plain", "nominal") == labels("randomized", "nominal") == {False}
    assert all((e.severity > 0) == (e.suite == "heldout") for e in verdict.episodes)


def test_the_summary_has_each_figure_with_its_interval(verdict):
    data = json.loads((verdict.out / "summary.json").read_text())
    for found in data["suites"]:
        for figures in (found["pooled"], *found["conditions"]):
            assert {"success", "return_mean", "return_iqm", "cvar"} <= figures.keys()
            assert figures["success"]["low"] <= figures["success"]["value"] <= figures["success"]["high"]
    policies = data["provenance"]["policies"]
    assert set(policies) == {"randomized", "plain"}
    assert all(len(policy["spec_sha256"]) == 64 for policy in policies.values())
    assert set(data["provenance"]["suites"]) == {"nominal", "train", "heldout"}


def test_the_report_names_the_bundles_and_how_to_see_the_worst(verdict):
    text = html.unescape((verdict.out / "report.html").read_text(encoding="utf-8"))
    assert text.lstrip().lower().startswith("<!doctype html>")
    assert "randomized and plain" in text
    assert f"simtoreal replay {verdict.out} heldout/" in text
    assert "<script" not in text


@pytest.fixture(scope="module")
def in_two(randomized, tmp_path_factory):
    """Two suites in two engines, two episodes a condition."""
    out, engines = tmp_path_factory.mktemp("engines") / "v", ("pybullet", "mujoco")
    gates = "nominal@mujoco/nominal: success >= 0"
    return evaluate(
        randomized.bundle, out=out, suites=["nominal", "train"], engine=engines, episodes=2, seed=5, gates=gates
    )


def test_ranges_of_what_another_engine_alone_can_set_are_left_out():
    table = {"link.a.mass": None}
    ranges = {"link.a.mass": (1.0, 2.0), "ground.compliance": (0.0, 1e-4), "joint.a.armature": (0.0, 0.1)}
    assert known_ranges(ranges, table) == {"link.a.mass": (1.0, 2.0)}
    assert known_ranges(ranges | {"link.b.mass": (0.0, 1.0)}, table).keys() == {"link.a.mass", "link.b.mass"}


def test_engines_are_judged_on_the_same_cases_and_named_apart(in_two):
    assert in_two.summary.suite_names == ("nominal", "nominal@mujoco", "train", "train@mujoco")
    assert {(e.suite, e.engine) for e in in_two.episodes} == {
        ("nominal", "pybullet"), ("train", "pybullet"), ("nominal@mujoco", "mujoco"), ("train@mujoco", "mujoco")
    }  # fmt: skip
    for suite in ("nominal", "train"):
        here, there = (
            [(e.case, e.seed, e.parameters) for e in in_two.episodes if e.suite == name]
            for name in (suite, f"{suite}@mujoco")
        )
        assert [row[:2] for row in here] == [row[:2] for row in there]
        for (_, _, one), (_, _, other) in zip(here, there, strict=True):
            beyond = {name for name in other if name not in one}  # of what PyBullet cannot set
            assert {other[name] for name in beyond} <= {0.0}
            assert all(any(fnmatchcase(name, pattern) for pattern in MUJOCO_ALONE) for name in beyond)
            assert one == pytest.approx({name: other[name] for name in one}, rel=1e-6)  # as the engine holds it
    returns = {(e.suite, e.case): e.return_ for e in in_two.episodes}
    apart = [returns["train", case] - returns["train@mujoco", case] for suite, case in returns if suite == "train"]
    assert 0 < max(map(abs, apart)) < 1e-2  # another engine, the same cart and pole
    assert [(c.a, c.b, c.suite, c.metric, c.n) for c in in_two.engine_comparisons] == [
        ("randomized in mujoco", "randomized in pybullet", suite, metric, 2)
        for suite in ("nominal", "train")
        for metric in ("success", "return_mean")
    ]
    assert in_two.comparisons == ()
    assert in_two.passed
    assert json.loads((in_two.out / "summary.json").read_text())["provenance"]["engines"] == ["pybullet", "mujoco"]


def test_the_report_shows_engines_side_by_side(in_two):
    text = html.unescape((in_two.out / "report.html").read_text(encoding="utf-8"))
    assert "randomized in pybullet</th>" in text
    assert "randomized in mujoco</th>" in text
    assert "The same cases in mujoco: randomized 0 %" in text.replace("\u202f", " ")


def test_an_episode_in_mujoco_is_replayed_there(in_two, cli):
    said = cli("replay", in_two.out, "train@mujoco/train/1", "--json")
    assert said.code == 0
    assert said.result["identical"]


def test_engines_are_not_for_physics_that_are_not_ours(tmp_path, cli):
    film = tmp_path / "f.mp4"
    cli("play", "Pendulum-v1", "--engine", "mujoco", "--video", film).refused("Pendulum-v1 brings its own physics")
    cli("play", "PandaReach", "--engine", "ode", "--video", film).refused("no engine 'ode'")
    assert not film.exists()
    assert cli("play", "PandaReach", "--engine", "mujoco", "--video", film, "--episodes", 1).code == 0
    assert film.stat().st_size > 10_000


def test_workers_change_no_bit(randomized, tmp_path, cli):
    for workers in (1, 2):
        said = cli(
            "evaluate", randomized.bundle, "--suite", "train", "--suite", "nominal", "--episodes", 12,
            "--workers", workers, "--out", tmp_path / str(workers), "--json",
            "--engine", "pybullet", "--engine", "mujoco",
        )  # fmt: skip
        assert said.code == 0
    one, two = (tmp_path / "1", tmp_path / "2")
    assert (one / "episodes.csv").read_bytes() == (two / "episodes.csv").read_bytes()
    apart = [json.loads((folder / "summary.json").read_text()) for folder in (one, two)]
    for data in apart:
        del data["out"], data["report"]
    assert apart[0] == apart[1]


def test_gates_decide(randomized, tmp_path, cli):
    command = ("evaluate", randomized.bundle, "--suite", "nominal", "--episodes", 2, "--json")
    met = cli(*command, "--out", tmp_path / "met", "--gate", "return_mean > -1e6")
    assert (met.code, met.result["passed"]) == (0, True)
    gates = ["--gate", "return_mean > -1e6", "--gate", "nominal/nominal: success >= 0.99"]
    missed = cli(*command, "--out", tmp_path / "missed", *gates)
    assert (missed.code, missed.result["passed"]) == (1, False)
    assert [gate["passed"] for gate in missed.result["gates"]] == [True, False]
    assert (tmp_path / "missed" / "report.html").is_file()


def test_a_function_is_judged_beside_a_bundle(randomized, controllers, tmp_path):
    name = controllers(FALLS)
    found = evaluate([randomized.bundle, name], out=tmp_path / "v", suites=["nominal"], episodes=2)
    assert found.summary.bundles == ("randomized", name)
    mine = [e for e in found.episodes if e.bundle == name]
    assert all(e.falls == 1 and not e.success and e.length < 200 for e in mine)  # 10 N leave the track in a second


def test_a_command_that_is_no_number_is_a_failed_episode(controllers, tmp_path):
    name = controllers("def act(observation):\n    return [float('nan')]")
    for task in ("CartPoleSwingUp", "Pendulum-v1"):
        found = evaluate([name], out=tmp_path / task, suites=["nominal"], episodes=2, task=task)
        assert all(e.length == 1 and e.falls == 1 and not e.success for e in found.episodes)
        still = evaluate(
            [controllers(STILL)], out=tmp_path / f"{task}-still", suites=["nominal"], episodes=2, task=task
        )
        for broken, held in zip(found.episodes, still.episodes, strict=True):
            assert broken.return_ <= held.return_


def test_a_walk_that_fails_says_which_command_was_not_followed_and_why(controllers, tmp_path):
    name = controllers("def act(observation):\n    return np.array([0.0, 0.9, -1.8] * 4)")  # it stands
    out = tmp_path / "v"
    evaluate([name], out=out, suites=["nominal"], episodes=1, task="A1Walk")
    (walk,) = read_episodes(out / "episodes.csv")
    unmet = walk.unmet.split("; ")
    assert {"command 1: touchdowns", "command 1: duty", "command 2: swing_height"} <= set(unmet)
    assert not any("power" in limit or "slip" in limit or limit == "failed" for limit in unmet)
    assert "command 1: touchdowns" in (out / "report.html").read_text(encoding="utf-8")


def test_a_suite_names_what_every_engine_has_that_is_asked(controllers, tmp_path, cli):
    name, rotors = controllers(STILL), tmp_path / "rotors.yaml"
    rotors.write_text(
        "task: CartPoleSwingUp\nname: rotors\nversion: 1\nconditions: {a: {joint.hinge.armature: 0.001}}\n"
    )
    asked = ("evaluate", name, "--task", "CartPoleSwingUp", "--suite", rotors, "--episodes", 1, "--out", tmp_path / "v")
    for engines in (("pybullet", "mujoco"), ("mujoco", "pybullet")):
        cli(*asked, *(part for engine in engines for part in ("--engine", engine))).refused(
            "rotors.yaml:4: joint.hinge.armature: no such parameter"
        )
    assert cli(*asked, "--engine", "mujoco").code == 0


def test_someone_elses_task_has_a_nominal_suite(controllers, tmp_path):
    found = evaluate([controllers(STILL)], out=tmp_path / "v", episodes=2, task="Pendulum-v1")
    assert [s.suite for s in found.summary.suites] == ["nominal"]
    assert all(e.length == 200 and e.return_ < 0 for e in found.episodes)
    assert found.episodes[0].return_ != found.episodes[1].return_


def test_a_task_that_reports_no_success_gets_no_success_rate(controllers, tmp_path, cli):
    name, other = controllers(STILL), controllers("def act(observation):\n    return [-2.0 * observation[1]]")
    out = tmp_path / "v"
    said = cli("evaluate", name, other, "--task", "Pendulum-v1", "--episodes", 3, "--out", out)
    assert said.code == 0
    assert "This task reports no success" in said.out
    assert "a return of" in said.out
    assert "%" not in said.out
    assert all(e.success is None for e in read_episodes(out / "episodes.csv"))
    summary = json.loads((out / "summary.json").read_text())
    assert [s["pooled"]["success"] for s in summary["suites"]] == [None, None]
    assert [c["metric"] for c in summary["comparisons"]] == ["return_mean"]
    assert "reports no success" in (out / "report.html").read_text(encoding="utf-8")
    gated = cli("evaluate", name, "--task", "Pendulum-v1", "--out", tmp_path / "w", "--gate", "success >= 0.5")
    gated.refused("this task reports no success; metrics: return_iqm")
    assert cli("evaluate", name, "--task", "Pendulum-v1", "--out", tmp_path / "w", "--gate", "cvar > -1").code == 1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("def act(observation):\n    raise KeyError('mine')", "failed: KeyError: 'mine'"),
        ("def act(observation):\n    raise SystemExit(0)", "failed: SystemExit: 0"),
        ("def act(observation):\n    return 'left'", "failed: ValueError: could not convert"),
        ("def act(observation):\n    return [1.0, 2.0]", "a command of shape (2,), expected (1,)"),
        ("def act(observation):\n    return None", "a command of shape (), expected (1,)"),
        ("act = 5", "is not a function"),
        ("def fly(observation):\n    return [0.0]", "no controller"),
        ("import nowhere", "No module named 'nowhere'"),
        ("raise RuntimeError('at import')", "RuntimeError: at import"),
        ("def act(:", "SyntaxError"),
    ],
)
def test_what_goes_wrong_in_a_controller_is_the_users_to_mend(body, words, controllers, tmp_path, cli):
    said = cli(
        "evaluate", controllers(body), "--task", "CartPoleSwingUp", "--suite", "nominal", "--out", tmp_path / "a" / "v"
    )
    said.refused(words)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("name", [":act", "nowhere:", ".relative:act", "nowhere:act"])
def test_a_controller_that_is_not_there(name, tmp_path, cli):
    cli("evaluate", name, "--task", "CartPoleSwingUp", "--out", tmp_path / "v").refused(f"no controller {name}")


def test_an_error_in_a_worker_is_the_same(controllers, tmp_path, cli):
    name = controllers("def act(observation):\n    raise SystemExit(0)")
    common = ("--task", "CartPoleSwingUp", "--suite", "nominal", "--episodes", 10, "--out", tmp_path / "v")
    cli("evaluate", name, *common, "--workers", 2).refused("failed: SystemExit: 0")
    assert not (tmp_path / "v").exists()


def test_a_worker_that_is_killed_is_a_failure_and_no_verdict(controllers, tmp_path, cli):
    name = controllers("def act(observation):\n    os.kill(os.getpid(), signal.SIGKILL)")
    common = ("--task", "CartPoleSwingUp", "--suite", "nominal", "--episodes", 10, "--out", tmp_path / "v")
    said = cli("evaluate", name, *common, "--workers", 2, "--json")
    assert (said.code, said.out) == (3, "")
    assert "an evaluation worker died" in said.err
    assert not (tmp_path / "v").exists()
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(("which", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_workers_go_with_their_parent(which, code, controllers, tmp_path):
    started = tmp_path / "started"
    started.mkdir()
    name = controllers(f"""
import time


def act(observation):
    open({str(started)!r} + f"/{{os.getpid()}}", "w").close()
    time.sleep(0.1)
    return [0.0]""")
    command = [sys.executable, "-m", "simtoreal", "evaluate", name, "--task", "CartPoleSwingUp", "--workers", "2"]
    process = subprocess.Popen(
        [*command, "--episodes", "1000", "--out", tmp_path / "v", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "modules")},
    )  # fmt: skip
    until = time.monotonic() + 60
    try:
        while len(list(started.iterdir())) < 2:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < until
            time.sleep(0.1)
        workers = psutil.Process(process.pid).children(recursive=True)
        if which == signal.SIGINT:
            os.killpg(process.pid, which)  # as a terminal does
        else:
            process.send_signal(which)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, out) == (code, "")
    assert "Traceback" not in err
    gone, alive = psutil.wait_procs(workers, timeout=5)
    assert gone
    assert not alive
    assert which == signal.SIGKILL or not (tmp_path / "v").exists()


def test_a_suite_with_nothing_outside_is_refused(randomized, tmp_path, cli):
    seen = suite(tmp_path, "held_out: true\nconditions: {nominal: {}}\n")
    cli("evaluate", randomized.bundle, "--suite", seen, "--out", tmp_path / "v").refused("none of its 20 cases lies")
    assert not (tmp_path / "v").exists()


def test_a_suite_of_ones_own(randomized, tmp_path):
    path = suite(
        tmp_path, "held_out: true\nconditions:\n  heavy: {link.pole.mass: {uniform: [0.2, 0.29]}}\n  same: {}\n"
    )
    found = evaluate([randomized.bundle], out=tmp_path / "v", suites=[str(path)], episodes=3)
    assert {e.condition: e.held_out for e in found.episodes} == {"heavy": True, "same": False}
    assert all(0.2 <= e.parameters["link.pole.mass"] <= 0.29 for e in found.episodes if e.condition == "heavy")
    (figures,) = found.summary.suites
    assert (figures.pooled.n, figures.pooled.seen) == (3, 3)  # of six, the seen half is left out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--suite", "nope"], "choices: heldout, nominal, train"),
        (["--suite", "./nope.yaml"], "no such file"),
        (["--suite", "nominal", "--suite", "nominal"], "two suites have the same name"),
        (["--gate", "success"], "cannot read gate 'success'"),
        (["--gate", "nominal/nominall: success > 0.1"], "did you mean nominal/nominal?"),
        (["--engine", "ode"], "no engine 'ode'; engines: pybullet, mujoco, mujoco-shipped"),
        (["--gate", "nominal@mujoco/nominal: success > 0.1"], "nominal@mujoco/nominal is not judged"),
        (["--seed", "-1"], "must be a whole number from 0, got '-1'"),
        (["--episodes", "0"], "must be a whole number from 1, got '0'"),
        (["--episodes", "999999999999"], "--episodes must be a whole number from 1 to 100000, got 999999999999"),
        (["--workers", "100000"], "--workers must be a whole number from 1 to 256, got 100000"),
        (["--out", ""], "--out is an empty path; name the folder to write"),
        (["--task", "PandaReach"], "policies of different tasks cannot be judged together"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(arguments, words, randomized, tmp_path, cli):
    cli("evaluate", randomized.bundle, "--out", tmp_path / "v", *arguments).refused(words)
    assert not (tmp_path / "v").exists()


def test_a_policy_is_not_compared_with_itself(randomized, plain, tmp_path, cli):
    link = tmp_path / "link"
    link.symlink_to(randomized.bundle)
    for again in (randomized.bundle, link):
        cli("evaluate", randomized.bundle, plain.bundle, again, "--out", tmp_path / "v").refused("are the same")


def test_one_policy_suite_or_gate_need_not_be_in_a_list(randomized, tmp_path):
    gate = "return_mean > -1e6"
    alone = evaluate(str(randomized.bundle), out=tmp_path / "a", suites="nominal", gates=gate, episodes=2)
    listed = evaluate([randomized.bundle], out=tmp_path / "b", suites=["nominal"], gates=[gate], episodes=2)
    assert (alone.summary, alone.episodes, alone.gates) == (listed.summary, listed.episodes, listed.gates)
    path = suite(tmp_path, "conditions: {same: {}}\n")
    assert evaluate(randomized.bundle, out=tmp_path / "c", suites=path, episodes=1).episodes[0].suite == "mine"


@pytest.mark.parametrize("name", ["seed", "episodes", "workers"])
def test_numbers_that_are_not_whole_are_refused(name, randomized, tmp_path):
    for bad in (1.5, 1.0, -1, True, "1", None, np.float64(1), np.bool_(True)):
        with pytest.raises(ConfigError, match=rf"{name} must be a whole number from \d to \d+, got "):
            evaluate(randomized.bundle, out=tmp_path / "v", suites="nominal", **{name: bad})
    assert not (tmp_path / "v").exists()


def test_a_whole_number_of_numpys_will_do(randomized, tmp_path):
    options = {name: np.int64(1) for name in ("seed", "episodes", "workers")}
    evaluate(randomized.bundle, out=tmp_path / "v", suites="nominal", **options)
    provenance = json.loads((tmp_path / "v" / "summary.json").read_text())["provenance"]
    assert (provenance["seed"], provenance["episodes_per_condition"]) == (1, 1)


def test_a_controller_must_be_told_its_task(controllers, tmp_path, cli):
    cli("evaluate", controllers(STILL), "--out", tmp_path / "v").refused("name it with --task")


def test_it_never_writes_over_something_else(randomized, plain, tmp_path, cli):
    before = (plain.run / "summary.json").read_bytes()
    command = ("evaluate", randomized.bundle, "--suite", "nominal", "--episodes", 1)
    cli(*command, "--out", plain.run).refused("exists; choose another folder or pass --force")
    cli(*command, "--out", plain.run, "--force").refused("holds no episodes.csv")
    assert (plain.run / "summary.json").read_bytes() == before
    out = tmp_path / "päth with spaces"
    assert cli(*command, "--out", out).code == 0
    cli(*command, "--out", out).refused("exists")
    assert cli(*command, "--out", out, "--force", "--episodes", 2).code == 0
    assert len(read_episodes(out / "episodes.csv")) == 2


def test_broken_physics_gives_no_verdict(controllers, tmp_path, monkeypatch):
    step = simtoreal.robots.task.Task.step

    def breaks(self, action):
        obs, reward, _, _, info = step(self, action)
        return obs, reward, False, True, info | {"physics_fault": True, "is_success": True}

    monkeypatch.setattr(simtoreal.robots.task.Task, "step", breaks)
    with pytest.raises(PhysicsFailure, match="physics broke in 2 of 2 episodes: no verdict"):
        evaluate([controllers(STILL)], out=tmp_path / "v", suites=["nominal"], episodes=2, task="CartPoleSwingUp")
    assert not (tmp_path / "v").exists()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("return", "retrun", r"episodes\.csv: no column return"),
        (",", ";", r"episodes\.csv: no column"),
        (",pybullet,", ",pybullet,x", r"episodes\.csv:2: column return must be a number, got \"x"),
        (",pybullet,", ",pybullet,,", r"episodes\.csv:2: 1 more values than columns"),
        (",pybullet,", ",pybul\0let,", r"episodes\.csv:2: column engine holds a NUL byte"),
        ("pybullet", "x" * 200_000, r"episodes\.csv: not a table in UTF-8: field larger than"),
    ],
)
def test_a_damaged_table_is_refused_with_its_line(old, new, words, verdict, tmp_path):
    path = tmp_path / "episodes.csv"
    path.write_text((verdict.out / "episodes.csv").read_text().replace(old, new))
    with pytest.raises(RunError, match=words):
        read_episodes(path)


def test_a_row_that_was_cut_is_refused_with_the_first_column_it_lacks(verdict, tmp_path):
    path = tmp_path / "episodes.csv"
    head, first, *rest = (verdict.out / "episodes.csv").read_text().splitlines()
    names, values = head.split(","), first.split(",")
    for count in (2, len(FIXED), len(names) - 1):  # the last lacks a parameter
        path.write_text("\n".join([head, first, ",".join(values[:count]), *rest]))
        with pytest.raises(RunError) as error:
            read_episodes(path)
        assert str(error.value) == f"{path}:3: the row ends before column {names[count]}"


def test_a_table_that_is_no_text_is_refused_by_name(tmp_path):
    path = tmp_path / "episodes.csv"
    for data in (os.urandom(4096) + b"\xff", "seed,Zürich\n".encode("latin-1")):
        path.write_bytes(data)
        with pytest.raises(RunError, match=r"episodes\.csv: not a table in UTF-8"):
            read_episodes(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"task": None}, "no provenance of its task: expected a gymnasium id, got None"),
        ({"task": 5}, "no provenance of its task: expected a gymnasium id, got 5"),
        ({"policies": []}, "no provenance of its policies: expected a mapping, got []"),
        (None, "no provenance of its task: expected a gymnasium id, got None"),
    ],
)
def test_an_evaluation_that_does_not_say_where_it_comes_from_is_not_replayed(change, words, verdict, tmp_path, cli):
    folder = tmp_path / "v"
    shutil.copytree(verdict.out, folder)
    summary = json.loads((folder / "summary.json").read_text())
    provenance = None if change is None else summary["provenance"] | change
    (folder / "summary.json").write_text(json.dumps(summary | {"provenance": provenance}))
    cli("replay", folder, "nominal/nominal/0", "--bundle", "plain").refused(f"summary.json: {words}")
    if change == {"task": None}:
        del summary["provenance"]["task"]
        (folder / "summary.json").write_text(json.dumps(summary))
        cli("replay", folder, "nominal/nominal/0", "--bundle", "plain").refused(f"summary.json: {words}")


def test_what_changes_within_an_episode_is_recorded_and_comes_back(plain, tmp_path, cli):
    path = suite(
        tmp_path,
        "conditions:\n  walks:\n    actuator.strength: {uniform: [0.4, 1.4], every: 0.5, schedule: random_walk}\n"
        "  still:\n    actuator.strength: {uniform: [0.4, 1.4]}\n",
    )
    found = [
        evaluate(plain.bundle, out=tmp_path / f"v{workers}", suites=path, episodes=2, workers=workers)
        for workers in (1, 2)
    ]
    assert found[0].episodes == found[1].episodes
    assert tuple(read_episodes(found[0].out / "episodes.csv")) == found[0].episodes
    walks = [json.loads(e.changes) for e in found[0].episodes if e.condition == "walks"]
    assert [e.changes for e in found[0].episodes if e.condition == "still"] == ["", ""]
    for changes in walks:
        assert list(changes) == [str(step) for step in range(25, 25 * (len(changes) + 1), 25)]
        assert len({change["actuator.strength"] for change in changes.values()}) > 2
    assert "identical" in cli("replay", found[0].out, "mine/walks/1").out
    rows = (found[0].out / "episodes.csv").read_text()
    first = next(iter(walks[1].values()))["actuator.strength"]
    (found[0].out / "episodes.csv").write_text(rows.replace(repr(first), "0.4"))
    assert "DIFFERENT" in cli("replay", found[0].out, "mine/walks/1").out
    (found[0].out / "episodes.csv").write_text(rows.replace('""25"":', '""x"":'))
    cli("replay", found[0].out, "mine/walks/1").refused("column changes: changes are a mapping of control steps")


def test_a_training_s_parameters_change_within_its_episodes(tmp_path):
    """And a run that was stopped within one goes on as if it had not been."""
    preset = tmp_path / "preset.yaml"
    entry = "actuator.strength: {uniform: [0.4, 1.4], every: 0.1, schedule: saw}"
    preset.write_text(f"task: CartPoleSwingUp\nversion: 1\nentries:\n  {entry}\n")
    options = {"randomization": str(preset), "assignments": quick()}
    whole = simtoreal.train("CartPoleSwingUp", steps=300, out=tmp_path / "whole", **options).run
    part = simtoreal.train("CartPoleSwingUp", steps=210, out=tmp_path / "part", **options).run
    simtoreal.train("CartPoleSwingUp", steps=300, out=part, resume=True)
    weights = [(run / "checkpoints" / "300" / "agent.safetensors").read_bytes() for run in (whole, part)]
    assert weights[0] == weights[1]
