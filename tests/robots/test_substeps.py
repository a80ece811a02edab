"""The compiled loop over physics steps is the one in Python, bit for bit."""

import gc
import math
import sys

import gymnasium as gym
import numpy as np
import pytest

from simtoreal.robots import pd_loop, substeps
from simtoreal.robots import task as task_module
from simtoreal.robots.actuators import Gains
from simtoreal.robots.world import EngineCalls

TASKS = ("A1Walk", "AliengoWalk", "PandaReach", "KukaReach", "XArmReach", "PandaPush")


def played(task, parameters, compiled, monkeypatch):
    """Observations, rewards and joint torques of an episode under random actions."""
    taken = []

    def advance(*args, **options):
        taken.append(compiled)
        return substeps.advance(*args, **options, compiled=compiled)

    monkeypatch.setattr(task_module, "advance", advance)
    env = gym.make(f"simtoreal/{task}-v0", privileged=True).unwrapped
    rng = np.random.default_rng(3)
    observation, _ = env.reset(seed=3, options={"parameters": parameters(env.parameters)})
    found = [(observation["policy"].tobytes(), observation["privileged"].tobytes())]
    for _ in range(25):
        observation, reward, terminated, truncated, _ = env.step(rng.uniform(-1, 1, env.action_space.shape))
        found.append((observation["policy"].tobytes(), observation["privileged"].tobytes(), reward, *env.world.torque))
        if terminated or truncated:
            break
    env.close()
    assert len(taken) == len(found) - 1
    return found


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("latency", "lossy"), [(0.0, False), (0.013, False), (0.013, True), (0.0, True)])
def test_both_loops_give_the_same_bits(task, latency, lossy, monkeypatch):
    def parameters(known):
        late = {name: latency for name in known if name.endswith(".latency")}
        weak = {"actuator.strength": 0.8, "actuator.torque_limit": 0.4, "actuator.kp": 1.3} if latency else {}
        weak |= {"actuator.backlash": 0.02, "actuator.dead_zone": 0.05, "actuator.jitter": 0.01} if lossy else {}
        biased = {name: 0.01 for name in known if name.startswith("sensor.joint_position.bias") and latency}
        return late | weak | biased

    assert played(task, parameters, True, monkeypatch) == played(task, parameters, False, monkeypatch)


class Joint:
    """A unit mass on a frictionless track as an engine: what the loop asks of it, it answers by hand."""

    def __init__(self, velocity=0.0):
        self.q, self.v, self.force, self.dt = 0.0, velocity, 0.0, 0.5

    def write(self, forces):
        (self.force,) = forces

    def step(self):
        self.v += self.dt * self.force
        self.q += self.dt * self.v

    def calls(self, **others):
        asked = {"read": lambda: ((self.q, self.v, (), 0.0),), "write": self.write, "step": self.step}
        return EngineCalls(**{**asked, "base_pose": None, "base_velocity": None, "gravity_torque": None, **others})


def run(calls, *, kp=4.0, kd=0.0, bias=0.0, limit=100.0, bound=1e9, targets=((1.0,),), gravity=False, **others):
    gains = Gains([kp], [kd], [bias], [limit], [0.0], [0.0], 0.5)
    targets = others.pop("given", [list(target) for target in targets])
    kept = others.pop("kept", [(True, True)] * len(targets))
    state = others.pop("state", ([0.0], [0.0]))
    return pd_loop.run(calls, gains, state, targets, kept, ([], [], []), bound, gravity)


def test_a_hand_worked_step():
    seen, last, torque = run(Joint().calls(), kd=3.0, bias=0.25, state=([0.5], [2.0]))
    assert torque == [4.0 * (1.0 - 0.25) - 4.0 * 0.5 - 3.0 * 2.0] == [-5.0]
    assert seen == [last] == [([-1.25], [-2.5])]


def test_what_holds_the_robot_is_asked_for_where_it_is_and_scaled():
    asked = []

    def gravity(position):
        asked.append(list(position))
        return (7.0,)

    assert run(Joint().calls(gravity_torque=gravity), gravity=True, state=([0.5], [0.0]))[2] == [2.0 + 0.5 * 7.0]
    assert asked == [[0.5]]


def test_torque_is_clipped_and_a_speed_beyond_the_bound_ends_it():
    assert run(Joint().calls(), limit=1.5)[2] == [1.5]
    assert run(Joint().calls(), limit=1.5, targets=((-1.0,),))[2] == [-1.5]
    seen, last, torque = run(Joint().calls(), targets=((1.0,), (9.0,), (1.0,)), bound=3.0)
    assert (len(seen), last[1]) == (1, [2.0 + 0.5 * 32.0])
    assert torque == [4.0 * 9.0 - 4.0 * 1.0]


def test_a_number_that_is_not_finite_goes_through():
    _, last, torque = run(Joint().calls(), state=([math.nan], [0.0]))
    assert math.isnan(torque[0])
    assert math.isnan(last[0][0])


def test_what_nobody_looks_at_is_not_kept():
    pose, velocity = lambda: ((1.0, 2.0, 3.0), (0.0, 0.0, 0.0, 1.0)), lambda: ((4.0, 5.0, 6.0), (7.0, 8.0, 9.0))
    calls = Joint().calls(base_pose=pose, base_velocity=velocity)
    kept = [(False, False), (True, False), (True, True)]
    seen, last, _ = run(calls, kp=0.0, targets=((0.0,),) * 3, kept=kept)
    whole = [1.0, 2.0, 3.0, 0.0, 0.0, 0.0, 1.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
    assert seen == [([], [], []), ([0.0], [0.0], []), ([0.0], [0.0], whole)]
    assert seen[-1] is last


class Broken(Exception):
    pass


def fail(*_, **__):
    raise Broken


@pytest.mark.parametrize("call", ["read", "write", "step", "base_pose", "base_velocity", "gravity_torque"])
def test_an_engines_error_comes_through_and_nothing_is_lost(call):
    pose = {"base_pose": lambda: ((1.0,) * 3, (0.0,) * 4), "base_velocity": lambda: ((0.0,) * 3, (0.0,) * 3)}
    calls = Joint().calls(**{**pose, "gravity_torque": lambda _: [0.0], call: fail})
    for _ in range(3):
        with pytest.raises(Broken):
            run(calls, gravity=True)
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(500):
        with pytest.raises(Broken):
            run(calls, gravity=True)
    gc.collect()
    assert sys.getallocatedblocks() - before < 100


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"given": []}, ValueError),
        ({"given": [[1.0, 2.0]]}, ValueError),
        ({"given": [["x"]]}, TypeError),
        ({"kept": []}, ValueError),
        ({"kept": [True]}, TypeError),
        ({"state": ([0.0],)}, ValueError),
        ({"state": ([0.0, 1.0], [0.0])}, ValueError),
        ({"state": [[0.0], [0.0]]}, TypeError),
    ],
)
def test_what_does_not_fit_is_refused(change, error):
    with pytest.raises(error):
        run(Joint().calls(), **change)


@pytest.mark.parametrize("states", [(), ((0.0, 1.0),) * 2, (0.5,), ((0.0,),), 3.0])
def test_joint_states_that_do_not_fit_are_refused(states):
    with pytest.raises((ValueError, TypeError)):
        run(Joint().calls(read=lambda: states))


def test_it_leaks_nothing():
    joint = Joint()
    pose = {"base_pose": lambda: ((1.0,) * 3, (0.0,) * 4), "base_velocity": lambda: ((0.0,) * 3, (0.0,) * 3)}
    calls = joint.calls(**pose, gravity_torque=lambda _: [0.0])
    for _ in range(10):
        run(calls, gravity=True, kp=0.0, targets=((1.0,),) * 5)
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(2000):
        run(calls, gravity=True, kp=0.0, targets=((1.0,),) * 5)
    gc.collect()
    assert sys.getallocatedblocks() - before < 100
