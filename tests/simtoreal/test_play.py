"""Looking at a policy live: the command, the page it serves, and what a hand on its sliders does."""

from __future__ import annotations

import io
import json
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from urllib.request import urlopen

import numpy as np
import pytest
import trimesh
from PIL import Image

from simtoreal import build
from simtoreal.contract import Contract
from simtoreal.live_session import Session
from simtoreal.live_viewer import Knob, Viewer, notch, on_scale, status
from simtoreal.playing import HoldStill
from simtoreal.robots import catalog
from simtoreal.robots.looks import looks

sys.path.insert(0, str(Path(__file__).parent))
from browser import CHROMIUM, PATIENCE, SOFTWARE_GL, Browser, chromium

ORANGE, GREEN = (1.0, 0.42, 0.04), (0.1, 0.7, 0.25)  # of the KUKA's links, of the goal


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["CartPole-v1"], "CartPole-v1 is not one of our tasks: it has no scene to show live; pass --video FILE"),
        (["CartPoleSwingUp", "--host", "no.such.host.invalid"], "no host 'no.such.host.invalid'"),
        (["CartPoleSwingUp", "--port", "70000"], "must be from 0 to 65535, got '70000'"),
        (["CartPoleSwingUp", "--speed", "0"], "must be a number above 0, got '0'"),
        (["CartPoleSwingUp", "--speed", "99", "--port", "0"], "speed must be from 0.05 to 4.0, got 99.0"),
        (["CartPoleSwingUp", "--goal", "angle=1", "--port", "0"], "no goal 'angle'"),
        (["CartPoleSwingUp", "--parameter", "link.pole.mass=99", "--port", "0"], "link.pole.mass = 99.0 is outside"),
    ],
)
def test_bad_input_is_one_line(arguments, words, cli):
    cli("play", *arguments).refused(words)


def test_a_port_that_is_taken_is_one_line(cli):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        cli("play", "CartPoleSwingUp", "--port", port).refused(
            f"port {port} of 127.0.0.1 is in use; choose another with --port"
        )


def test_so_many_episodes_and_no_more(cli):
    said = cli("play", "PandaReach", "--port", 0, "--episodes", 2, "--speed", 4, "--json")
    assert said.code == 0
    assert [outcome["length"] for outcome in said.result["outcomes"]] == [50, 50]
    (line,) = said.err.strip().splitlines()
    assert line.startswith("open http://127.0.0.1:")


def test_it_serves_its_page_until_it_is_interrupted(tmp_path):
    command = [sys.executable, "-m", "simtoreal", "play", "CartPoleSwingUp", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stderr is not None
        address = process.stderr.readline().split()[1]
        with urlopen(address, timeout=30) as page:
            assert "<html" in page.read().decode().lower()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out, err) == (130, "", "simtoreal: interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_its_help_has_examples(cli):
    said = cli("play", "--help")
    assert "simtoreal play A1Walk examples/bundles/a1walk\n" in said.out
    assert "--host" in said.out


@pytest.mark.parametrize(("task", "seconds"), [("CartPoleSwingUp", 10.0), ("PandaReach", 2.5)])
@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_a_film_has_thirty_frames_a_simulated_second_whatever_the_control_rate(task, seconds, suffix, tmp_path, cli):
    film = tmp_path / f"film{suffix}"
    said = cli("play", task, "--video", film, "--episodes", 1, "--json")
    assert said.code == 0
    if suffix == ".mp4":
        import imageio_ffmpeg

        frames, lasts = imageio_ffmpeg.count_frames_and_secs(str(film))
        assert frames == 30 * seconds
        assert lasts == pytest.approx(seconds, abs=0.011)
    else:
        with Image.open(film) as image:
            total = 0
            for k in range(image.n_frames):  # those that are alike become one that lasts longer
                image.seek(k)
                total += image.info["duration"]
        assert total == pytest.approx(1000 * seconds, abs=20)


def test_every_shipped_mesh_can_be_drawn():
    for robot in (catalog.a1(), catalog.kuka(), catalog.panda(), catalog.xarm()):
        for look in looks(robot.model):
            if look.mesh is not None:
                assert trimesh.load_scene(look.mesh).extents.max() > 0.01, look.mesh


@pytest.mark.parametrize(
    ("low", "high", "step"), [(0.0, 2.0, 0.01), (0.5, 1.5, 0.001), (0.0, 300.0, 1.0), (0.0, 5e-4, 1e-6)]
)
def test_a_slider_has_round_notches(low, high, step):
    assert notch(low, high) == pytest.approx(step)
    assert on_scale(low + 7.3 * step, low, high) == pytest.approx(low + 7 * step)
    assert on_scale(high, low, high) == high


def test_what_a_hand_asked_for_is_not_taken_back_before_it_is_done():
    handle = SimpleNamespace(min=0.0, max=2.0, value=0.2)
    knob = Knob(handle, 0.1)
    knob.turn(0.2)
    knob.show(0.1)  # of a control step before it
    assert handle.value == 0.2
    knob.taken()
    knob.show(0.2)
    assert handle.value == 0.2
    knob.show(0.1)  # refused, or changed since by another
    assert handle.value == 0.1


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Session, Viewer]]:
    """A paused KUKA that holds still, in a page."""
    env = build.make_env("simtoreal/KukaReach-v0")
    contract = Contract.of("simtoreal/KukaReach-v0", env)
    session = Session(env, contract, HoldStill(contract), episodes=99)
    session.pause(True)
    viewer = Viewer(session, "KukaReach: hold still", "127.0.0.1", 0)
    thread = threading.Thread(target=session.run, args=(viewer.show,))
    thread.start()
    yield session, viewer
    session.ask(lambda: session.outcomes.extend([None] * 99))
    thread.join(30)
    viewer.close()
    env.close()
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def page(served: tuple[Session, Viewer]) -> Iterator[Browser]:
    if CHROMIUM is None or shutil.which("bash") is None:
        pytest.skip("needs Chromium and bash on PATH")
    with chromium(CHROMIUM, SOFTWARE_GL) as running:
        running.open(served[1].address, 700, 500)
        wait_for(lambda: running.evaluate("document.querySelectorAll('[role=slider]').length") > 10, "its sliders")
        yield running


def wait_for(condition, what: str, instead=lambda: "") -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"the page does not show {what}{instead()}"
        time.sleep(0.2)


def wait_until(read, wanted, what: str) -> None:
    """As `wait_for`, of a number; says which was there instead."""
    wait_for(lambda: read() == pytest.approx(wanted), f"{what} of {wanted}", lambda: f", but {read()}")


def ask(session: Session, question):
    """An answer from the loop, whose the environment is."""
    answers: queue.SimpleQueue = queue.SimpleQueue()
    session.ask(lambda: answers.put(question()))
    return answers.get(timeout=30)


def share(picture: bytes, colour: tuple[float, float, float]) -> float:
    """How much of the left half has this hue, whatever light is on it."""
    rgb = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"), float)
    rgb = rgb[:, : rgb.shape[1] // 2] / 255
    strength = rgb.max(axis=2) - rgb.min(axis=2)
    hue = (rgb - rgb.min(axis=2, keepdims=True)) / np.maximum(strength, 1e-9)[..., None]
    wanted = np.subtract(colour, min(colour)) / (max(colour) - min(colour))
    return float(((np.abs(hue - wanted).max(axis=2) < 0.2) & (strength > 0.2)).mean())


def text_of(page: Browser) -> str:
    return str(page.evaluate("document.body.innerText"))


def unfold(page: Browser, folder: str) -> None:
    """Click a folder of the panel open, by how its title begins."""
    page.evaluate(f"""[...document.querySelectorAll('*')]
        .filter(e => e.textContent.trim().startsWith({json.dumps(folder)})).at(-1).click()""")


def press(page: Browser, label: str, key: str, times: int) -> None:
    """A key on the slider of this label, of which the end may be a unit."""
    page.evaluate(f"""(() => {{
        const named = [...document.querySelectorAll('*')].filter(e => e.textContent.trim() === {json.dumps(label)});
        let e = named.at(-1);
        while (!e.querySelector('[role=slider]')) e = e.parentElement;
        e.querySelector('[role=slider]').focus();
    }})()""")
    code = {"ArrowLeft": 37, "ArrowRight": 39}[key]
    for _ in range(times):
        for kind in ("keyDown", "keyUp"):
            page.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)


@pytest.mark.slow
def test_a_browser_shows_the_robot_and_its_goal(served, page):
    wait_for(lambda: share(page.screenshot(), ORANGE) > 0.005, "the KUKA's orange links")
    assert share(page.screenshot(), GREEN) > 0.0002
    assert share(page.screenshot(), (0.8, 0.0, 0.9)) == 0.0
    address = served[1].address.removeprefix("http://")
    assert [url for url in page.requests() if address not in url] == []
    assert [said for said in page.complaints() if '"error"' in said or "exceptionThrown" in said] == []


def test_a_slider_moved_in_the_page_reaches_physics(served, page):
    session, _ = served
    before = ask(session, session.task.read_parameters)
    unfold(page, "link (")
    press(page, "lbr_iiwa_link_7.payload [kg]", "ArrowRight", 20)  # notches of 10 g
    wait_until(lambda: ask(session, session.task.read_parameters)["link.lbr_iiwa_link_7.payload"], 0.2, "the payload")
    after = ask(session, session.task.read_parameters)
    assert {name for name in after if after[name] != before[name]} == {"link.lbr_iiwa_link_7.payload"}
    wait_for(lambda: "lbr_iiwa_link_7.payload 0.2 kg" in text_of(page), "what is not nominal")


def test_a_goal_moved_in_the_page_is_the_task_s(served, page):
    session, _ = served
    x, y, z = ask(session, lambda: session.task.goal)["tool_position"]
    press(page, "tool_position.x", "ArrowRight", 3)
    wait_until(lambda: ask(session, lambda: session.task.goal)["tool_position"][0], round(x, 3) + 0.003, "the goal's x")
    assert list(ask(session, lambda: session.task.goal)["tool_position"][1:]) == [y, z]


def test_what_really_applies_is_what_the_sliders_show(served, page):
    session, _ = served
    session.ask(lambda: session.set_parameters({"actuator.kp": 1.2}))
    shown = "[...document.querySelectorAll('[role=slider]')].map(e => Number(e.getAttribute('aria-valuenow')))"
    wait_for(lambda: 1.2 in page.evaluate(shown), "the gain")
    session.ask(lambda: session.set_parameters({"actuator.kp": 99.0}))
    wait_for(lambda: "actuator.kp = 99.0 is outside" in text_of(page), "what is wrong")
    session.ask(session.set_nominal)
    wait_for(lambda: 1.2 not in page.evaluate(shown), "that all is nominal")


def test_a_slope_is_seen_and_the_view_follows_the_robot():
    """Nodes of the scene, as every browser gets them: gravity points down, the trunk is over the middle."""
    env = build.make_env("simtoreal/A1Walk-v0")
    contract = Contract.of("simtoreal/A1Walk-v0", env)
    session = Session(env, contract, HoldStill(contract))
    viewer = Viewer(session, "A1Walk", "127.0.0.1", 0)
    try:
        session.set_parameters({"ground.slope.pitch": 0.2, "ground.slope.roll": -0.1})
        for _ in range(20):
            session.advance()
        now = session.snapshot()
        viewer.show(now)
        world = trimesh.transformations.quaternion_matrix(viewer._scene._world.wxyz)
        assert world[:3, :3] @ now.down == pytest.approx([0.0, 0.0, -1.0], abs=1e-6)
        x, y, _ = now.poses["trunk"].position
        assert max(abs(x), abs(y)) > 1e-3
        below = world[:3, :3] @ (x, y, 0.0) + viewer._scene._world.position
        assert below == pytest.approx([0.0, 0.0, 0.0], abs=1e-6)
        for height in (0.05, 0.1, 0.0):
            session.set_parameters({"ground.step_height": height})
            session.advance()
            now = session.snapshot()
            viewer.show(now)
            drawn = viewer._scene._field
            if not height:
                assert now.terrain is drawn is None
                continue
            assert drawn.vertices[:, 2].max() == pytest.approx(3 * height)
            assert viewer._scene._grid.position[2] == pytest.approx(now.terrain.base)
    finally:
        viewer.close()
        env.close()


def test_what_the_panel_says_is_escaped(served):
    session, _ = served
    now = replace(ask(session, session.snapshot), note="<script>")
    text = status(now, session.task.parameters)
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
