import csv
import html
import json
import re
import shlex
import shutil
import subprocess

import imageio.v2 as imageio
import numpy as np
import pytest

import simtoreal

CASE = "heldout/all/1"
FALLS = "def act(observation):\n    return [10.0]"


@pytest.fixture(scope="module")
def judged(randomized, tmp_path_factory):
    """A bundle judged on what it has not met. No test may change it."""
    out = tmp_path_factory.mktemp("judged") / "verdict"
    simtoreal.evaluate([randomized.bundle], out=out, suites=["heldout"], episodes=2, seed=3)
    return out


@pytest.fixture
def mine(judged, tmp_path):
    """A copy to be changed."""
    return shutil.copytree(judged, tmp_path / "verdict")


def change(folder, column, edit):
    """Edit one figure of CASE in the table."""
    with (folder / "episodes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        if f"{row['suite']}/{row['case']}" == CASE:
            row[column] = edit(row[column])
    with (folder / "episodes.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def frames(path):
    return list(imageio.mimread(path, memtest=False))


def test_a_row_comes_back_bit_for_bit(judged, cli):
    said = cli("replay", judged, CASE, "--json")
    assert said.code == 0
    assert said.result["identical"] is True
    assert said.result["replayed_return"] == said.result["recorded_return"]


@pytest.mark.parametrize(
    ("column", "edit"),
    [
        ("return", lambda text: repr(np.nextafter(float(text), 0.0).item())),
        ("length", lambda text: str(int(text) - 1)),
        ("success", lambda text: "10"[int(text)]),
        ("violations", lambda text: str(int(text) + 1)),
        ("link.pole.mass", lambda text: repr(float(text) * 1.001)),
        ("seed", lambda text: str(int(text) ^ 1)),
        ("severity", lambda text: repr(float(text) + 0.01)),
        ("severity", lambda text: "inf"),
        ("held_out", lambda text: "10"[int(text)]),
        ("condition", lambda text: "nominal"),
    ],
)
def test_a_changed_row_does_not(column, edit, mine, cli):
    change(mine, column, edit)
    said = cli("replay", mine, CASE, "--json")
    assert said.code == 1
    assert said.result["identical"] is False
    if column not in ("link.pole.mass", "seed"):  # from which all else follows
        assert said.result["differing"] == [column]
        assert f"DIFFERENT in {column}" in cli("replay", mine, CASE).out


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("link.pole.mass", "-1", "link.pole.mass"),
        ("link.pole.mass", "heavy", "column link.pole.mass must be a number"),
        ("return", "nan", "return must be finite"),
        ("seed", "-1", "seed must be 0 or more"),
        ("held_out", "yes", 'column held_out must be 0 or 1, got "yes"'),
        ("success", "2", 'column success must be 0 or 1, got "2"'),
        ("engine", "ode", "case heldout/all/1 is of engine 'ode'; engines: pybullet, mujoco, mujoco-shipped"),
        ("engine", "mujoco", "case heldout/all/1 is of engine mujoco, whose suite would be called heldout@mujoco"),
        ("bundle", "other", "no record of what 'other' was"),
    ],
)
def test_a_row_that_cannot_be_is_refused(column, value, words, mine, cli):
    change(mine, column, lambda _: value)
    cli("replay", mine, CASE).refused(words)


def test_another_bundle_in_its_place_is_refused(randomized, plain, tmp_path, cli):
    bundle = shutil.copytree(randomized.bundle, tmp_path / "bundle")
    simtoreal.evaluate([bundle], out=tmp_path / "v", suites=["nominal"], episodes=1)
    assert cli("replay", tmp_path / "v", "nominal/nominal/0").code == 0
    shutil.rmtree(bundle)
    cli("replay", tmp_path / "v", "nominal/nominal/0").refused("is no longer at")
    shutil.copytree(plain.bundle, bundle)
    cli("replay", tmp_path / "v", "nominal/nominal/0").refused("is not the bundle")


def test_what_is_not_there_is_refused(judged, tmp_path, cli):
    cli("replay", tmp_path, CASE).refused("is not an evaluation")
    cli("replay", judged, "heldout/all/7").refused("did you mean heldout/all/")
    cli("replay", judged, CASE, "--bundle", "other").refused("judged no 'other'; choices: randomized")


def test_several_bundles_want_a_choice(randomized, plain, tmp_path, cli):
    out = tmp_path / "v"
    simtoreal.evaluate([randomized.bundle, plain.bundle], out=out, suites=["nominal"], episodes=1)
    cli("replay", out, "nominal/nominal/0").refused("choose one with --bundle")
    assert cli("replay", out, "nominal/nominal/0", "--bundle", "plain", "--json").result["bundle"] == "plain"


def test_a_function_can_be_replayed_by_one_who_names_it(controllers, tmp_path, cli):
    name = controllers(FALLS)
    simtoreal.evaluate([name], out=tmp_path / "v", suites=["nominal"], episodes=1, task="CartPoleSwingUp")
    assert cli("replay", tmp_path / "v", "nominal/nominal/0", "--bundle", name).code == 0


def test_a_file_cannot_have_its_module_imported(controllers, tmp_path, cli):
    name = controllers(FALLS)
    simtoreal.evaluate([name], out=tmp_path / "v", suites=["nominal"], episodes=1, task="CartPoleSwingUp")
    summary = tmp_path / "v" / "summary.json"
    data = json.loads(summary.read_text())
    marker = tmp_path / "imported"
    (tmp_path / "modules" / "not_asked_for.py").write_text(f"open({str(marker)!r}, 'w')")
    for provenance in (
        {"policies": {name: {"controller": "not_asked_for:act"}}},
        {"task": "not_asked_for:Task-v0"},
    ):
        summary.write_text(json.dumps(data | {"provenance": data["provenance"] | provenance}))
        cli("replay", tmp_path / "v", "nominal/nominal/0").refused("to let it import that module, name it with")
        cli("replay", tmp_path / "v", "nominal/nominal/0", "--bundle", name, "--task", "CartPoleSwingUp").refused(
            "not_"
        )
    assert not marker.exists()


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_a_film_that_a_full_disk_cuts_short_is_a_failure_and_leaves_the_earlier_one(suffix, tmp_path, cli):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        film = disk / f"film{suffix}"
        film.write_bytes(b"earlier")
        said = cli("play", "CartPoleSwingUp", "--video", film, "--episodes", 1, "--force")
        assert said.code == 3
        assert f"{film}" in said.err
        assert "Traceback" not in said.err
        assert [path.name for path in disk.iterdir()] == [film.name]
        assert film.read_bytes() == b"earlier"
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_bundle_may_come_after_the_options(randomized, tmp_path, cli):
    said = cli("play", "CartPoleSwingUp", "--video", tmp_path / "x.gif", "--episodes", 1, randomized.bundle, "--json")
    assert said.result["policy"] == str(randomized.bundle)


def test_the_command_in_the_report_is_one_that_runs_and_films(controllers, tmp_path, monkeypatch, cli):
    out = tmp_path / "a b" / "v"
    simtoreal.evaluate([controllers(FALLS)], out=out, suites=["train"], episodes=2, task="CartPoleSwingUp")
    text = html.unescape((out / "report.html").read_text(encoding="utf-8"))
    commands = [shlex.split(line) for line in re.findall(r"simtoreal replay [^<\n]*", text)]
    assert len({tuple(command) for command in commands}) == 2
    assert len({command[-1] for command in commands}) == 2  # each its own film
    monkeypatch.chdir(tmp_path)
    (film,) = [path for path in [tmp_path / commands[0][-1]] if not path.exists()]
    said = cli(*commands[0][1:], "--json")
    assert (said.code, said.result["identical"]) == (0, True)
    pictures = frames(film)
    length = said.result["length"]
    assert len(pictures) == np.ceil(30 * 0.02 * length)
    assert np.abs(pictures[0].astype(int) - pictures[-1].astype(int)).max() > 100  # the cart has gone
    cli(*commands[0][1:]).refused("exists; choose another file or pass --force")
    assert [path.name for path in tmp_path.glob("*.mp4")] == [film.name]


def test_play_films_a_function_and_nothing_half_written_stays(controllers, tmp_path, cli):
    film = tmp_path / "falls.gif"
    said = cli("play", "CartPoleSwingUp", controllers(FALLS), "--video", film, "--episodes", 1, "--json")
    assert said.code == 0
    (outcome,) = said.result["outcomes"]
    assert outcome["falls"] == 1
    assert len({picture.tobytes() for picture in frames(film)}) > 10
    broken = controllers("at = [0]\n\n\ndef act(o):\n    at[0] += 1\n    return [1.0] if at[0] < 5 else 1 / 0")
    cli("play", "CartPoleSwingUp", broken, "--video", film, "--force").refused("ZeroDivisionError")
    assert len(frames(film)) > 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["falls.gif", "modules"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nope", "--video", "x.mp4"], "no task 'nope'"),
        (["CartPoleSwingUp", "nowhere", "--video", "x.mp4"], "nowhere is not there"),
        (["CartPoleSwingUp", "--video", "x.avi"], "a film is .mp4 or .gif"),
        (["CartPoleSwingUp", "--video", "none/x.mp4"], "there is no folder none"),
        (["CartPoleSwingUp", "--video", "/proc/x.gif"], "/proc/x.gif: the folder /proc cannot be written to"),
        (["CartPoleSwingUp", "--video", f"{'x' * 250}.gif"], "cannot be written to: File name too long"),
        (["CartPoleSwingUp", "--video", "folder.mp4", "--force"], "folder.mp4 exists"),
        (["CartPoleSwingUp", "--video", "there.mp4"], "there.mp4 exists; choose another file or pass --force"),
        (["CartPoleSwingUp", "--video", "x.mp4", "--seed", "-1"], "whole number"),
        (["CartPoleSwingUp", "--video", "x.mp4", "--randomization", "PandaReach"], "yaml:2: a preset for PandaReach"),
        (["CartPoleSwingUp", "--parameter", "a=1", "--parameter", "a=2"], "--parameter a is given twice"),
        (["CartPoleSwingUp", "--goal", "a=1", "--goal", "a=1"], "--goal a is given twice"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(arguments, words, tmp_path, monkeypatch, cli):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "there.mp4").write_text("mine")
    cli("play", *arguments).refused(words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.mp4", "there.mp4"]
    assert (tmp_path / "there.mp4").read_text() == "mine"


def test_a_bundle_of_another_task_is_refused(randomized, tmp_path, cli):
    cli("play", "PandaReach", randomized.bundle, "--video", tmp_path / "x.mp4").refused(
        "is a bundle for simtoreal/CartPoleSwingUp-v0, not for simtoreal/PandaReach-v0"
    )


def test_provenance_that_was_cut_is_refused(mine, cli):
    data = json.loads((mine / "summary.json").read_text())
    for broken in ({**data, "provenance": {}}, {**data, "provenance": {"policies": []}}, {}):
        (mine / "summary.json").write_text(json.dumps(broken))
        cli("replay", mine, CASE).refused("summary.json: no provenance")


def test_a_film_of_what_one_asks_for(tmp_path, cli):
    film = tmp_path / "film.gif"
    arguments = ("play", "PandaReach", "--episodes", 1, "--video", film, "--json")
    said = cli(*arguments, "--goal", "tool_position=0.5,0,0.3", "--parameter", "link.panda_hand.payload=1")
    assert said.result["outcomes"][0]["parameters"]["link.panda_hand.payload"] == 1.0
    cli(*arguments, "--force", "--goal", "tool_position=2,0,0.3").refused("goal tool_position must be from")
    cli(*arguments, "--force", "--goal", "tool_position=fast").refused("must be NAME=NUMBER")
    cli(*arguments, "--force", "--parameter", "link.panda_hand.payload=1,2").refused("must be NAME=NUMBER")
    other = ("play", "Pendulum-v1", "--episodes", 1, "--video", film, "--force")
    cli(*other, "--goal", "angle=1").refused("it has no goal to set")
    cli(*other, "--parameter", "mass=1").refused("no parameter 'mass'; choices: actuator.latency")
