"""A session that is played live, without a browser: pacing, wishes from other threads, failures, judgement."""

import math
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from simtoreal import build
from simtoreal.config import ConfigError
from simtoreal.contract import Contract
from simtoreal.episodes import run_episode
from simtoreal.live_session import LINGER, MOST_LAG, Pace, Session
from simtoreal.live_viewer import Viewer
from simtoreal.playing import HoldStill

DT = 0.02


class Clock:
    """One that goes on when it is told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class FullLeft:
    """Runs the cart off its track."""

    def reset(self):
        pass

    def act(self, observation):
        return np.array([-10.0])


@pytest.fixture
def start():
    """Makes a session of a task; everything it made is closed at the end."""
    made = []

    def build_one(task="CartPoleSwingUp", policy=None, **options):
        full = build.task_id(task)
        made.append(build.make_env(full))
        contract = Contract.of(full, made[-1])
        return Session(made[-1], contract, policy or HoldStill(contract), **options)

    yield build_one
    for env in made:
        env.close()


def grant(session):
    """What the loop does between two control steps."""
    session._grant(0.0)


def test_steps_are_due_by_the_clock_and_the_speed():
    clock = Clock()
    pace = Pace(DT, 0.5, clock)  # a step each 40 ms
    assert pace.wait() == 0.0
    pace.stepped()
    assert pace.wait() == pytest.approx(0.04)
    clock.now += 0.05  # late, which the next makes up for
    assert pace.wait() == 0.0
    pace.stepped()
    assert pace.wait() == pytest.approx(0.03)


def test_the_speed_is_measured_and_a_long_halt_is_not_made_up_for():
    clock = Clock()
    pace = Pace(DT, 1.0, clock)
    assert pace.real_time is None
    for _ in range(80):  # physics that takes 25 ms for 20
        pace.stepped()
        clock.now += 0.025
    assert pace.real_time == pytest.approx(0.8)
    clock.now += 60.0
    pace.stepped()
    steps = 0
    while pace.wait() == 0.0:
        pace.stepped()
        steps += 1
    assert steps == pytest.approx(MOST_LAG / DT, abs=1.01)


def test_an_episode_is_that_of_an_evaluation(start):
    session = start(policy=FullLeft(), seed=7, parameters={"link.pole.mass": 0.2}, episodes=1)
    while not session.is_over:
        session.advance()
    (outcome,) = session.outcomes
    again = run_episode(session._env, session.contract, FullLeft(), seed=7, parameters={"link.pole.mass": 0.2})
    assert outcome == again
    assert (outcome.falls, outcome.success) == (1, False)


def test_what_is_asked_for_reaches_the_engine_in_mid_episode_and_stays(start):
    session = start()
    for _ in range(5):
        session.advance()
    session.ask(lambda: session.set_parameters({"link.pole.mass": 0.3, "actuator.latency": 0.03}))
    assert session.task.read_parameters()["link.pole.mass"] == pytest.approx(0.1)
    grant(session)
    assert session.snapshot().time == pytest.approx(5 * DT)
    for _ in range(2):
        now = session.snapshot()
        for found in (now.parameters, session.task.read_parameters()):
            assert found["link.pole.mass"] == pytest.approx(0.3)
            assert found["actuator.latency"] == pytest.approx(0.03)
        session.next_episode()
    session.set_nominal()
    session.reset()
    assert session.snapshot().parameters == pytest.approx(session.task.parameters.nominal)


def test_what_cannot_be_is_noted_and_changes_nothing(start):
    session = start("PandaReach")
    before = session.snapshot()
    for wish, words in (
        (lambda: session.set_parameters({"link.panda_hand.payload": 99.0}), "is outside [0, 3] kg"),
        (lambda: session.set_parameters({"link.panda_hand.payload": math.nan}), "is outside [0, 3] kg"),
        (lambda: session.set_parameters({"no.such": 1.0}), "no parameter 'no.such'"),
        (lambda: session.set_goal({"tool_position": [9.0, 0.0, 0.0]}), "goal tool_position must be from"),
        (lambda: session.push(1.0, 0.0), "a robot with a fixed base cannot be pushed"),
        (session.draw, "there is no preset"),
        (lambda: session.set_speed(0.0), "speed must be from 0.05 to 4.0, got 0.0"),
    ):
        session.ask(wish)
        grant(session)
        now = session.snapshot()
        assert words in now.note
        assert replace(now, note="") == before
    session.ask(session.advance)
    grant(session)
    assert session.snapshot().note == ""


def test_a_chosen_goal_outlives_resets_until_another_is_drawn(start):
    session = start("PandaReach")
    drawn = list(session.snapshot().goal["tool_position"])
    session.set_goal({"tool_position": [0.4, 0.1, 0.3]})
    session.next_episode()
    assert list(session.snapshot().goal["tool_position"]) == [0.4, 0.1, 0.3]
    assert list(session.snapshot().marker[0]) == [0.4, 0.1, 0.3]
    session.draw_goal()
    found = list(session.snapshot().goal["tool_position"])
    assert found not in ([0.4, 0.1, 0.3], drawn)
    session.reset()
    assert list(session.snapshot().goal["tool_position"]) == found


def test_a_robot_is_drawn_from_the_preset(start):
    env = build.make_env("simtoreal/CartPoleSwingUp-v0")
    randomizer = build.make_randomizer("CartPoleSwingUp", env, "CartPoleSwingUp")
    env.close()
    session = start(randomizer=randomizer, seed=3, parameters=randomizer.draw(3, 0, 0))
    seen = []
    for episode in range(3):
        expected = session.task.parameters.nominal | randomizer.draw(3, 0, episode)
        found = session.snapshot().parameters
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-9)
        seen.append(tuple(found.values()))
        session.draw()
    assert len(set(seen)) == 3


def test_a_fall_is_left_lying_and_followed_by_the_next_seed(start):
    clock = Clock()
    session = start(policy=FullLeft(), seed=5, clock=clock)
    while not session.outcomes:
        session.advance()
    fallen = session.snapshot()
    assert fallen.falls == 1
    assert fallen.note == f"failed after {fallen.time:.2f} s"
    assert abs(fallen.poses["cart"].position[0]) > 2.0
    assert session._pace.wait() == pytest.approx(LINGER)
    session.advance()
    now = session.snapshot()
    assert (now.seed, now.time, now.episode, now.falls) == (6, 0.0, 2, 1)
    assert abs(now.poses["cart"].position[0]) < 0.11


@pytest.mark.parametrize("broken", [math.nan, 1e6])
def test_broken_physics_is_told_and_the_next_episode_is_sound(broken, start):
    session = start(parameters={"link.pole.mass": 0.2})
    q, (_, spin) = session.task.world.state()
    session.task.world.reset(q, [broken, spin])
    session.advance()
    assert session.snapshot().faults == 1
    assert "physics broke after" in session.snapshot().note
    session.advance()
    for _ in range(10):
        session.advance()
    now = session.snapshot()
    assert (now.faults, now.time) == (1, pytest.approx(10 * DT))
    assert all(np.isfinite(pose.position).all() for pose in now.poses.values())
    assert now.parameters["link.pole.mass"] == pytest.approx(0.2)


def test_without_a_time_limit_an_episode_goes_on_and_its_judgement_ends(start):
    session = start("PandaReach")
    for _ in range(50):
        session.advance()
    at_limit = session.snapshot()
    for _ in range(30):
        session.advance()
    now = session.snapshot()
    assert (now.time, now.limit, now.episode) == (pytest.approx(4.0), 2.5, 1)
    assert (now.total, now.success, now.violations) == (at_limit.total, at_limit.success, at_limit.violations)
    session.set_time_limit(True)
    session.advance()
    session.advance()
    assert session.snapshot().episode == 2
    assert session.outcomes[0].length == 50


def test_it_runs_in_real_time_and_other_threads_are_heard(start):
    session = start("PandaReach", episodes=2, speed=4.0)
    shown, heard = [], threading.Event()

    def hinder():
        session.ask(lambda: session.set_parameters({"actuator.strength": 0.8}))
        session.ask(heard.set)

    thread = threading.Timer(0.3, hinder)
    thread.start()
    begun = time.monotonic()
    session.run(shown.append)
    took = time.monotonic() - begun
    thread.join()
    assert heard.is_set()
    assert took >= 2 * 2.5 / 4.0 - 0.05 - MOST_LAG
    assert [outcome.length for outcome in session.outcomes] == [50, 50]
    strengths = [now.parameters["actuator.strength"] for now in shown]
    assert strengths[0] == 1.0
    assert strengths[-1] == 0.8
    assert len(shown) <= 31 * took + 1
    assert shown[-1].time > shown[0].time


def test_a_pause_stops_the_clock_and_single_steps_go_on(start):
    session = start()
    session.step()
    session.step()
    assert (session.paused, session.snapshot().time) == (True, pytest.approx(2 * DT))
    session.pause(False)
    assert not session.snapshot().paused


def test_a_push_moves_the_quadruped_the_way_it_is_asked(start):
    session = start("A1Walk")
    session.advance()
    before = session.task.world.state()[2]
    session.push(1.0, 90.0)
    change = np.subtract(session.task.world.state()[2][7:10], before[7:10])
    assert change == pytest.approx([0.0, 1.0, 0.0], abs=1e-6)


def test_a_speed_that_cannot_be_is_refused(start):
    with pytest.raises(ConfigError, match="speed must be from"):
        start(speed=100.0)


@pytest.mark.parametrize("task", build.task_ids())
def test_the_page_of_every_task_has_a_slider_for_each_goal_and_parameter(task, start):
    session = start(task)
    viewer = Viewer(session, task, "127.0.0.1", 0)
    try:
        sizes = {name: len(low) for name, (low, _) in session.task.goals.items()}
        assert {*viewer._goal_knobs} == {(name, i) for name, size in sizes.items() for i in range(size)}
        assert {*viewer._knobs} == {*session.task.parameters}
    finally:
        viewer.close()
