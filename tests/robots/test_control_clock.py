"""A control loop that runs at another rate, and one that wakes late."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simtoreal.robots.actuators import CommandDelay
from simtoreal.robots.control_clock import ControlClock
from simtoreal.robots.engines import ENGINES
from simtoreal.robots.tasks.cartpole import CartPoleSwingUp
from simtoreal.robots.tasks.walk import A1Walk

G = 9.81


def steps(period, jitter=0.0, count=200, seed=3):
    """Physics steps of each control step, of nominally 10 of 2 ms."""
    clock = ControlClock(0.002, 10)
    clock.start(seed)
    clock.apply({"control.period": period, "control.jitter": jitter})
    return [clock.steps(k) for k in range(count)]


def test_a_nominal_loop_takes_as_many_steps_each_time():
    assert steps(0.02) == [10] * 200


def test_another_period_holds_in_the_mean_to_a_physics_step():
    found = steps(0.0213)
    assert set(found) == {10, 11}
    ends = np.cumsum(found)
    assert np.abs(ends - np.arange(1, 201) * 0.0213 / 0.002).max() <= 0.5 + 1e-9
    assert steps(0.01) == [5] * 200
    assert steps(0.04) == [20] * 200


def test_jitter_is_late_by_up_to_so_much_and_drifts_nowhere():
    found = steps(0.02, 0.008, count=2000)
    late = np.cumsum(found) - 10 * np.arange(1, 2001)
    assert (late.min(), late.max()) == (0, 4)
    assert np.bincount(late, minlength=5)[1:4] == pytest.approx([500] * 3, abs=90)  # u in [0, 4) to the nearest
    assert steps(0.02, 0.008) == steps(0.02, 0.008)
    assert steps(0.02, 0.008, seed=4) != steps(0.02, 0.008)


def test_it_can_change_within_an_episode():
    clock = ControlClock(0.002, 10)
    clock.start(0)
    found = []
    for k, (period, jitter) in enumerate([(0.02, 0.0), (0.03, 0.0), (0.03, 0.005), (0.02, 0.0), (0.02, 0.0)]):
        clock.apply({"control.period": period, "control.jitter": jitter})
        found.append(clock.steps(k))
    assert found[:2] == [10, 15]
    assert 10 + 15 <= sum(found[:3]) <= 10 + 15 + 18
    assert sum(found) == 60, "what was late is caught up with"


@given(
    counts=st.lists(st.integers(1, 26), min_size=1, max_size=12),
    latency=st.floats(0.0, 0.1),
)
def test_a_command_acts_so_long_after_it_was_given_however_uneven(counts, latency):
    delay = CommandDelay(0.002, 10)
    delay.fill([-1.0])
    found = [command for k, n in enumerate(counts) for (command,) in delay.schedule([float(k)], latency, steps=n)]
    begins = np.array([0, *np.cumsum(counts)[:-1]]) * 0.002 + latency

    def impulse(a, b):
        """Of commands in force from a to b, by exact areas."""
        ends = [*begins[1:], np.inf]
        area = -max(min(b, begins[0]) - a, 0.0)
        return area + sum(
            k * max(min(b, e) - max(a, s), 0.0) for k, (s, e) in enumerate(zip(begins, ends, strict=True))
        )

    expected = [impulse(0.002 * i, 0.002 * (i + 1)) / 0.002 for i in range(sum(counts))]
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("period", "jitter"), [(0.02, 0.0), (0.033, 0.0), (0.0117, 0.0), (0.025, 0.006)])
def test_a_falling_robot_tells_how_long_the_control_steps_were(engine, period, jitter):
    task = A1Walk(engine=engine)
    task.reset(seed=1, options={"parameters": {"control.period": period, "control.jitter": jitter}})
    position, _, base = task.world.state()
    task.world.reset(position, [0.0] * len(position), (*base[:2], 50.0, *base[3:7], *[0.0] * 6))
    task._state = task.world.state()
    for _ in range(20):
        task.step(np.zeros(12, np.float32))
    fallen = 50.0 - task.world.state()[2][2]
    task.close()
    seconds = np.sqrt(2.0 * fallen / G)
    assert seconds == pytest.approx(20 * period, abs=jitter + 0.004), "its legs swing a little about its centre of mass"


def test_nothing_of_it_stays_after_a_reset():
    task, other = CartPoleSwingUp(), CartPoleSwingUp()
    action = np.full(1, 0.7, np.float32)
    task.reset(
        seed=3, options={"parameters": {"control.period": 0.031, "control.jitter": 0.004, "actuator.latency": 0.03}}
    )
    for _ in range(30):
        task.step(action)
    _, info = task.reset(seed=5)
    assert (info["parameters"]["control.period"], info["parameters"]["control.jitter"]) == (0.02, 0.0)
    other.reset(seed=5)
    for _ in range(50):
        assert task.step(action)[0].tolist() == other.step(action)[0].tolist()
    task.close()
    other.close()


def test_sensors_are_as_late_as_they_say_whatever_the_loop_does():
    task = CartPoleSwingUp()
    task.reset(
        seed=3,
        options={
            "parameters": {"control.period": 0.0273, "control.jitter": 0.009, "sensor.cart_position.latency": 0.05}
        },
    )
    dt, truth = task.physics_dt, [task.world.state()[0][0]]
    step = task.world.step

    def noted(*args, **options):
        state = step(*args, **options)
        truth.append(state[0][0])
        return state

    task.world.calls, task.world.step = None, noted
    for _ in range(40):
        task.step(np.ones(1, np.float32))
        back = 0.05 / dt
        now = len(truth) - 1
        expected = np.interp(now - back, np.arange(len(truth)), truth)
        assert task.readings["cart_position"][0] == pytest.approx(expected, abs=1e-9)
    task.close()
